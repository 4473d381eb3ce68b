"""Which KV slots are free. Slots are numbered from 0; a page is `page_size` neighbouring slots and is never divided."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray


class InvariantError(AssertionError):
    """The planning half found its own books wrong; the message says where."""


class PagePool:
    """A stack of free pages, kept in one preallocated array.

    num_slots: what is left over after whole pages is never used
    Raises InvariantError when a page is freed twice or more pages are taken than are free.
    """

    def __init__(self, num_slots: int, page_size: int = 1) -> None:
        if page_size < 1 or num_slots < page_size:
            raise ValueError(f"a pool needs at least one page: got {num_slots} slots in pages of {page_size}")
        self.page_size = page_size
        self.num_pages = num_slots // page_size
        self.num_slots = self.num_pages * page_size
        # The lowest page lies on top, so a fresh engine fills its memory from the front.
        self._stack = np.arange(self.num_pages - 1, -1, -1, dtype=np.int32)
        self._top = self.num_pages
        self._is_free = np.ones(self.num_pages, np.bool_)
        self._within = np.arange(page_size, dtype=np.int32)
        self._user = 0  # a step that may still use what is given now
        self._used: list[tuple[int, NDArray[np.int32]]] = []

    @property
    def free(self) -> int:
        """Free slots."""
        return self._top * self.page_size

    def take(self, count: int) -> NDArray[np.int32]:
        """Slots of `count` pages, page by page; [count * page_size]."""
        if count > self._top:
            raise InvariantError(f"{count} pages were taken where {self._top} are free")
        self._top -= count
        pages: NDArray[np.int32] = np.array(self._stack[self._top : self._top + count][::-1])
        self._is_free[pages] = False
        if self.page_size == 1:
            return pages
        return self._slots_of(pages)

    def take_one(self) -> int:
        """A page; its first slot. (What a decode step asks for: without an array, eight times faster.)"""
        if not self._top:
            raise InvariantError("a page was taken where none is free")
        self._top -= 1
        page = int(self._stack[self._top])
        self._is_free[page] = False
        return page * self.page_size

    def give(self, slots: NDArray[np.int32]) -> None:
        """Free whole pages; `slots` as `take` gave them, in any order of pages."""
        pages = slots if self.page_size == 1 else slots[:: self.page_size] // self.page_size
        count = len(pages)
        if not count:
            return
        if self._user:
            self._used.append((self._user, np.array(slots)))
            return
        free = self._is_free
        if free[pages].any() or self._top + count > self.num_pages:
            raise InvariantError(f"pages were freed twice: {pages[free[pages]].tolist() or pages.tolist()}")
        self._stack[self._top : self._top + count] = pages
        free[pages] = True
        self._top += count

    @contextmanager
    def used_until(self, step: int) -> Generator[None]:
        """What is given in this block becomes free when `end` is told of `step`; 0: at once."""
        self._user = step
        try:
            yield
        finally:
            self._user = 0

    def end(self, step: int) -> None:
        """Step `step`, and all before it, use nothing any more."""
        while self._used and self._used[0][0] <= step:
            self.give(self._used.pop(0)[1])

    def used_slots(self) -> list[NDArray[np.int32]]:
        """Given, but not free yet; for checks."""
        return [slots for _, slots in self._used]

    def free_slots(self) -> NDArray[np.int32]:
        """All free slots, unordered; for checks."""
        return self._slots_of(self._stack[: self._top])

    def is_free(self, slots: NDArray[np.int32]) -> bool:
        """Whether any of them is; for checks."""
        return bool(self._is_free[slots // self.page_size].any())

    def _slots_of(self, pages: NDArray[np.int32]) -> NDArray[np.int32]:
        if self.page_size == 1:
            return pages
        return np.ravel(pages[:, None] * self.page_size + self._within)
