"""Tokens of text that was seen before, so that a conversation that grows is not read again from its start."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence

from .tokenizer import Place


class RunCache:
    """Remembers the tokens of plain runs, the least recently used forgotten first. Safe to share between threads.

    max_bytes: of texts and tokens together, near enough
    """

    def __init__(self, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._runs: OrderedDict[tuple[str, Place], array[int]] = OrderedDict()
        self._lock = threading.Lock()

    def tokens(self, text: str, place: Place, encode: Callable[[str, Place], Sequence[int]]) -> Sequence[int]:
        """What `encode(text, place)` gives, which must always be the same."""
        key = (text, place)
        with self._lock:
            found = self._runs.get(key)
            if found is not None:
                self._runs.move_to_end(key)
                return found
        made = array("i", encode(text, place))
        with self._lock:
            self._bytes -= self._cost(text, self._runs.pop(key, None))
            self._runs[key] = made
            self._bytes += self._cost(text, made)
            while self._bytes > self._max_bytes:
                (old, _), tokens = self._runs.popitem(last=False)
                self._bytes -= self._cost(old, tokens)
        return made

    @staticmethod
    def _cost(text: str, tokens: array[int] | None) -> int:
        # 300: two objects, a key and an entry of the table
        return 0 if tokens is None else 300 + 2 * len(text) + 4 * len(tokens)
