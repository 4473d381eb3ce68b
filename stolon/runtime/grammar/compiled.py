"""Compiled grammars that are kept: as many as a limit of bytes allows, the ones used last; refusals too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock

from ...lang.errors import InvalidRequest
from .matcher import Grammar

_REFUSAL_BYTES = 1_000  # beside its message and its key


class CompiledGrammars:
    """Safe to use from several threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, tuple[Grammar | InvalidRequest, int]] = OrderedDict()
        self._lock = Lock()
        self.size_bytes = 0

    def get(self, key: Hashable) -> Grammar | InvalidRequest | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, key_bytes: int, result: Grammar | InvalidRequest) -> None:
        """What is larger than the limit alone is not kept."""
        own = _REFUSAL_BYTES + len(str(result)) if isinstance(result, InvalidRequest) else result.size_bytes
        size = own + key_bytes
        with self._lock:
            self.size_bytes -= self._kept.pop(key, (None, 0))[1]
            if size > self._most_bytes:
                return
            self._kept[key] = (result, size)
            self.size_bytes += size
            while self.size_bytes > self._most_bytes:
                self.size_bytes -= self._kept.popitem(last=False)[1][1]
