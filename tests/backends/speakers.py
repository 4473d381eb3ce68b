"""The remote backends with, for each, a server's good answer as events: the same fault scripts run over all of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stolon.backends.endpoint import RuntimeEndpoint
from stolon.backends.exchange import Limits
from stolon.backends.openai import OpenAI
from stolon.lang.backend import Backend, GenerateRequest
from stolon.lang.prompt import EMPTY, Prompt, Role, RoleClose, RoleOpen, Text
from stolon.lang.types import SamplingParams
from tests.backends.upstream import event

WORDS = ("Hel", "lo", " wö😀", "lo", "lo")
TEXT = "".join(WORDS)


def chat_prompt(*turns: tuple[Role, str]) -> Prompt:
    """The turns, and an assistant turn that waits for its answer."""
    prompt = EMPTY
    for role, text in turns:
        prompt = prompt.append(RoleOpen(role)).append(Text(text)).append(RoleClose())
    return prompt.append(RoleOpen("assistant"))


def chat_event(text: str | None = None, finish: str | None = None, index: int = 0) -> bytes:
    return event({"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]})


def usage_event(prompt: int, completion: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


def chat_events(words: Sequence[str] = WORDS) -> list[bytes]:
    """As OpenAI sends them: the role first, the usage last."""
    role = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]})
    said = [chat_event(word) for word in words]
    return [role, *said, chat_event(finish="stop"), usage_event(7, len(words)), event("[DONE]")]


def native_event(text: str, ids: list[int], total: int, finish: dict[str, Any] | None = None, **more: Any) -> bytes:
    meta = {"id": "1", "finish_reason": finish, "prompt_tokens": 7, "completion_tokens": total, "cached_tokens": 2}
    return event({"text": text, "output_ids": ids, "meta_info": meta, **more})


def native_events(words: Sequence[str] = WORDS) -> list[bytes]:
    """As stolon's server sends them when asked for increments; the last token comes with the finish reason."""
    last = len(words)
    said = [native_event(word, [10 + n], n) for n, word in enumerate(words[:-1], 1)]
    return [*said, native_event(words[-1], [10 + last], last, {"type": "stop", "matched": 2}), event("[DONE]")]


def cumulative_events(words: Sequence[str] = WORDS) -> list[bytes]:
    """As SGLang's server sends them."""
    ids = list(range(11, 11 + len(words)))
    said = [native_event("".join(words[:n]), ids[:n], n) for n in range(1, len(words))]
    end = native_event("".join(words), ids, len(words), {"type": "length", "length": len(words)})
    return [*said, end, event("[DONE]")]


class FakeClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sleeps: list[float] = []

    def time(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Speaker:
    """kind: what `/v1/models` says the server is"""

    name: str
    kind: str
    make: Callable[..., Backend]
    events: Callable[..., list[bytes]]
    prompt: Prompt = field(default_factory=lambda: chat_prompt(("user", "Greet.")))

    def backend(self, origin: str, **options: Any) -> Backend:
        return self.make(origin, **{"clock": FakeClock(), **options})

    def request(self, **params: Any) -> GenerateRequest:
        return GenerateRequest(prompt=self.prompt, params=SamplingParams(**params))

    @property
    def stream(self) -> bytes:
        return b"".join(self.events())

    @property
    def first_text_end(self) -> int:
        """How many bytes of the stream bring the first text."""
        return self.stream.index(b"\n\n", self.stream.index(WORDS[0].encode())) + 2

    @property
    def whole_end(self) -> int:
        """How many bytes of the stream bring the finish reason, and with it the certainty that all text is there."""
        finish = re.search(rb'"finish_reason": ["{]', self.stream)
        assert finish is not None
        return self.stream.index(b"\n\n", finish.end()) + 2


def _openai(origin: str, **options: Any) -> Backend:
    return OpenAI("gpt-3.5-turbo", base_url=origin + "/v1", api_key="secret", **options)


def _endpoint(origin: str, **options: Any) -> Backend:
    return RuntimeEndpoint(origin, "secret", **options)


SPEAKERS = (
    Speaker("openai", "openai", _openai, chat_events),
    Speaker("stolon", "stolon", _endpoint, native_events),
    Speaker("sglang", "sglang", _endpoint, cumulative_events, EMPTY.append(Text("Greet."))),
    Speaker("vllm", "vllm", _endpoint, chat_events),
)


@dataclass
class Outcome:
    """What a caller got: the text, whether it was told to be whole, or the error."""

    text: str
    finished: bool
    error: Exception | None


async def outcome_of(backend: Backend, request: GenerateRequest) -> Outcome:
    parts: list[str] = []
    finished = False
    try:
        async for delta in backend.stream(request):
            parts.append(delta.text)
            finished = finished or delta.finish is not None
    except Exception as error:
        return Outcome("".join(parts), finished, error)
    return Outcome("".join(parts), finished, None)


SHORT = Limits(connect_s=5.0, first_byte_s=0.15, between_bytes_s=0.15, total_s=60.0)
