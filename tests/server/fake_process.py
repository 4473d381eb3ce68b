"""A server over the fake engine as a process of its own: `python -m tests.server.fake_process DRAIN_SECONDS`.

Prints its port; stops on signals as the real command does.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from stolon.runtime.server.app import build_app
from stolon.runtime.server.auth import Keys
from stolon.runtime.server.connection import listen
from stolon.runtime.server.service import Service
from stolon.runtime.server.settings import ServerConfig
from stolon.runtime.server.stopping import StopSignals, until_stopped
from tests.server.fake import FakeEngine


async def serve(drain_seconds: float) -> None:
    settings = ServerConfig(drain_seconds=drain_seconds)
    service = Service(settings, FakeEngine(context_length=1 << 20, pace_s=0.01))
    sock = socket.create_server(("127.0.0.1", 0))
    listener = await listen(build_app(service, Keys()), settings, sock)
    stop = StopSignals()
    print(sock.getsockname()[1], flush=True)
    await until_stopped(service, stop)
    await listener.close()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
