"""Smaller steps after one did not fit into the device's memory."""

from __future__ import annotations

from ..lang.errors import EngineError

PATIENCE = 32  # steps that went well before larger ones are tried again


class Throttle:
    """How many tokens a step may have. What a step takes beside weights and KV cache grows with its tokens."""

    def __init__(self) -> None:
        self._most: int | None = None  # None: nothing has failed
        self._good = 0

    def limit(self, budget: int) -> int:
        if self._most is not None and self._most >= budget:
            self._most = None
        return budget if self._most is None else self._most

    def halve(self, tokens: int) -> bool:
        """A step of so many tokens did not fit; False if none can be smaller."""
        self._good = 0
        self._most = max(tokens // 2, 1)
        return tokens > 1

    def recover(self) -> None:
        """A step went well."""
        if self._most is None:
            return
        self._good += 1
        if self._good >= PATIENCE:
            self._good = 0
            self._most *= 2


def out_of_memory(reason: str) -> EngineError:
    return EngineError(
        f"the device has no memory left for even one token of this request ({reason}); send fewer requests at once, or "
        "lower --kv-tokens or --memory-fraction and start again",
        code="out_of_memory",
    )
