"""One exchange with an HTTP server: JSON out; JSON or a stream of JSON events back; bounded in time and size.

Knows nothing of what the JSON means. `Transport` is the HTTP library underneath.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..lang.errors import (
    BackendError,
    BackendProtocolError,
    BackendTimeout,
    InvalidRequest,
    StreamTruncatedError,
)
from ..lang.types import Delta
from .deadline import Clock, Deadline, WallClock
from .jsonvalue import Json, as_object
from .refusal import error_from_object, error_from_status
from .retry import GarbledBodyError, Retries, RetryPolicy
from .sse import ServerEvent, SSEParser

# after [DONE] nothing but the end of the body should come; waiting for it lets the connection be used again
_DRAIN_S = 0.25
MAX_REFUSAL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an answer may cost. Seconds and bytes.

    first_byte_s: from the request until the first event (or the whole answer, where it does not stream)
    between_bytes_s: silence in a stream
    total_s: everything, retries included; a request's own timeout takes its place when it is shorter
    """

    connect_s: float = 10.0
    first_byte_s: float = 300.0
    between_bytes_s: float = 120.0
    total_s: float = 1800.0
    max_event_bytes: int = 8 * 2**20
    max_answer_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise InvalidRequest(f"{name} must be more than 0, got {getattr(self, name)}", param=name)


class ConnectionLostError(BackendError):
    """The connection broke after the answer had begun; the reader knows what that means for the answer."""


class Reply(Protocol):
    """The head of an answer, and its body as it arrives."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Looked up without regard to case."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Undecoded bytes. Raises ConnectionLostError."""
        ...


