"""One execution of a program: what is still busy, when it is over, and what went wrong."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .errors import BackendTimeout
from .hub import get_hub
from .info import NO_USAGE
from .options import Settings
from .types import Usage
from .variables import Failure, Signal

if TYPE_CHECKING:
    from .interpreter import Chain

_ids = itertools.count(1)
current_run: ContextVar[Run | None] = ContextVar("stolon_run", default=None)


class Run(Signal):
    """One execution of a program: its settings, what is still busy, and what went wrong.

    is_async: the body is a coroutine, so a blocking read inside it would stop its loop
    """

    def __init__(
        self,
        settings: Settings,
        *,
        parent: Run | None = None,
        is_async: bool = False,
        streaming: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        super().__init__()
        # a program and those that it calls are one to the backend: they share prefixes and end together
        self.program: int = next(_ids) if parent is None else parent.program
        self.settings = settings
        self.is_async = is_async
        self.streaming = streaming
        # for everything that appending and executing share, of all chains of the run
        self.lock = threading.RLock()
        self.busy: set[Chain] = set()
        self.failures: tuple[Failure, ...] = ()
        self.body_over = False
        self.body_error: BaseException | None = None
        self.unhandled: Failure | None = None  # the first failure that the program was never told of
        self.value: Any = None  # what the user's function returned
        self.readers = 0  # streams that read along
        self.nested_usage = NO_USAGE
        self.deadline: float | None = None
        self._parent = parent
        self._nested: tuple[Run, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._at_end: tuple[Callable[[], None], ...] = ()
        self._over = False
        # weakly: its state, its task or the body hold the root; a cycle would keep finished runs until the next
        # full garbage collection
        self._root: weakref.ref[Chain] | None = None
        if parent is not None:
            with parent.lock:
                parent._nested += (self,)
            self.deadline = parent.deadline
        if timeout_s is not None:
            self._set_deadline(timeout_s)

    def _set_deadline(self, timeout_s: float) -> None:
        own = time.monotonic() + timeout_s
        if self.deadline is None or own < self.deadline:
            self.deadline = own
            get_hub().post(self._arm, timeout_s)

    def _arm(self, timeout_s: float) -> None:
        if not self._over:
            self._timer = get_hub().loop.call_later(timeout_s, self._expire, timeout_s)

    def _expire(self, timeout_s: float) -> None:
        self.cancel(BackendTimeout(f"the run did not end within its timeout of {timeout_s:g} s"))

    def ready(self) -> bool:
        """Whether it is over: nothing will change any more, and what went wrong is known."""
        return self._over

    def signals(self) -> Sequence[Signal]:
        return (self,)

    def end_body(self, error: BaseException | None = None) -> None:
        """The user's function returned, or raised `error`; what it left running after an error is cancelled."""
        self.body_error = error
        self.body_over = True
        if error is not None:
            self.cancel(error)
        self.look()
        self.fire()  # for readers that wait for a name to be declared

    def look(self) -> None:
        """Announce the end, once, if this is it."""
        with self.lock:
            if self._over or self.busy or not self.body_over:
                return
            self.unhandled = next((failure for failure in self.failures if not failure.delivered), None)
            if self._parent is not None:
                self._parent._has_ended(self)
            self._over = True  # last: readers do not take the lock
            calls, self._at_end = self._at_end, ()
        if self._timer is not None:
            get_hub().post(self._timer.cancel)
        if self._parent is None:
            self.settings.backend.end_program(self.program)
        self.fire()
        for call in calls:
            call()

    def _has_ended(self, nested: Run) -> None:
        # a nested run's lock is held: always inner before outer
        with self.lock:
            self._nested = tuple(run for run in self._nested if run is not nested)
            self.nested_usage += nested.usage()

    def at_end(self, call: Callable[[], None]) -> None:
        """Call `call` when the run is over, on whatever thread ends it; at once if it is."""
        with self.lock:
            if not self._over:
                self._at_end += (call,)
                return
        call()

    def cancel(self, cause: BaseException | None = None) -> None:
        """Fail what is pending and abort it at the backend. Nothing happens after the end."""
        if not self._over:
            root = self.root()
            if root is not None:
                root.cancel(cause)
            for nested in self._nested:
                nested.cancel(cause)

    def usage(self) -> Usage:
        root = self.root()
        return self.nested_usage if root is None else root.total_usage() + self.nested_usage

    def root(self) -> Chain | None:
        """The main line; None once nobody holds it any more."""
        return None if self._root is None else self._root()

    def begin(self, root: Chain) -> Chain:
        """Take `root` as the main line. Called once."""
        self._root = weakref.ref(root)
        return root

    def raise_failure(self) -> None:
        """Raise the error of the user's function itself, or the first failure that the program was not told of."""
        error = self.error()
        if error is not None:
            raise error

    def error(self) -> BaseException | None:
        if self.body_error is not None:
            return self.body_error
        return None if self.unhandled is None else self.unhandled.error()
