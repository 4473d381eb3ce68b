"""Threads for the bodies of sync programs: few while bodies run, more only while they wait."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

from .hub import get_hub

RUNNING = 4  # bodies that run at once while none of them is seen waiting
THREADS = 512  # threads waiting for generations at once
IDLE_S = 2.0  # an idle thread ends after this long
LOOK_S = 0.01  # how often to look whether bodies block in ways that the pool cannot see
STACK_BYTES = 1 << 20  # of address space; 512 threads of the usual 8 MiB would be 4 GiB

_here = threading.local()
_stack_lock = threading.Lock()


class Pool:
    """Runs jobs in daemon threads.

    A body that appends and never reads needs no thread of its own, so few threads start thousands. A thread that is
    about to wait says so (`parked`), and another takes its place. Threads that block unseen (an HTTP call of the
    user's) are noticed because jobs stop being started; then their number doubles.
    """

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._change = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._parked = 0
        self._lent = 0  # parked threads that wait for other jobs of this pool: they must not use up its threads
        self._started = 0
        self._looking = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` soon. It must handle its own errors."""
        with self._change:
            self._jobs.append(job)
            if self._idle:
                self._change.notify()
            elif self._threads - self._parked < RUNNING:
                self._grow(1)
            self._look()

    @contextmanager
    def parked(self, *, lent: bool) -> Generator[None]:
        """While the block runs, this thread of the pool does not count as running."""
        with self._change:
            self._parked += 1
            self._lent += lent
            if self._jobs and not self._idle and self._threads - self._parked < RUNNING:
                self._grow(1)
        try:
            yield
        finally:
            with self._change:
                self._parked -= 1
                self._lent -= lent

    def _grow(self, count: int) -> None:
        for _ in range(min(count, THREADS - (self._threads - self._lent))):
            self._threads += 1
            thread = threading.Thread(target=self._serve, name="stolon-body", daemon=True)
            with _stack_lock:
                before = threading.stack_size(STACK_BYTES)
                try:
                    thread.start()
                except RuntimeError:  # the system gives no more threads
                    self._threads -= 1
                    if not self._threads:
                        raise
                    return
                finally:
                    threading.stack_size(before)

    def _look(self) -> None:
        if not self._looking and self._jobs:
            self._looking = True
            hub = get_hub()
            hub.post(hub.loop.call_later, LOOK_S, self._relook, self._started)

    def _relook(self, started_before: int) -> None:
        with self._change:
            self._looking = False
            if self._jobs and self._started == started_before and not self._idle:
                self._grow(max(RUNNING, self._threads - self._parked))
            self._look()

    def _serve(self) -> None:
        _here.pool = self
        while True:
            with self._change:
                if not self._jobs:
                    self._idle += 1
                    self._change.wait(IDLE_S)
                    self._idle -= 1
                    if not self._jobs:
                        self._threads -= 1
                        return
                job = self._jobs.popleft()
                self._started += 1
            job()
            del job  # or an idle thread keeps the state of the last program alive


_pool = Pool()


def get_pool() -> Pool:
    return _pool


def _forget() -> None:
    global _pool
    _pool = Pool()


@contextmanager
def waiting(*, lent: bool = False) -> Generator[None]:
    """Around anything that blocks. In a thread of the pool, another may run meanwhile.

    lent: what is waited for may itself need a thread of the pool
    """
    pool: Pool | None = getattr(_here, "pool", None)
    if pool is None:
        yield
    else:
        with pool.parked(lent=lent):
            yield


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
