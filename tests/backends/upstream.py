"""A raw HTTP server on a loopback port that answers exactly the bytes it was told to, in the pieces it was told to."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

EVENTS = "text/event-stream; charset=utf-8"


@dataclass
class Received:
    """One request as the server read it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Connection:
    """What a script may do with the connection a request came on."""

    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader

    async def head(self, status: int = 200, content_type: str = EVENTS, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {content_type}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def pieces(self, *pieces: bytes) -> None:
        """Each in a segment of its own, as far as the loopback keeps them apart."""
        for piece in pieces:
            await self.send(piece)
            await asyncio.sleep(0.002)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def wait_until_left(self) -> None:
        """Until the client has closed its end."""
        while await self.reader.read(4096):
            pass


Script = Callable[[Connection], Awaitable[None]]


@dataclass
class Upstream:
    """Answers the POST requests with `scripts` in turn, the last one for ever; what it is, it says truthfully.

    kind: `stolon`, `sglang`, `vllm` or another owner of the models
    """

    scripts: list[Script]
    kind: str = "openai"
    requests: list[Received] = field(default_factory=list)
    introductions: int = 0  # GET requests
    left_early: int = 0  # connections that the client closed while a script still ran
    asked: asyncio.Event = field(default_factory=asyncio.Event)  # set by the first POST
    origin: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left_early += 1
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *rest = head.rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in rest)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        if method == "GET":
            self.introductions += 1
            await self._introduce(Connection(writer, reader), path)
            return
        script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
        self.requests.append(Received(method, path, headers, json.loads(raw) if raw else None))
        self.asked.set()
        await script(Connection(writer, reader))

    async def _introduce(self, connection: Connection, path: str) -> None:
        routes = {"/v1/models": {"object": "list", "data": [{"id": "tiny", "owned_by": self.kind}]}}
        if self.kind in ("stolon", "sglang"):
            routes["/get_model_info"] = {"model_path": "/models/tiny", "is_generation": True}
            routes["/get_server_info"] = {"context_length": 1024}
        found = routes.get(path)
        await reply(found or {"detail": "Not Found"}, 200 if found else 404)(connection)


@asynccontextmanager
async def upstream(*scripts: Script, kind: str = "openai") -> AsyncGenerator[Upstream, None]:
    served = Upstream(list(scripts), kind)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()
        await server.wait_closed()


def reply(body: bytes | str | dict[str, Any], status: int = 200, content_type: str = "", **headers: str) -> Script:
    """A whole answer; JSON unless the body is given as text or bytes."""
    if isinstance(body, dict):
        data, kind = json.dumps(body).encode(), "application/json"
    else:
        data, kind = body.encode() if isinstance(body, str) else body, EVENTS

    async def script(connection: Connection) -> None:
        await connection.head(status, content_type or kind, **headers)
        await connection.send(data)

    return script


def event(data: dict[str, Any] | str) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return b"data: " + text.encode() + b"\n\n"
