"""The hub: one daemon thread that owns an event loop and does all the waiting for backends."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .errors import ProgramError

T = TypeVar("T")


class Mailbox:
    """Calls for a loop from other threads; however many are posted, the loop is woken once."""

    __slots__ = ("__weakref__", "_awake", "_calls", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._awake = False

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Have `call(*args)` run on the loop, soon and in order."""
        self._calls.append((call, args))
        if not self._awake:
            self._awake = True
            try:
                self._loop.call_soon_threadsafe(self._empty)
            except RuntimeError:
                if not self._loop.is_closed():
                    raise
                self._calls.clear()  # nobody is left to hear

    def _empty(self) -> None:
        # first: whoever posts from here on either is seen below or wakes the loop again
        self._awake = False
        while self._calls:
            call, args = self._calls.popleft()
            try:
                call(*args)
            except Exception as error:
                self._loop.call_exception_handler({"message": f"{call} failed on the hub", "exception": error})


class Hub:
    """One loop on one daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._mailbox = Mailbox(self.loop)
        self._thread = threading.Thread(target=self._serve, name="stolon-hub", daemon=True)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def is_here(self) -> bool:
        """Whether the caller runs on the hub's thread."""
        return threading.get_ident() == self._thread.ident

    def post(self, call: Callable[..., object], *args: Any) -> None:
        if self.is_here():
            self.loop.call_soon(call, *args)
        else:
            self._mailbox.post(call, *args)

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Run `work`, which must handle its own errors, as a task. On the hub's thread only."""
        task = self.loop.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, run on the hub; blocks. Raises ProgramError on the hub's own thread."""
        if self.is_here():
            work.close()
            raise ProgramError("this call would block the thread that everything waits on; await it instead")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what runs, stop the loop and wait a moment for the thread."""
        if self._thread.is_alive() and not self.is_here():
            self._mailbox.post(self.loop.create_task, self._wind_up())
            self._thread.join(timeout=2)

    async def _wind_up(self) -> None:
        others = [task for task in asyncio.all_tasks(self.loop) if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=1)
        self.loop.stop()


_hub: Hub | None = None
_lock = threading.Lock()


def get_hub() -> Hub:
    """The hub of this process; made at the first use, and anew after a fork."""
    global _hub
    if _hub is None:
        with _lock:
            if _hub is None:
                _hub = Hub()
    return _hub


def _forget() -> None:
    # the child of a fork has no hub thread, and the lock may have been held by a thread it does not have either
    global _hub, _lock
    _hub = None
    _lock = threading.Lock()
    _mailboxes.clear()


def _close_at_exit() -> None:
    if _hub is not None:
        _hub.close()


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = weakref.WeakKeyDictionary()


def mailbox(loop: asyncio.AbstractEventLoop) -> Mailbox | Hub:
    """Where to post calls for `loop` from any thread; the hub itself for the hub's own loop."""
    hub = get_hub()
    if loop is hub.loop:
        return hub
    box = _mailboxes.get(loop)
    if box is None:
        box = _mailboxes[loop] = Mailbox(loop)
    return box


def loop_runs_here() -> bool:
    """Whether this thread is inside a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


atexit.register(_close_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
