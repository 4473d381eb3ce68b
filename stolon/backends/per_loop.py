"""A resource that belongs to an event loop, such as a pool of connections: one for each loop that asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class PerLoop(Generic[T]):
    """close: None where nothing needs to be closed"""

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]] | None = None) -> None:
        self._make = make
        self._close = close
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

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
        while self._made:
            loop, made = self._made.popitem()
            if loop is here:
                await self._closed(made)
            elif loop.is_running():
                closing = asyncio.run_coroutine_threadsafe(self._closed(made), loop)
                await asyncio.wrap_future(closing)

    async def _closed(self, made: T) -> None:
        if self._close is not None:
            await self._close(made)
