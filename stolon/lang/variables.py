"""Values that are not there yet: a variable is a future with a value or an error, and a log that many may read."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from .errors import Cancelled, GenerationError
from .forms import Form
from .hub import Hub, Mailbox, mailbox
from .info import Info
from .ir import NOWHERE, Origin, where
from .pool import waiting
from .types import Delta

_lock = threading.Lock()  # for the lists of waiters, all of them: held for nanoseconds, uncontended nearly always


class Signal:
    """Wakes whoever asked to hear of the next change. Each subscription is for one change, and may be woken twice."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[Callable[[], None]] | None = None  # made when needed: most signals are never waited for

    def subscribe(self, wake: Callable[[], None]) -> None:
        with _lock:
            if self._waiters is None:
                self._waiters = [wake]
            else:
                self._waiters.append(wake)

    def fire(self) -> None:
        # unlocked: who subscribes after this look checks again what it waits for
        if self._waiters:
            with _lock:
                waiters, self._waiters = self._waiters, None
            for wake in waiters or ():
                wake()


class Waitable(Protocol):
    """Something that a reader can wait for: `ready` may be asked at any time, `signals` tell when to ask again."""

    def ready(self) -> bool: ...

    def signals(self) -> Sequence[Signal]: ...


class _Gate:
    """One blocked thread."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        with suppress(RuntimeError):  # open already: woken twice
            self._lock.release()

    def wait(self, timeout_s: float | None) -> bool:
        return self._lock.acquire(timeout=-1 if timeout_s is None else timeout_s)


def block(waitable: Waitable, *, lent: bool = False, timeout_s: float | None = None) -> bool:
    """Wait in this thread until `waitable` is ready; False if `timeout_s` passed at one of its changes before."""
    while not waitable.ready():
        gate = _Gate()
        for signal in waitable.signals():
            signal.subscribe(gate.open)
        if waitable.ready():
            break
        with waiting(lent=lent):
            if not gate.wait(timeout_s):
                return waitable.ready()
    return True


async def settle(waitable: Waitable) -> None:
    """Wait in the running loop until `waitable` is ready."""
    while not waitable.ready():
        await next_change(waitable)


def next_change(waitable: Waitable) -> asyncio.Future[None]:
    """A future of the running loop that is done at the next change of `waitable`, or if it is ready already."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    wake = _Wake(future, mailbox(loop))
    for signal in waitable.signals():
        signal.subscribe(wake)
    if waitable.ready():
        _finish(future)
    return future


