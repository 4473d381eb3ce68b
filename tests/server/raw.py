"""HTTP by hand, for what no well-behaved client sends; and waiting for what must happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class RawReply:
    status: int
    headers: dict[str, str]
    body: bytes


async def exchange(port: int, sent: bytes, timeout_s: float = 5.0) -> bytes:
    """Send `sent` and return all that comes back until the server closes or nothing comes for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        await writer.drain()
        received = b""
        while True:
            try:
                piece = await asyncio.wait_for(reader.read(65536), timeout_s)
            except (asyncio.TimeoutError, ConnectionResetError):
                return received
            if not piece:
                return received
            received += piece
    finally:
        writer.close()


async def ask(port: int, head: str, body: bytes = b"", timeout_s: float = 5.0) -> RawReply:
    """One request whose head is given line by line; the connection is asked to close."""
    lines = "\r\n".join([*head.splitlines(), "Connection: close", "", ""])
    return parsed(await exchange(port, lines.encode("latin-1") + body, timeout_s))


def parsed(raw: bytes) -> RawReply:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return RawReply(int(first.split()[1]) if first else 0, headers, body)


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.005)
