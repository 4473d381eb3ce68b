"""The progress bar of a batch: rate, time left, failures, and the share of prompt tokens that came from a cache."""

from __future__ import annotations

from typing import Any

from .types import Usage


class Progress:
    """One line on standard error. Not for several threads at once: the batch holds its lock."""

    def __init__(self, total: int) -> None:
        from tqdm import tqdm  # lazily: a dependency that `import stolon` need not load

        self._bar: Any = tqdm(total=total)
        self._failed = 0
        self._usage = Usage()

    def step(self, *, failed: bool, usage: Usage) -> None:
        """One more item has ended."""
        self._failed += failed
        self._usage += usage
        shown: dict[str, str] = {}
        if self._failed:
            shown["failed"] = str(self._failed)
        if self._usage.cached_tokens:
            shown["cached"] = f"{self._usage.cached_tokens / self._usage.prompt_tokens:.0%}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()
        if self._bar.n >= (self._bar.total or 0):
            self._bar.close()
