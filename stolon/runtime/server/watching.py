"""Engines under observation: what is measured of each prompt's answers, and what the request log says of all work."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, cast

from ...lang.types import Delta, SamplingParams, Usage
from .settings import ServerConfig

if TYPE_CHECKING:
    from ..embed_loop import Vectors
    from ..packed import Tokens
    from .service import Embedder, Engine, Tokenizer

REQUESTS = logging.getLogger("stolon.requests")
SHORT = 2048  # characters of a text at level 2

# of the HTTP request that is being answered
request_id: ContextVar[str] = ContextVar("request_id", default="")
# it asked not to be in the log of requests
is_unlogged: ContextVar[bool] = ContextVar("is_unlogged", default=False)
_DEFAULTS = SamplingParams()


class Measures(Protocol):
    def first_token(self, seconds: float) -> None: ...
    def between_tokens(self, seconds: float) -> None: ...
    def finished(self, reason: str) -> None: ...
    def ended(self, seconds: float, usage: Usage) -> None: ...


def watched(engine: Engine, meters: Measures | None, settings: ServerConfig) -> Engine:
    """`engine`, or one in front of it that measures and logs, if anybody wants that."""
    level = settings.request_log
    if meters is None and level is None:
        return engine
    return cast("Engine", _Watched(engine, meters, level))


def watched_embedder(embedder: Embedder, settings: ServerConfig) -> Embedder:
    """`embedder`, or one in front of it that logs."""
    level = settings.request_log
    return embedder if level is None else cast("Embedder", _WatchedEmbedder(embedder, level))


@contextmanager
def noted(level: int | None, kind: str, tokenizer: Tokenizer) -> Generator[list[Sequence[int]]]:
    """A line of the request log about the work of the block, which is any but to write text.

    level: None: there is no such log. The block adds the texts that it read, as tokens.
    """
    texts: list[Sequence[int]] = []
    if level is None:
        yield texts
        return
    began_s, outcome = time.monotonic(), "abort"
    try:
        yield texts
        outcome = "done"
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        entry: dict[str, Any] = {
            "time": round(time.time(), 3),
            "request_id": request_id.get(),
            "kind": kind,
            "outcome": outcome,
            "ms": round((time.monotonic() - began_s) * 1000, 1),
            "texts": len(texts),
            "prompt_tokens": sum(map(len, texts)),
        }
        if level >= 2:
            entry["prompts"] = [_shown(tokenizer, ids, level) for ids in texts]
        REQUESTS.info("%s", _line(entry))


def _shown(tokenizer: Tokenizer, ids: Sequence[int], level: int) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)[: SHORT if level == 2 else None]


class _Watched:
    """All but `generate` and `score` is the engine's own. What each request asks for and never changes is at hand."""

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

    async def score(self, token_lists: Sequence[Sequence[int]], start: int, **options: Any) -> list[tuple[float, ...]]:
        with noted(self._level, "score", self.tokenizer) as texts:
            texts += token_lists
            return await self._engine.score(token_lists, start, **options)

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
            if self._level is not None and not is_unlogged.get():
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
            entry["prompt"] = _shown(self.tokenizer, prompt_ids, self._level)
            entry["answers"] = ["".join(parts)[:most] for parts in seen.texts.values()]
        return entry


class _WatchedEmbedder:
    """All but `embed` is the engine's own."""

    def __init__(self, embedder: Embedder, level: int) -> None:
        self._embedder = embedder
        self._level = level

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    async def embed(self, texts: Sequence[Tokens], **options: Any) -> Vectors:
        with noted(self._level, "embed", self._embedder.tokenizer) as read:
            read += [text.ids for text in texts]
            return await self._embedder.embed(texts, **options)


class _Seen:
    """What came of one prompt so far. texts: of each answer, where they are kept"""

    def __init__(self, meters: Measures | None, *, keeps_text: bool) -> None:
        self.meters = meters
        self.keeps_text = keeps_text
        self.began_s = time.monotonic()
        self.first_s: float | None = None
        self.last_s: dict[int, float] = {}  # of each answer
        self.tokens = 0
        self.usage = Usage()
        self.finishes: list[str] = []
        self.texts: dict[int, list[str]] = {}

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
