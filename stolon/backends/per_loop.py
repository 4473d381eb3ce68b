"""A resource that belongs to an event loop, such as a pool of connections: one for each loop that asks."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Generic, TypeVar

from ..lang.hub import loop_runs_here

T = TypeVar("T")

Made = MutableMapping[asyncio.AbstractEventLoop, T]


class PerLoop(Generic[T]):
    """What is still open when this is dropped, or when the interpreter ends, is closed then.

    close: None where nothing needs to be closed; must not hold on to this object
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]] | None = None) -> None:
        self._make = make
        self._close = close
        self._made: Made[T] = weakref.WeakKeyDictionary()
        if close is not None:
            weakref.finalize(self, _abandon, self._made, close)

    def here(self) -> T:
        """The running loop's own, made when it is first asked for."""
        loop = asyncio.get_running_loop()
        made = self._made.get(loop)
        if made is None:
            made = self._made[loop] = self._make()
        return made

    async def close(self) -> None:
        """Close each on its own loop; those whose loop no longer runs have nothing left that could be closed."""
        here = asyncio.get_running_loop()
        while self._made and self._close is not None:
            loop, made = self._made.popitem()
            if loop is here:
                await self._close(made)
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_closed(made, self._close), loop))

    def shutdown(self) -> None:
        """`close` for callers without an event loop, from any thread; does not wait."""
        if self._close is not None:
            _abandon(self._made, self._close)


async def _closed(made: T, close: Callable[[T], Awaitable[None]]) -> None:
    await close(made)


def _abandon(made: Made[Any], close: Callable[[Any], Awaitable[None]]) -> None:
    while made:
        loop, one = made.popitem()
        if loop.is_running():
            asyncio.run_coroutine_threadsafe(_closed(one, close), loop)
        elif not loop.is_closed() and not loop_runs_here():
            loop.run_until_complete(_closed(one, close))
