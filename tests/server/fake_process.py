"""A server over the fake engine as a process of its own: `python -m tests.server.fake_process DRAIN_SECONDS`.

Prints its port; stops on signals as the real command does.
"""

from __future__ import annotations

import argparse
import asyncio
import socket

from stolon.runtime.server.app import App
from stolon.runtime.server.auth import Keys, digest
from stolon.runtime.server.connection import listen
from stolon.runtime.server.service import Service
from stolon.runtime.server.settings import ServerConfig
from stolon.runtime.server.stopping import StopSignals, until_stopped
from tests.server.fake import FakeEngine
from tests.server.fake_embedder import FakeEmbedder


async def serve(asked: argparse.Namespace) -> None:
    settings = ServerConfig(drain_seconds=asked.drain_seconds)
    if asked.embedding:
        service = Service(settings, embedder=FakeEmbedder(context_length=1 << 20))
    else:
        service = Service(settings, FakeEngine(context_length=1 << 20, pace_s=asked.pace))
    sock = socket.create_server(("127.0.0.1", 0))
    keys = Keys() if asked.key is None else Keys((digest(asked.key),))
    listener = await listen(App(service, keys).answer, settings, sock)
    stop = StopSignals()
    print(sock.getsockname()[1], flush=True)
    await until_stopped(service, stop)
    await listener.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("drain_seconds", type=float)
    parser.add_argument("--pace", type=float, default=0.01, help="seconds a token")
    parser.add_argument("--key")
    parser.add_argument("--embedding", action="store_true")
    asyncio.run(serve(parser.parse_args()))
