"""Our types as the JSON that clients read."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

from ...lang.types import TokenLogprob, Usage
from . import errors
from .body import JsonObject
from .errors import HttpError
from .fields import finite
from .service import Tokenizer

# one encoder for all: making it costs more than encoding a delta
encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dumps(value: object) -> bytes:
    return encode(value).encode()


DONE = b"data: [DONE]\n\n"


def event(value: object, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {encode(value)}\n\n".encode()


def failure(error: HttpError) -> bytes:
    """The last event of a stream that cannot go on."""
    return b"data: " + errors.body(error) + b"\n\n"


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(16)}"


def usage(counts: Sequence[Usage], thinking: int | None = None) -> JsonObject:
    """Of one request, over all its prompts.

    thinking: tokens of thoughts, where they are told apart
    """
    total = counts[0] if len(counts) == 1 else sum(counts, Usage())
    details: JsonObject = {} if thinking is None else {"completion_tokens_details": {"reasoning_tokens": thinking}}
    return {
        **details,
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "total_tokens": total.prompt_tokens + total.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
    }


def chat_logprobs(entries: Sequence[TokenLogprob], wanted: int, tokenizer: Tokenizer) -> JsonObject:
    return {
        "content": [
            {
                **_chat_token(entry.token, entry.logprob, tokenizer),
                "top_logprobs": [_chat_token(token, value, tokenizer) for token, value in entry.top[:wanted]],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def _chat_token(token: int, logprob: float, tokenizer: Tokenizer) -> JsonObject:
    raw = tokenizer.token_bytes(token)
    return {"token": raw.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(raw)}


def completion_logprobs(
    entries: Sequence[TokenLogprob | None], first: int, wanted: int, offset: int, tokenizer: Tokenizer
) -> tuple[JsonObject, int]:
    """The older form: parallel lists. Also returns where the next entry's text starts.

    entries: None only for the first token of an echoed prompt, whose id is `first`
    offset: characters of the text before the first entry; control tokens are no part of the text
    """
    texts: list[str] = []
    offsets: list[int] = []
    for entry in entries:
        token = first if entry is None else entry.token
        text = tokenizer.token_text(token)
        texts.append(text)
        offsets.append(offset)
        offset += 0 if token in tokenizer.special_ids else len(text)
    found: JsonObject = {
        "tokens": texts,
        "token_logprobs": [None if entry is None else finite(entry.logprob) for entry in entries],
        "top_logprobs": [None if entry is None else _top(entry, wanted, tokenizer) for entry in entries],
        "text_offset": offsets,
    }
    return found, offset


def _top(entry: TokenLogprob, wanted: int, tokenizer: Tokenizer) -> dict[str, float]:
    """By text. Two tokens may read the same; the likelier one stands."""
    found: dict[str, float] = {}
    for token, value in entry.top[:wanted]:
        found.setdefault(tokenizer.token_text(token), finite(value))
    found.setdefault(tokenizer.token_text(entry.token), finite(entry.logprob))
    return found
