"""The end of a server: the first signal lets requests finish, the second ends them."""

from __future__ import annotations

import asyncio
import logging
import signal

from .service import Service

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """SIGTERM and SIGINT, counted from here on. A third one ends the process in the usual way."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._hit)

    def _hit(self) -> None:
        if not self.first.is_set():
            self.first.set()
            return
        self.second.set()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)


async def until_stopped(service: Service, stop: StopSignals) -> None:
    """Wait for the first signal, then for what is in flight, for the drain time at most, or for the second signal."""
    await stop.first.wait()
    seconds = service.settings.drain_seconds
    logger.info("stopping: %d requests in flight may take %g s more", service.in_flight, seconds)
    service.refuse_new()
    waits = [asyncio.create_task(service.idle()), asyncio.create_task(stop.second.wait())]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in waits:
        task.cancel()
    await service.end()
