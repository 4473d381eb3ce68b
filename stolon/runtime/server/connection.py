"""One TCP connection: its deadlines, and the error shape also where the peer does not speak HTTP."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from . import body, errors
from .errors import HttpError
from .request import Request
from .settings import ServerConfig
from .wire import new_id

logger = logging.getLogger(__name__)

Answer = Callable[[Request], Awaitable[web.StreamResponse]]

_SHUTDOWN_S = 1.0  # how long requests may go on when the server closes
_LINGER_S = 2.0  # how long the rest of a refused body is read, so that the refusal arrives


class Connection(RequestHandler):
    """aiohttp's connection with three things that it lacks: a deadline for the first headers, a deadline for a client
    that does not read, and JSON for protocol errors."""

    def __init__(self, server: web.Server, settings: ServerConfig) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # pyright: ignore[reportArgumentType]
            keepalive_timeout=settings.keepalive_s,
            lingering_time=_LINGER_S,
        )
        self._header_timeout_s = settings.header_timeout_s
        self._write_timeout_s = settings.write_timeout_s
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self.received_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._header_timer = self._loop.call_later(self._header_timeout_s, self._too_late)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        super().data_received(data)
        if self._header_timer is not None and self._request_count:
            self._header_timer.cancel()
            self._header_timer = None

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _too_late(self) -> None:
        """No whole headers in time."""
        self._header_timer = None
        if self.transport is not None:
            content = errors.body(HttpError(408, "request_timeout", "the request's headers did not arrive in time"))
            lines = [
                "HTTP/1.1 408 Request Timeout",
                "Content-Type: application/json",
                f"Content-Length: {len(content)}",
                f"X-Request-Id: {new_id('req')}",
                "Connection: close",
            ]
            self.transport.write("\r\n".join([*lines, "", ""]).encode() + content)
        self.force_close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _watch_reader(self) -> None:
        assert self.transport is not None
        self._unread = self.transport.get_write_buffer_size()
        self._write_timer = self._loop.call_later(self._write_timeout_s, self._check_reader)

    def _check_reader(self) -> None:
        """The client has not caught up. If it has read nothing at all, it is given up, and its request with it."""
        self._write_timer = None
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() < self._unread:
            self._watch_reader()
            return
        logger.info("a client read nothing for %g s; its connection is closed", self._write_timeout_s)
        self.transport.abort()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """A body that cannot be decoded has been answered; aiohttp meets it again when it clears the connection."""
        if isinstance(kw.get("exc_info"), web.RequestPayloadError):
            logger.debug("the rest of a refused body cannot be decoded")
            return
        super().log_exception(*args, **kw)

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; it cannot become an error")
        if status >= 500:
            logger.error("a request failed outside its handler", exc_info=exc)
            answer = errors.internal()
        else:
            answer = _not_http(status, exc, message or "")
            logger.debug("not HTTP: %s", answer.message)
        answer.close = True
        response = errors.response(answer)
        response.headers.update({"X-Request-Id": new_id("req"), "Server": "stolon"})
        return response


def _not_http(status: int, exc: BaseException | None, message: str) -> HttpError:
    """What the parser refused.

    message: the parser's, of which what stands before the first colon is its own words and the rest the client's,
    a key perhaps
    """
    match exc:
        case ContentEncodingError():
            return body.unknown_encoding()
        case LineTooLong():
            why = f"a line of its head is too long; a header or a path may have {exc.args[1]} bytes"
        case _:
            why = message.partition(":")[0].rstrip(".")
    return HttpError(status, "bad_request", f"this is not a valid HTTP request: {why}")


async def listen(
    answer: Answer, settings: ServerConfig, sock: socket.socket, tls: ssl.SSLContext | None = None
) -> Listener:
    """Serve on `sock`, which is bound; owns it from here on.

    answer: of every request; raises nothing; tls: with the server's certificate
    """
    loop = asyncio.get_running_loop()
    server = web.Server(
        cast("Callable[[BaseRequest], Awaitable[web.StreamResponse]]", answer),
        request_factory=functools.partial(Request, loop=loop),
        handler_cancellation=True,
    )
    accepting = await loop.create_server(
        lambda: Connection(server, settings),
        sock=sock,
        backlog=1024,
        ssl=tls,
        ssl_handshake_timeout=None if tls is None else settings.header_timeout_s,
    )
    return Listener(server, accepting)


class Listener:
    """A server that accepts connections until it is closed."""

    def __init__(self, server: web.Server, accepting: asyncio.Server) -> None:
        self._server = server
        self._accepting = accepting

    def connections(self) -> list[RequestHandler]:
        """Those that are open now."""
        return self._server.connections

    async def close(self) -> None:
        """Stop listening, end every connection."""
        self._accepting.close()
        await asyncio.sleep(0)  # requests that have come are begun
        self._server.pre_shutdown()
        await self._server.shutdown(_SHUTDOWN_S)
