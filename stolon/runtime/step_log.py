"""A line in the log every so many steps, at most one a second: what a server is doing, in counts alone."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .metrics import SchedulerStats

logger = logging.getLogger(__name__)

LEAST_SECONDS = 1.0  # of computing for one line; steps of a small model are so short that it would write nothing else


class StepLog:
    """Call it after each step. Its rates are over the seconds in which steps were computed, not those of waiting."""

    def __init__(self, every: int, stats: Callable[[], SchedulerStats]) -> None:
        """every: least number of steps for one line"""
        self._every = every
        self._stats = stats
        self._left = every
        self._seconds = 0.0
        self._generated = 0  # before the steps of the next line

    def __call__(self, seconds: float) -> None:
        """seconds: that the step took"""
        self._seconds += seconds
        self._left -= 1
        if self._left > 0 or self._seconds < LEAST_SECONDS:
            return
        now = self._stats()
        logger.info(
            "step %d: %d running, %d waiting, %d of %d KV tokens in use, hit rate %.2f, %.1f tokens/s",
            now.counters.steps,
            now.running,
            now.waiting,
            now.total - now.free - now.evictable,
            now.total,
            now.hit_rate,
            (now.counters.generated - self._generated) / max(self._seconds, 1e-9),
        )
        self._left, self._seconds, self._generated = self._every, 0.0, now.counters.generated
