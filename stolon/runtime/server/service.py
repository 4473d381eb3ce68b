"""What the server asks of an engine, and whether it is taking requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from aiohttp import web

from ...lang.constraint import Constraint
from ...lang.errors import EngineClosedError, EngineError
from ...lang.types import Delta, SamplingParams
from ..view import View
from .errors import HttpError, from_exception, internal, shutting_down, unavailable
from .settings import ServerConfig

logger = logging.getLogger(__name__)

REQUEST_ID = web.RequestKey("request_id", str)


class Tokenizer(Protocol):
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    def encode(self, text: str, *, bos: bool = True) -> list[int]: ...
    def encode_scaffold(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...
    def token_bytes(self, id: int) -> bytes: ...
    def token_text(self, id: int) -> str: ...


class ChatTemplate(Protocol):
    """source: of all templates; takes_tools: they speak of tools"""

    @property
    def source(self) -> str: ...
    @property
    def takes_tools(self) -> bool: ...
    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]: ...


class Heartbeat(Protocol):
    """`at_s` is on the monotonic clock; `busy`: a step is under way."""

    @property
    def alive(self) -> bool: ...
    @property
    def at_s(self) -> float: ...
    @property
    def busy(self) -> bool: ...


class Engine(Protocol):
    """The part of the engine that answers requests; all methods run on the server's event loop."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def chat(self) -> ChatTemplate | None: ...
    @property
    def context_length(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def model_name(self) -> str: ...
    @property
    def heartbeat(self) -> Heartbeat: ...

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        constraint: Constraint | None = None,
        salt: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Delta, None]: ...
    async def score(
        self, token_lists: Sequence[Sequence[int]], start: int, *, salt: str = "", timeout_s: float | None = None
    ) -> list[tuple[float, ...]]: ...
    def room(self, prompt_length: int) -> int: ...
    async def flush_cache(self) -> bool: ...
    async def view(self, nodes: int, requests: int, first: int = 0) -> View: ...
    def stats(self) -> dict[str, object]: ...
    async def close(self, drain_s: float = 0) -> None: ...


class Service:
    """One engine behind one server: loading, then serving, then draining."""

    def __init__(self, settings: ServerConfig, engine: Engine | None = None) -> None:
        self.settings = settings
        self.started_s = time.time()
        self.is_draining = False
        self._engine = engine
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def serve(self, engine: Engine) -> None:
        """Loading is over."""
        self._engine = engine

    @property
    def is_loading(self) -> bool:
        return self._engine is None

    @property
    def engine(self) -> Engine:
        """Raises HttpError 503 while there is none."""
        if self._engine is None:
            raise unavailable("the model is being loaded")
        return self._engine

    @property
    def is_alive(self) -> bool:
        """The engine has given a sign of life lately."""
        engine = self._engine
        return engine is not None and _beats(engine.heartbeat, self.settings.heartbeat_s)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @contextmanager
    def admitted(self) -> Generator[Engine]:
        """The engine, for as long as one request takes. Raises HttpError 503 if none is taken now."""
        if self.is_draining:
            raise shutting_down()
        engine = self.engine
        if not engine.heartbeat.alive:
            raise unavailable("the engine has died; see the server's log")
        self._in_flight += 1
        self._idle.clear()
        try:
            yield engine
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    def explain(self, error: Exception) -> HttpError:
        """What a client is told about an error of its request; what nobody foresaw goes to the log."""
        if isinstance(error, (EngineClosedError, EngineError)):
            if self.is_draining:
                return shutting_down()
            if self._engine is not None and not self._engine.heartbeat.alive:
                return unavailable("the engine died at this or at another request", "engine_died")
        known = from_exception(error)
        if known is None:
            logger.error("a request failed", exc_info=error)
        return known or internal()

    def refuse_new(self) -> None:
        """From now on requests are answered with 503; those in flight go on."""
        self.is_draining = True

    async def idle(self) -> None:
        """Wait until no request is in flight."""
        await self._idle.wait()

    async def end(self) -> None:
        """Close the engine; requests still in flight end with an error, and have a second to say so."""
        if self._engine is not None:
            await self._engine.close()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), 1.0)


def _beats(heartbeat: Heartbeat, within_s: float) -> bool:
    """An engine that waits for work need not move; a step that is under way must end."""
    return heartbeat.alive and not (heartbeat.busy and time.monotonic() - heartbeat.at_s > within_s)
