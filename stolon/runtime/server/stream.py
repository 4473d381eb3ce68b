"""Server-sent events: deltas to a client that may read slower than the engine writes."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from aiohttp import web

from ...lang.types import Delta
from .answers import Placed, joined
from .errors import HttpError
from .request import Request
from .service import Service

logger = logging.getLogger(__name__)


class Events(Protocol):
    """How the deltas of one request become events; empty bytes where there is nothing to say.

    end: after all deltas, with whatever says that the stream is complete; error: in its place
    """

    def start(self) -> bytes: ...
    def delta(self, place: int, delta: Delta) -> bytes: ...
    def end(self) -> bytes: ...
    def error(self, error: HttpError) -> bytes: ...


async def send(
    service: Service, request: Request, deltas: AsyncGenerator[Placed, None], events: Events, interval: int = 1
) -> web.StreamResponse:
    """Answer `request` with events. An error before the first delta is an ordinary error answer and is raised; one
    after it becomes the stream's last event.

    interval: how many tokens of an answer an event brings at least, but for its first and its last
    """
    async with aclosing(deltas):
        first = await anext(deltas, None)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **request.identity()}
        response = web.StreamResponse(headers=headers)
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        writer = _Writer(request, response, events, max(interval, service.settings.stream_interval))
        try:
            await response.prepare(request)
            await response.write(events.start())
            if first is not None:
                await writer.put(*first)
            async for place, delta in deltas:
                await writer.put(place, delta)
            await writer.flush()
            await response.write(events.end())
        except ConnectionResetError:
            # whoever asked has left; leaving the block ends the request
            logger.info("request %s: the client went away", request.id)
        except Exception as error:
            await _end_with_error(request, response, events.error(service.explain(error)))
        return response


async def _end_with_error(request: Request, response: web.StreamResponse, last: bytes) -> None:
    response.force_close()
    try:
        await response.write(last)
        await response.write_eof()
    except ConnectionResetError:
        logger.info("request %s: the client went away", request.id)


class _Writer:
    """Writes each delta at once while the client keeps up; joins those that gather while it does not, and those that
    bring too few tokens for an event of their own."""

    def __init__(self, request: Request, response: web.StreamResponse, events: Events, interval: int) -> None:
        self._connection = request.protocol
        self._response = response
        self._events = events
        self._interval = interval
        self._few: dict[tuple[int, int], Delta | None] = {}  # of answers that have begun
        self._pending: dict[tuple[int, int], Delta] = {}

    async def put(self, place: int, delta: Delta) -> None:
        if self._interval > 1:
            enough = self._enough((place, delta.index), delta)
            if enough is None:
                return
            delta = enough
        if self._connection.writing_paused:
            key = (place, delta.index)
            waiting = self._pending.get(key)
            self._pending[key] = delta if waiting is None else joined(waiting, delta)
            return
        if self._pending:
            await self.flush()
        if event := self._events.delta(place, delta):
            await self._response.write(event)

    def _enough(self, key: tuple[int, int], delta: Delta) -> Delta | None:
        """What is to be written now, with what was held back before it; None: it is held back, too."""
        is_first = key not in self._few
        waiting = self._few.get(key)
        if waiting is not None:
            delta = joined(waiting, delta)
        is_held = not is_first and delta.finish is None and len(delta.tokens) < self._interval
        self._few[key] = delta if is_held else None
        return None if is_held else delta

    async def flush(self) -> None:
        pending, self._pending = self._pending, {}
        for (place, _), delta in pending.items():
            if event := self._events.delta(place, delta):
                await self._response.write(event)
