"""A server in this process over the fake engine, on a port of its own."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest

from stolon.runtime.server import auth
from stolon.runtime.server.app import App
from stolon.runtime.server.connection import Listener, listen
from stolon.runtime.server.service import Embedder, Service
from stolon.runtime.server.settings import ServerConfig
from tests.server.fake import FakeEngine


@dataclass
class Running:
    """A running server; `http` is a client of it."""

    engine: FakeEngine
    service: Service
    http: aiohttp.ClientSession
    port: int
    app: App
    listener: Listener

    def connections(self) -> Sequence[object]:
        """Those that are open now."""
        return self.listener.connections()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


StartServer = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[StartServer]:
    """Starts servers that end with the test: start(engine or embedder=..., key=..., **fields of ServerConfig)."""
    async with AsyncExitStack() as stack:

        async def start_one(
            engine: FakeEngine | None = None,
            *,
            key: str | None = None,
            further_key: str | None = None,
            admin: str | None = None,
            embedder: Embedder | None = None,
            tls: ssl.SSLContext | None = None,
            **fields: object,
        ) -> Running:
            engine = engine or FakeEngine()
            settings = ServerConfig(**fields)  # pyright: ignore[reportArgumentType]
            service = Service(settings, engine) if embedder is None else Service(settings, embedder=embedder)
            users = tuple(auth.digest(each) for each in (key, further_key) if each is not None)
            app = App(service, auth.Keys(users, None if admin is None else auth.digest(admin)))
            sock = socket.create_server(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            listener = await listen(app.answer, settings, sock, tls)
            stack.push_async_callback(listener.close)
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            http = await stack.enter_async_context(
                aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers, auto_decompress=True)
            )
            return Running(engine, service, http, port, app, listener)

        yield start_one


@pytest.fixture
async def server(start: StartServer) -> Running:
    return await start()
