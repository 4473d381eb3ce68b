"""Time: a clock that tests can replace, deadlines, and waiting no longer than a limit."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from ..lang.errors import BackendTimeout

T = TypeVar("T")


class Clock(Protocol):
    """Seconds that only go forward, and a way to let some pass."""

    def time(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class WallClock:
    """The machine's monotonic clock."""

    def time(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Deadline:
    """A moment by which an exchange, with all its retries, must be over."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.time() + seconds
        self.seconds = seconds

    def remaining_s(self) -> float:
        return self._end - self._clock.time()

    async def within(self, awaitable: Awaitable[T], limit_s: float, what: str) -> T:
        """`what` says for whom one waits (`for the first byte`); the earlier of limit and deadline counts."""
        remaining = self.remaining_s()
        if remaining <= limit_s:
            return await within(awaitable, remaining, f"the answer was not whole after {self.seconds:g} s")
        return await within(awaitable, limit_s, f"waited {limit_s:g} s {what}")


async def within(awaitable: Awaitable[T], limit_s: float, message: str) -> T:
    """The awaited value, or BackendTimeout(message) after `limit_s`.

    Not `asyncio.wait_for`: before Python 3.12 that can swallow a cancellation that arrives together with the value.
    """
    task = asyncio.current_task()
    assert task is not None, "within() needs a running task"
    timed_out = False

    def expire() -> None:
        nonlocal timed_out
        timed_out = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(max(limit_s, 0.0), expire)
    try:
        return await awaitable
    except asyncio.CancelledError:
        # from Python 3.11 the task counts its cancellations, which tells ours from one that came from outside
        if timed_out and (sys.version_info < (3, 11) or task.uncancel() == 0):
            raise BackendTimeout(message) from None
        raise
    finally:
        timer.cancel()