class _Wake:
    """Wakes a future from any thread."""

    __slots__ = ("_future", "_mailbox")

    def __init__(self, future: asyncio.Future[None], mailbox: Mailbox | Hub) -> None:
        self._future = future
        self._mailbox = mailbox

    def __call__(self) -> None:
        mailbox = self._mailbox
        if isinstance(mailbox, Hub) and mailbox.is_here():
            _finish(self._future)  # only schedules who awaits it
        else:
            mailbox.post(_finish, self._future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Failure:
    """Why a generation has no value. Every read gets an error of its own, so that tracebacks do not pile up.

    label, origin: the generation that failed; branch: the fork it was in, empty for the main line
    """

    __slots__ = ("branch", "cancelled", "cause", "delivered", "label", "origin")

    def __init__(
        self, label: str, origin: Origin, branch: str, cause: BaseException | None, *, cancelled: bool = False
    ) -> None:
        self.label = label
        self.origin = origin
        self.branch = branch
        self.cause = cause
        self.cancelled = cancelled
        self.delivered = False  # whether the program has been told

    def error(self, reader: Variable | None = None, more: str = "") -> GenerationError:
        """The error for a read of `reader`, or of the whole state; `more` ends its message."""
        self.delivered = True
        message = f"{self.label}{where(self.origin)}{f' in {self.branch}' if self.branch else ''}: {self._reason()}"
        if reader is not None and reader.label != self.label:
            message = f"{reader.label}{where(reader.origin)} has no value, because of {message}"
        error = (Cancelled if self.cancelled else GenerationError)(message + more)
        error.__cause__ = self.cause
        return error

    def _reason(self) -> str:
        if self.cause is None:
            return "cancelled"
        if self.cancelled:
            return f"cancelled, for the program raised {type(self.cause).__name__}: {self.cause}"
        return f"{type(self.cause).__name__}: {self.cause}"


class Variable(Signal):
    """What one appended `gen` or `select` (or assignment, scope, join) becomes.

    form: of the text, if it has to have one
    log: the increments so far, in order; any number of cursors read it. It goes when the value is there and nobody
    reads along; later readers get everything as one increment.
    """

    __slots__ = (
        "done", "failure", "form", "info", "label", "log", "name", "open_scope", "origin", "readers",
        "text_in_logprobs", "value",
    )  # fmt: skip

    def __init__(self, name: str | None, label: str, origin: Origin = NOWHERE) -> None:
        super().__init__()
        self.name = name
        self.label = label
        self.origin = origin
        self.log: list[Delta] | None = None
        self.value: object = None
        self.info: Info | None = None
        self.failure: Failure | None = None
        self.done = False
        self.open_scope = False
        self.readers = 0
        self.text_in_logprobs = False
        self.form: Form | None = None

    def ready(self) -> bool:
        return self.done

    def signals(self) -> Sequence[Signal]:
        return (self,)

    def feed(self, delta: Delta) -> None:
        if self.log is None:
            self.log = [delta]
        else:
            self.log.append(delta)
        self.fire()

    def heard(self) -> Sequence[Delta]:
        """The increments so far, from the first; of a variable that is done, they may be one."""
        log = self.log
        if log is not None:
            return log
        if self.info is not None:
            return (self.info.as_delta(),)
        return (Delta(self.value),) if isinstance(self.value, str) else ()

    def resolve(self, value: object, info: Info | None = None) -> None:
        """Give it its value; a second outcome of any kind is ignored, for a cancellation may race with the end."""
        with _lock:
            if self.done:
                return
            self.value, self.info, self.done = value, info, True
            if not self.readers:
                self.log = None
        self.fire()

    def add_reader(self, count: int) -> None:
        with _lock:
            self.readers += count

    def fail(self, failure: Failure) -> None:
        with _lock:
            if self.done:
                return
            self.failure, self.done = failure, True
        self.fire()

    def failures(self) -> list[Failure]:
        """All that a read of this variable tells of."""
        return [] if self.failure is None else [self.failure]

    def result(self) -> object:
        """The value of a variable that is done. Raises GenerationError."""
        if self.failure is not None:
            raise self.failure.error(self)
        return self.value


def assigned(name: str, value: object) -> Variable:
    """A variable that the program set itself."""
    variable = Variable(name, f"s[{name!r}]")
    variable.resolve(value)
    return variable


class Gathered(Variable):
    """A list of what `parts` become, in their order, once all are done; the first failure among them is its failure.

    Reading it tells the program of every failure among them: none of them is raised again at the end of the run.
    """

    __slots__ = ("_parts",)

    def __init__(self, name: str | None, parts: Sequence[Variable]) -> None:
        super().__init__(name, f"the list of {name!r}")
        self._parts = parts
        self._look()

    def _look(self) -> None:
        """Find the first part that is not done, and look again when it changes. May run in two threads at once."""
        for part in self._parts:
            if not part.done:
                part.subscribe(self._look)
                if not part.done:
                    return
        failed = next((part.failure for part in self._parts if part.failure is not None), None)
        if failed is not None:
            self.fail(failed)
        else:
            self.resolve([part.value for part in self._parts])

    def failures(self) -> list[Failure]:
        return [failure for part in self._parts for failure in part.failures()]

    def result(self) -> object:
        if self.failure is not None:
            failures = self.failures()
            for failure in failures:
                failure.delivered = True
            raise self.failure.error(self, f"; {len(failures)} branches failed" if len(failures) > 1 else "")
        return self.value


def _forget() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that the child of a fork does not have may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
