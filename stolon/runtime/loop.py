"""The engine's thread: one daemon thread that owns the core, takes requests in and hands increments out."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..lang.errors import EngineClosedError, EngineError, StolonError
from .core import EngineCore, Output, Request
from .pipeline import as_engine_error

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Receiver(Protocol):
    """Where the outputs of a request go: `receive` runs on `loop`."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def receive(self, output: Output) -> None: ...


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life. at_s: since when, on the monotonic clock, the step under way has been computed; now if none is.
    steps: made since the start."""

    alive: bool
    steps: int
    at_s: float
    busy: bool


@dataclass(frozen=True, slots=True)
class _Submit:
    request: Request
    receiver: Receiver


@dataclass(frozen=True, slots=True)
class _Abort:
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    run: Callable[[], None]
    give_up: Callable[[Exception], None]


_Command = _Submit | _Abort | _Call


class EngineThread:
    """Runs `core.step()` while there is work and sleeps while there is none. All methods may be called from any
    thread; nothing but this thread touches the core.

    An exception that escapes the core means that its books can no longer be trusted: every pending request ends in
    an EngineError and the thread stays dead, so that nobody waits for an answer that cannot come.
    """

    def __init__(self, core: EngineCore, after_step: Callable[[float], None] | None = None) -> None:
        """after_step: is told how many seconds each step took"""
        self._core = core
        self._after_step = after_step
        self._commands: deque[_Command] = deque()
        self._receivers: dict[int, Receiver] = {}
        self._wake = threading.Condition()
        self._refusal: StolonError | None = None  # why nothing can be submitted any more
        self._stopping = False
        self._steps = 0
        self._at_s = time.monotonic()
        self._busy = False
        self._thread = threading.Thread(target=self._run, name="stolon-engine", daemon=True)
        self._thread.start()

    @property
    def heartbeat(self) -> Heartbeat:
        busy, at_s = self._busy, self._at_s
        alive = self._thread.is_alive() and self._refusal is None
        return Heartbeat(alive, self._steps, at_s if busy else time.monotonic(), busy)

    def submit(self, requests: Iterable[tuple[Request, Receiver]]) -> None:
        """Queue requests so that no step begins between them. Raises what ended the thread, if it has ended."""
        self._put(_Submit(request, receiver) for request, receiver in requests)

    def abort(self, ids: Iterable[int]) -> None:
        """End these requests before the next step; unknown ids are those that ended already."""
        with self._wake:
            if not self._stopping:
                self._commands.append(_Abort(tuple(ids)))
                self._wake.notify_all()

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run `function` between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._put([_Call(run, future.set_exception)])
        return future

    def stop(self, drain_s: float = 0.0) -> None:
        """Take nothing more, give what is pending `drain_s` to end by itself, end the rest with an EngineClosedError,
        then the thread. A second call does nothing."""
        with self._wake:
            if self._refusal is None:
                self._refusal = EngineClosedError("the engine has been closed; make a new one")
            self._wake.wait_for(lambda: self._stopping or not (self._commands or self._receivers), drain_s)
            self._stopping = True
            self._wake.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _put(self, commands: Iterable[_Command]) -> None:
        with self._wake:
            if self._refusal is not None:
                raise _again(self._refusal)
            self._commands.extend(commands)
            self._wake.notify_all()

    def _run(self) -> None:
        try:
            while self._take():
                self._deliver(self._core.step())
                self._steps += 1
                self._busy = False
                if self._after_step is not None:
                    self._after_step(time.monotonic() - self._at_s)
        except BaseException as error:
            logger.exception("the engine thread failed; every pending request ends in an error")
            fault = EngineError(f"the engine stopped after an internal fault ({error!r}); make a new one")
            fault.__cause__ = error
            self._end(fault)
        else:
            self._end(EngineClosedError("the engine was closed before this request ended"))

    def _take(self) -> bool:
        """Carry out what was asked since the last step; block while there is nothing to do. False: stop."""
        with self._wake:
            while not (self._commands or self._core.has_work or self._stopping):
                self._wake.notify_all()  # whoever waits for the last request to end
                self._wake.wait()
            if self._stopping:
                return False
            commands = list(self._commands)
            self._commands.clear()
            # known before they leave the lock, so that a fault below ends them too
            self._receivers.update((c.request.id, c.receiver) for c in commands if isinstance(c, _Submit))
        self._at_s = time.monotonic()
        self._busy = True
        for command in commands:
            self._apply(command)
        return True

    def _apply(self, command: _Command) -> None:
        match command:
            case _Submit(request):
                try:
                    self._core.submit(request)
                except Exception as error:
                    self._deliver([Output(request.id, as_engine_error(error))])
            case _Abort(ids):
                for id in ids:
                    self._core.abort(id)
            case _Call(run):
                run()

    def _deliver(self, outputs: Iterable[Output]) -> None:
        """Hand outputs to their readers, with one wake-up for each event loop."""
        batches: dict[asyncio.AbstractEventLoop, list[tuple[Receiver, Output]]] = {}
        for output in outputs:
            receiver = self._receivers.pop(output.id) if output.is_last else self._receivers[output.id]
            batches.setdefault(receiver.loop, []).append((receiver, output))
        for loop, batch in batches.items():
            try:
                loop.call_soon_threadsafe(_hand_out, batch)
            except RuntimeError:  # that loop is closed: nobody will ever read these
                for _, output in batch:
                    if not output.is_last:
                        self._core.abort(output.id)

    def _end(self, reason: StolonError) -> None:
        with self._wake:
            self._refusal = self._refusal or reason
            self._stopping = True
            commands = list(self._commands)
            self._commands.clear()
            self._receivers.update((c.request.id, c.receiver) for c in commands if isinstance(c, _Submit))
            self._wake.notify_all()
        for command in commands:
            if isinstance(command, _Call):
                command.give_up(_again(reason))
        self._deliver([Output(id, _again(reason)) for id in self._receivers])


def _hand_out(batch: list[tuple[Receiver, Output]]) -> None:
    for receiver, output in batch:
        receiver.receive(output)


def _again(error: StolonError) -> StolonError:
    """The same error for another request: one exception raised in many places would collect all their tracebacks."""
    twin = EngineError(str(error)) if isinstance(error, EngineError) else EngineClosedError(str(error))
    twin.__cause__ = error.__cause__
    return twin
