"""POST /v1/chat/completions"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ...lang.types import Delta, TokenLogprob, Usage
from ..limits import NUMBERS
from . import wire
from .answers import Answer, Question, ask_all, collect
from .body import JsonObject, read_object
from .errors import invalid
from .fields import Check, Field, Values, boolean, number, object_of
from .prompts import check_model, encode_chat, fit, messages
from .sampling import UNSUPPORTED, openai_params, openai_table
from .service import Engine, Service, Tokenizer
from .stream import send


@functools.lru_cache(maxsize=4)
def request_body(vocab_size: int) -> Field[dict[str, Any]]:
    table: dict[str, Check] = {
        **openai_table(vocab_size),
        "messages": messages,
        "max_completion_tokens": number(NUMBERS["max_completion_tokens"]),
        "logprobs": boolean,
        "top_logprobs": number(NUMBERS["top_logprobs"]),
        "continue_final_message": boolean,
        "add_generation_prompt": boolean,
    }
    return object_of(table, required=("model", "messages"), unsupported=UNSUPPORTED)


async def answer(service: Service, request: web.Request) -> web.StreamResponse:
    settings = service.settings
    with service.admitted() as engine:
        found = await read_object(request, limit_bytes=settings.body_limit_bytes, timeout_s=settings.body_timeout_s)
        check_model(found, engine)
        values = request_body(engine.vocab_size)("", found)
        question = await _question(engine, values, settings.request_timeout_s)
        head = _Head(wire.new_id("chatcmpl"), int(time.time()), engine.model_name)
        if values.get("stream", False):
            events = _Events(head, engine.tokenizer, question, values.get("stream_options", False))
            return await send(service, request, ask_all(engine, [question]), events)
        (reply,) = await collect(engine, [question])
        choices = [
            _choice(index, done, question.params.logprobs, engine.tokenizer) for index, done in enumerate(reply.answers)
        ]
        whole = {**head.json("chat.completion"), "choices": choices, "usage": wire.usage([reply.usage])}
        return web.Response(body=wire.dumps(whole), content_type="application/json")


async def _question(engine: Engine, values: Values, timeout_s: float) -> Question:
    prompt = await encode_chat(engine, values["messages"], continue_final=_continues(values))
    name, wanted = _max_tokens(values)
    params = openai_params(
        values, max_tokens=fit(engine, prompt, wanted, None, name), logprobs=_wanted_logprobs(values)
    )
    return Question(
        prompt=prompt,
        params=params,
        salt=values.get("cache_salt", ""),
        priority=values.get("priority", 0),
        timeout_s=timeout_s,
    )


def _continues(values: Values) -> bool:
    """Whether the last message is to be continued. A conversation without a generation prompt is of use only then."""
    continues = values.get("continue_final_message", False)
    opens = values.get("add_generation_prompt", not continues)
    if continues == opens:
        raise invalid(
            "either the last message is continued (continue_final_message) or a new one begins (add_generation_prompt)",
            "add_generation_prompt",
        )
    return continues


def _max_tokens(values: Values) -> tuple[str, int | None]:
    """The limit and the field that gave it. Both names are the same limit; `max_tokens` is the older."""
    old, new = values.get("max_tokens", None), values.get("max_completion_tokens", None)
    if old is not None and new is not None and old != new:
        raise invalid(f"max_tokens ({old}) and max_completion_tokens ({new}) differ; give one", "max_tokens")
    return ("max_tokens", old) if new is None else ("max_completion_tokens", new)


def _wanted_logprobs(values: Values) -> int | None:
    wanted = values.get("logprobs", False)
    if "top_logprobs" in values and not wanted:
        raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
    return values.get("top_logprobs", 0) if wanted else None


@dataclass(frozen=True, slots=True)
class _Head:
    id: str
    created: int
    model: str

    def json(self, kind: str) -> JsonObject:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _choice(index: int, done: Answer, wanted: int | None, tokenizer: Tokenizer) -> JsonObject:
    return {
        "index": index,
        "message": {"role": "assistant", "content": done.text, "refusal": None},
        "logprobs": _logprobs(done.logprobs, wanted, tokenizer),
        "finish_reason": done.finish,
        "matched_stop": done.matched,
    }


def _logprobs(entries: list[TokenLogprob] | None, wanted: int | None, tokenizer: Tokenizer) -> JsonObject | None:
    return None if wanted is None or entries is None else wire.chat_logprobs(entries, wanted, tokenizer)


class _Events:
    """Chunks of one streamed answer. What is the same in all of them is encoded once."""

    def __init__(self, head: _Head, tokenizer: Tokenizer, question: Question, with_usage: bool) -> None:
        self._frame = head.json("chat.completion.chunk")
        self._tokenizer = tokenizer
        self._answers = question.params.n
        self._wanted = question.params.logprobs
        self._usage = Usage()
        self._with_usage = with_usage
        self._heads = [
            f'data: {wire.encode(self._frame)[:-1]},"choices":[{{"index":{index},"delta":{{"content":'
            for index in range(self._answers)
        ]
        self._tail = '},"logprobs":null,"finish_reason":null}]' + (',"usage":null' if with_usage else "") + "}\n\n"

    def start(self) -> bytes:
        return b"".join(
            self._chunk({"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
            for index in range(self._answers)
        )

    def delta(self, place: int, delta: Delta) -> bytes:
        if delta.usage is not None:
            self._usage = delta.usage
        if delta.finish is None and delta.logprobs is None:
            text = delta.text
            return f"{self._heads[delta.index]}{wire.encode(text)}{self._tail}".encode() if text else b""
        choice: JsonObject = {
            "index": delta.index,
            "delta": {"content": delta.text} if delta.text or delta.logprobs else {},
            "logprobs": _logprobs(delta.logprobs, self._wanted, self._tokenizer),
            "finish_reason": delta.finish,
        }
        if delta.finish is not None:
            choice["matched_stop"] = delta.matched
        return self._chunk(choice)

    def end(self) -> bytes:
        if not self._with_usage:
            return b""
        return b"data: " + wire.dumps({**self._frame, "choices": [], "usage": wire.usage([self._usage])}) + b"\n\n"

    def _chunk(self, choice: JsonObject) -> bytes:
        chunk = {**self._frame, "choices": [choice]}
        if self._with_usage:
            chunk["usage"] = None
        return b"data: " + wire.dumps(chunk) + b"\n\n"