class Transport(Protocol):
    """An HTTP client: never retries, follows no redirect, waits without limit except for the connection."""

    def send(self, method: str, path: str, body: Json | None) -> AbstractAsyncContextManager[Reply]:
        """Raises BackendUnavailable and BackendTimeout when there is no connection. Leaving closes the reply."""
        ...

    async def close(self) -> None: ...

    def shutdown(self) -> None:
        """`close` for callers without an event loop, from any thread; does not wait."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """One JSON object of an answer; `whole` where the server answered with one object instead of a stream."""

    data: Json
    id: bytes | None = None
    whole: bool = False


class Exchange:
    """Sends requests over one transport under one set of limits and one retry policy."""

    def __init__(self, transport: Transport, limits: Limits, retries: RetryPolicy, clock: Clock | None = None) -> None:
        self.transport = transport
        self.limits = limits
        self._retries = retries
        self._clock = clock or WallClock()

    def deadline(self, timeout_s: float | None) -> Deadline:
        total_s = self.limits.total_s if timeout_s is None else min(timeout_s, self.limits.total_s)
        return Deadline(self._clock, total_s)

    async def answer(
        self, attempt: Callable[[Deadline], AsyncGenerator[Delta]], timeout_s: float | None
    ) -> AsyncGenerator[Delta]:
        """The deltas of the first attempt that delivers one; from then on an error is final."""
        deadline = self.deadline(timeout_s)
        retries = Retries(self._retries, self._clock, deadline)
        while True:
            delivered = False
            try:
                async with aclosing(attempt(deadline)) as deltas:
                    async for delta in deltas:
                        delivered = True
                        yield delta
                return
            except BackendError as error:
                if delivered:
                    raise
                await retries.pause(error)

    async def request(self, method: str, path: str, body: Json | None = None, *, timeout_s: float | None = None) -> Any:
        """The answer's JSON value, whole; retried until the policy or the time is used up."""
        deadline = self.deadline(timeout_s)
        retries = Retries(self._retries, self._clock, deadline)
        while True:
            try:
                async with self._sent(method, path, body, deadline) as reply:
                    return self._json(await self._whole(reply, deadline))
            except BackendError as error:
                await retries.pause(error)

    async def text(self, method: str, path: str) -> str:
        """The answer's text, whole; not retried."""
        deadline = self.deadline(None)
        async with self._sent(method, path, None, deadline) as reply:
            return (await self._whole(reply, deadline)).decode(errors="replace")

    async def events(self, path: str, body: Json, deadline: Deadline) -> AsyncGenerator[Event | None]:
        """One attempt: the events of the answer to `body`, then None if the server ended it with [DONE].

        Raises ConnectionLostError where the connection breaks; ending without None is for the reader to judge.
        """
        async with self._sent("POST", path, body, deadline) as reply:
            content_type = reply.headers.get("content-type", "").lower()
            if "html" in content_type:
                raise BackendProtocolError("the server answered with a web page; is the base URL right?")
            if "json" in content_type:
                yield Event(_object(self._json(await self._whole(reply, deadline))), whole=True)
                return
            async with aclosing(self._streamed(reply, deadline)) as events:
                async for event in events:
                    yield event

    async def _streamed(self, reply: Reply, deadline: Deadline) -> AsyncGenerator[Event | None]:
        parser = SSEParser(self.limits.max_event_bytes)
        received, begun = 0, False
        first = self.deadline(self.limits.first_byte_s)
        chunks = aiter(reply.chunks())
        while True:
            if begun:
                chunk = await deadline.within(_next(chunks), self.limits.between_bytes_s, "for more of the answer")
            else:
                chunk = await deadline.within(_next(chunks), first.remaining_s(), "for the first event")
            if chunk is None:
                return
            received += len(chunk)
            self._check_size(received)
            for event in parser.feed(chunk):
                begun = True
                if event.data.strip() == b"[DONE]":
                    await self._drained(chunks)
                    yield None
                    return
                yield Event(_event_object(event), event.id)

    @asynccontextmanager
    async def _sent(self, method: str, path: str, body: Json | None, deadline: Deadline) -> AsyncGenerator[Reply]:
        sending = self.transport.send(method, path, body)
        limit_s = self.limits.first_byte_s
        reply = await deadline.within(sending.__aenter__(), limit_s, "for the first byte of the answer")
        try:
            if reply.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
                raise BackendProtocolError(
                    f"the server compressed its answer ({reply.headers['content-encoding']}), which was not asked for"
                )
            if not 200 <= reply.status < 300:
                raise error_from_status(reply.status, reply.headers, await self._refusal_text(reply, deadline))
            yield reply
        finally:
            await sending.__aexit__(None, None, None)

    async def _refusal_text(self, reply: Reply, deadline: Deadline) -> str:
        parts = bytearray()
        chunks = aiter(reply.chunks())
        try:
            while len(parts) < MAX_REFUSAL_BYTES:
                chunk = await deadline.within(_next(chunks), self.limits.between_bytes_s, "for an error's message")
                if chunk is None:
                    break
                parts += chunk
        except (ConnectionLostError, BackendTimeout):
            pass  # the status says enough
        return parts[:MAX_REFUSAL_BYTES].decode(errors="replace")

    async def _whole(self, reply: Reply, deadline: Deadline) -> bytes:
        body = bytearray()
        chunks = aiter(reply.chunks())
        try:
            while True:
                chunk = await deadline.within(_next(chunks), self.limits.between_bytes_s, "for more of the answer")
                if chunk is None:
                    return bytes(body)
                body += chunk
                self._check_size(len(body))
        except ConnectionLostError as error:
            raise GarbledBodyError(f"the answer broke off after {len(body):,} bytes: {error}") from error

    async def _drained(self, chunks: AsyncIterator[bytes]) -> None:
        deadline = self.deadline(_DRAIN_S)
        try:
            while await deadline.within(_next(chunks), _DRAIN_S, "for the end of the stream") is not None:
                pass
        except BackendError:
            pass  # the answer is whole; only the connection cannot be used again

    def _check_size(self, received: int) -> None:
        if received > self.limits.max_answer_bytes:
            raise BackendProtocolError(
                f"the answer has more than {self.limits.max_answer_bytes:,} bytes; raise `max_answer_bytes` for more"
            )

    def _json(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            start = body[:80].decode(errors="replace")
            raise GarbledBodyError(f"the server's answer is no JSON (it starts {start!r}): {error}") from error


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


def _event_object(event: ServerEvent) -> Json:
    try:
        value: Any = json.loads(event.data.decode())  # decoded here: json would guess other encodings too
    except (ValueError, RecursionError) as error:
        start = event.data[:80]
        raise BackendProtocolError(f"an event of the stream is no JSON (it starts {start}): {error}") from error
    if event.name == b"error":
        raise error_from_object((as_object(value) or {}).get("error", value))
    return _object(value)


def _object(value: object) -> Json:
    found = as_object(value)
    if found is None:
        raise BackendProtocolError(f"the server sent {type(value).__name__} where a JSON object was expected")
    if found.get("error") is not None:
        raise error_from_object(found["error"])
    return found


def truncated(text: str, cause: str) -> StreamTruncatedError:
    """For readers: the error of a stream that ended before its answer did."""
    return StreamTruncatedError(
        f"the stream {cause} before the answer was whole; {len(text)} characters had arrived", text=text
    )
