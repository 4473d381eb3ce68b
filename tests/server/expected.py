"""Good requests, and what every error must look like."""

from __future__ import annotations

import json
import re
from typing import Any

import aiohttp

CHAT, TEXT, NATIVE, SCORE = "/v1/chat/completions", "/v1/completions", "/generate", "/score"
RESPONSES, MESSAGES, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"
LABELS, RERANK, TOKENIZE, DETOKENIZE, EMBED = "/v1/score", "/v1/rerank", "/tokenize", "/detokenize", "/v1/embeddings"
HELLO = [{"role": "user", "content": "hello"}]
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "fake", "messages": HELLO, "max_tokens": 4},
    TEXT: {"model": "fake", "prompt": "hello", "max_tokens": 4},
    NATIVE: {"text": "hello", "sampling_params": {"max_new_tokens": 4}},
    RESPONSES: {"model": "fake", "input": "hello", "max_output_tokens": 4},
    MESSAGES: {"model": "fake", "messages": HELLO, "max_tokens": 4},
    SCORE: {"text": "hello", "options": [" a", " b"]},
    LABELS: {"query": "hello", "items": [" a", " b"], "label_token_ids": [97, 98]},
    RERANK: {"query": "hello", "documents": ["a", "b"]},
    TOKENIZE: {"prompt": "hello"},
    DETOKENIZE: {"tokens": [104, 105]},
}

LEAKS = re.compile(r"0x[0-9a-f]{4}|Traceback|/home|/root|/usr|\.py\b|aiohttp|127\.0\.0\.1")


async def refused(reply: aiohttp.ClientResponse, status: int, code: str, param: str | None) -> str:
    """Check the shape of an error; returns its message."""
    raw = await reply.read()
    assert reply.status == status, raw
    assert reply.content_type == "application/json"
    assert reply.headers["X-Request-Id"]
    assert len(raw) <= 4096
    assert not LEAKS.search(raw.decode())
    error = json.loads(raw)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    kinds = {401: "authentication_error", 503: "overloaded_error"}
    assert error["type"] == kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return error["message"]
