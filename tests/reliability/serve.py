"""A server over an engine of fixed pace, as a process: `python -m tests.reliability.serve --slots 8 --queue 16`.

So many answers are computed at a time, one token a step; so many more wait; one more is refused. Prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from stolon.lang.errors import OverloadedError
from stolon.lang.types import Delta, SamplingParams
from stolon.runtime.server.app import App
from stolon.runtime.server.auth import Keys
from stolon.runtime.server.connection import listen
from stolon.runtime.server.service import Service
from stolon.runtime.server.settings import ServerConfig
from stolon.runtime.server.stopping import StopSignals, until_stopped
from tests.server.fake import FakeEngine


class PacedEngine(FakeEngine):
    """hold_after: a stream says so many tokens and then nothing more; 0: never"""

    def __init__(self, *, slots: int, queue: int, pace_s: float, hold_after: int) -> None:
        super().__init__(context_length=1 << 20, pace_s=pace_s)
        self._slots = asyncio.Semaphore(slots)
        self._most_waiting = queue
        self._hold_after = hold_after
        self._waiting = 0
        self._never = asyncio.Event()

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, **options: Any
    ) -> AsyncGenerator[Delta]:
        if self._waiting >= self._most_waiting:
            raise OverloadedError(f"{self._waiting} requests wait already", retry_after_s=1)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            async for delta in super().generate(prompt_ids, params, **options):
                yield delta
        finally:
            self._slots.release()
            self.asked.clear()

    async def _step(self, place: int) -> None:
        if self._hold_after and place >= self._hold_after:
            await self._never.wait()
        if self.pace_s:
            # on a grid, as the steps of an engine in a thread of its own come: a late event loop delays none of them
            now = asyncio.get_running_loop().time()
            await asyncio.sleep((int(now / self.pace_s) + 1) * self.pace_s - now)

    def stats(self) -> dict[str, object]:
        return {"running": self.running, "waiting": self._waiting, "tasks": len(asyncio.all_tasks())}


async def serve(asked: argparse.Namespace) -> None:
    settings = ServerConfig(drain_seconds=1.0, write_timeout_s=asked.write_timeout)
    engine = PacedEngine(slots=asked.slots, queue=asked.queue, pace_s=asked.pace, hold_after=asked.hold_after)
    service = Service(settings, engine)
    sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener = await listen(App(service, Keys()).answer, settings, sock)
    stop = StopSignals()
    print(f"ready: http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
    await until_stopped(service, stop)
    await listener.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--pace", type=float, default=0.01, help="seconds a token")
    parser.add_argument("--hold-after", type=int, default=0)
    parser.add_argument("--write-timeout", type=float, default=30.0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
