"""What the server asks of an engine, and whether it is taking requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from ...lang.constraint import Constraint
from ...lang.errors import EngineClosedError, EngineError
from ...lang.types import Delta, SamplingParams
from .errors import HttpError, from_exception, internal, shutting_down, unavailable
from .settings import ServerConfig
from .watching import watched, watched_embedder

if TYPE_CHECKING:  # these need torch and numpy, and a server says what is wrong with its flags before it loads them
    from ..embed_loop import Vectors
    from ..packed import Tokens
    from ..view import View
    from .meters import Meters

logger = logging.getLogger(__name__)


class Tokenizer(Protocol):
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    def require(self, what: str) -> None: ...
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
        start_answer: bool = True,
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


class Served(Protocol):
    """What every engine says and does; all methods run on the server's event loop."""

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
    def other_names(self) -> Sequence[str]:
        """By which clients may ask for the model, too."""
        ...

    @property
    def path(self) -> str | None:
        """Another one, which is told to nobody."""
        ...

    @property
    def memory_report(self) -> str: ...
    @property
    def heartbeat(self) -> Heartbeat: ...
    async def flush_cache(self) -> bool: ...
    def stats(self) -> dict[str, object]: ...
    async def close(self, drain_s: float = 0) -> None: ...


class Engine(Served, Protocol):
    """Answers requests with text. sampling_defaults: fields of SamplingParams that hold where a request has none"""

    @property
    def sampling_defaults(self) -> Mapping[str, float]: ...

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        constraint: Constraint | None = None,
        salt: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
        rid: str = "",
    ) -> AsyncGenerator[Delta, None]: ...
    def abort(self, rid: str | None) -> int: ...
    async def score(
        self, token_lists: Sequence[Sequence[int]], start: int, *, salt: str = "", timeout_s: float | None = None
    ) -> list[tuple[float, ...]]: ...
    def room(self, prompt_length: int) -> int: ...
    async def view(self, nodes: int, requests: int, first: int = 0) -> View: ...


class Embedder(Served, Protocol):
    """Answers with vectors. width: numbers in one; is_classifier: they are the logits of labels"""

    @property
    def width(self) -> int: ...
    @property
    def is_classifier(self) -> bool: ...
    def frame(self, *texts: str, longest: int | None = None) -> Tokens: ...
    def as_is(self, ids: Sequence[int]) -> Tokens: ...
    async def embed(
        self, texts: Sequence[Tokens], *, dimensions: int | None = None, timeout_s: float | None = None
    ) -> Vectors: ...


class Service:
    """One engine behind one server: loading, then serving, then draining."""

    def __init__(
        self, settings: ServerConfig, engine: Engine | None = None, *, embedder: Embedder | None = None
    ) -> None:
        """engine, embedder: at most one; None: it is being loaded, see `serve`"""
        self.settings = settings
        self.started_s = time.time()
        self.is_draining = False
        self._engine: Engine | None = None
        self._embedder: Embedder | None = None
        self.meters: Meters | None = None
        if settings.metrics:
            from .meters import Meters  # prometheus-client belongs to the optional local runtime

            self.meters = Meters(lambda: {} if self._served is None else self._served.stats(), lambda: self._in_flight)
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.serve(engine, embedder=embedder)

    def serve(self, engine: Engine | None = None, *, embedder: Embedder | None = None) -> None:
        """Loading is over."""
        self._engine = None if engine is None else watched(engine, self.meters, self.settings)
        self._embedder = None if embedder is None else watched_embedder(embedder, self.settings)

    @property
    def is_loading(self) -> bool:
        return self._served is None

    @property
    def generates(self) -> bool:
        return self._engine is not None

    @property
    def served(self) -> Served:
        """Whatever is served. Raises HttpError 503 while nothing is."""
        served = self._served
        if served is None:
            raise unavailable("the model is being loaded")
        return served

    @property
    def longest(self) -> int:
        """Most tokens of a prompt and its answer, or of a text."""
        return self.served.context_length if self._engine is None else self._engine.room(0)

    @property
    def engine(self) -> Engine:
        """Raises HttpError 503 while there is none, 400 if the model makes embeddings."""
        if self._engine is None:
            raise _wrong_kind(f"the model {self.served.model_name} makes embeddings; it does not generate text")
        return self._engine

    @property
    def embedder(self) -> Embedder:
        """Raises HttpError 503 while there is none, 400 if the model generates."""
        if self._embedder is None:
            raise _wrong_kind(
                f"the model {self.served.model_name} generates text; for embeddings start a server with --is-embedding"
            )
        return self._embedder

    @property
    def is_alive(self) -> bool:
        """The engine has given a sign of life lately."""
        served = self._served
        return served is not None and _beats(served.heartbeat, self.settings.heartbeat_s)

    @property
    def _served(self) -> Served | None:
        return self._engine or self._embedder

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @contextmanager
    def admitted(self) -> Generator[Engine]:
        """The engine, for as long as one request takes. Raises HttpError 503 if none is taken now."""
        self._begin()
        try:
            yield self.engine
        finally:
            self._end()

    @contextmanager
    def admitted_any(self) -> Generator[Served]:
        """`admitted` for routes that whatever is served can answer."""
        self._begin()
        try:
            yield self.served
        finally:
            self._end()

    @contextmanager
    def embedding(self) -> Generator[Embedder]:
        """`admitted` for what makes embeddings."""
        self._begin()
        try:
            yield self.embedder
        finally:
            self._end()

    def _begin(self) -> None:
        if self.is_draining:
            raise shutting_down()
        if not self.served.heartbeat.alive:
            raise unavailable("the engine has died; see the server's log")
        self._in_flight += 1
        self._idle.clear()

    def _end(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    def explain(self, error: Exception) -> HttpError:
        """What a client is told about an error of its request; what nobody foresaw goes to the log."""
        if isinstance(error, (EngineClosedError, EngineError)):
            if self.is_draining:
                return shutting_down()
            if self._served is not None and not self._served.heartbeat.alive:
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
        if self._served is not None:
            await self._served.close()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), 1.0)


def _wrong_kind(message: str) -> HttpError:
    return HttpError(400, "unsupported_route", message)


def _beats(heartbeat: Heartbeat, within_s: float) -> bool:
    """An engine that waits for work need not move; a step that is under way must end."""
    return heartbeat.alive and not (heartbeat.busy and time.monotonic() - heartbeat.at_s > within_s)
