"""An engine under observation: what is measured of each prompt's answers, and what the request log says of them."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from ...lang.types import Delta, SamplingParams, Usage
from .settings import ServerConfig

if TYPE_CHECKING:
    from .service import Engine

REQUESTS = logging.getLogger("stolon.requests")
SHORT = 2048  # characters of a text at level 2

# of the HTTP request that is being answered
request_id: ContextVar[str] = ContextVar("request_id", default="")
_DEFAULTS = SamplingParams()


class Measures(Protocol):
    def first_token(self, seconds: float) -> None: ...
    def between_tokens(self, seconds: float) -> None: ...
    def finished(self, reason: str) -> None: ...
    def ended(self, seconds: float, usage: Usage) -> None: ...


def watched(engine: Engine, meters: Measures | None, settings: ServerConfig) -> Engine:
    """`engine`, or one in front of it that measures and logs, if anybody wants that."""
    level = settings.log_requests_level if settings.log_requests else None
    if meters is None and level is None:
        return engine
    return cast("Engine", _Watched(engine, meters, level))


class _Watched:
    """Everything but `generate` is the engine's own. What each request asks for and never changes is at hand."""

    def __init__(self, engine: Engine, meters: Measures | None, level: int | None) -> None:
        self.tokenizer, self.chat = engine.tokenizer, engine.chat
        self.model_name, self.vocab_size, self.context_length = (
            engine.model_name,
            engine.vocab_size,
            engine.context_length,
        )
        self._engine = engine
        self._meters = meters
        self._level = level

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, **options: Any
    ) -> AsyncGenerator[Delta, None]:
        seen = _Seen(self._meters, keeps_text=(self._level or 0) >= 2)
        outcome = "abort"
        try:
            async with aclosing(self._engine.generate(prompt_ids, params, **options)) as deltas:
                async for delta in deltas:
                    seen.add(delta)
                    yield delta
            outcome = "done"
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            if self._meters is not None and outcome == "done":
                self._meters.ended(time.monotonic() - seen.began_s, seen.usage)
            if self._level is not None:
                REQUESTS.info("%s", _line(self._entry(seen, outcome, prompt_ids, params)))

    def _entry(self, seen: _Seen, outcome: str, prompt_ids: Sequence[int], params: SamplingParams) -> dict[str, Any]:
        now = time.monotonic()
        entry: dict[str, Any] = {
            "time": round(time.time(), 3),
            "request_id": request_id.get(),
            "outcome": outcome,
            "finish": seen.finishes,
            "ms": round((now - seen.began_s) * 1000, 1),
            "first_token_ms": None if seen.first_s is None else round((seen.first_s - seen.began_s) * 1000, 1),
            "prompt_tokens": len(prompt_ids),
            "cached_tokens": seen.usage.cached_tokens,
            "completion_tokens": seen.tokens,
        }
        if self._level and self._level >= 1:
            changed = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
            entry["sampling"] = {n: v for n, v in changed.items() if v != getattr(_DEFAULTS, n)}
        if self._level and self._level >= 2:
            most = SHORT if self._level == 2 else None
            text = self._engine.tokenizer.decode(prompt_ids, skip_special_tokens=False)
            entry["prompt"] = text[:most]
            entry["answers"] = ["".join(parts)[:most] for parts in seen.texts.values()]
        return entry


@dataclass(slots=True)
class _Seen:
    """What came of one prompt so far. texts: of each answer, where they are kept"""

    meters: Measures | None
    keeps_text: bool
    began_s: float = field(default_factory=time.monotonic)
    first_s: float | None = None
    last_s: dict[int, float] = field(default_factory=dict[int, float])
    tokens: int = 0
    usage: Usage = field(default_factory=Usage)
    finishes: list[str] = field(default_factory=list[str])
    texts: dict[int, list[str]] = field(default_factory=dict[int, list[str]])

    def add(self, delta: Delta) -> None:
        now = time.monotonic()
        if self.first_s is None:
            self.first_s = now
            if self.meters is not None:
                self.meters.first_token(now - self.began_s)
        elif self.meters is not None and delta.index in self.last_s:
            self.meters.between_tokens(now - self.last_s[delta.index])
        self.last_s[delta.index] = now
        self.tokens += len(delta.tokens)
        if self.keeps_text:
            self.texts.setdefault(delta.index, []).append(delta.text)
        if delta.finish is not None:
            self.finishes.append(delta.finish)
            if self.meters is not None:
                self.meters.finished(delta.finish)
        if delta.usage is not None:
            self.usage = delta.usage


def _line(entry: dict[str, Any]) -> str:
    """ASCII, so that what clients wrote cannot steer a terminal or start a line of its own."""
    return json.dumps(entry, default=str)
