"""Decode steps recorded once and replayed: one launch instead of hundreds.

A graph computes a fixed number of rows. A step takes the smallest recorded graph that holds its rows; the places that
are left compute padding, whose keys and values are not kept.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable

from torch import Tensor

from .accelerator import Accelerator, Replay

logger = logging.getLogger(__name__)

Forward = Callable[[], Tensor]


def bucket_sizes(most: int) -> list[int]:
    """Numbers of rows to record, ascending, `most` the last: from 8 on no step is padded by more than half of it,
    from 64 on by a quarter at most."""
    sizes = [1, 2, 4, 8]
    while sizes[-1] < most:
        last = sizes[-1]
        sizes.append(last + (8 if last < 32 else 16 if last < 128 else 32 if last < 256 else last // 8))
    return [size for size in sizes if size < most] + [most]


def recording_order(sizes: list[int]) -> list[int]:
    """The largest first: it serves every step, and the others fit into memory that it has left. Then from the smallest
    up, where a launch is longest beside the work."""
    return sizes[-1:] + sizes[:-1]


class DecodeGraphs:
    """The graphs that were recorded, by number of rows and by whether they look for prefixes that rows share.

    prepare: gives, for the two, the forward pass over buffers that stay where they are
    """

    def __init__(self, accelerator: Accelerator, prepare: Callable[[int, bool], Forward]) -> None:
        self._accelerator = accelerator
        self._prepare = prepare
        self._recorded: dict[tuple[int, bool], _Recorded] = {}
        self.sizes: list[int] = []

    def record(
        self, sizes: list[int], *, shared: bool, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Record graphs until all are there or the time is up; what is not there is computed by a larger one.

        shared: also those that look for shared prefixes, after the others
        """
        began = clock()
        order = [(rows, False) for rows in recording_order(sizes)]
        if shared:
            order += [(rows, True) for rows in recording_order(sizes) if rows > 1]
        for rows, shares in order:
            if clock() - began >= seconds:
                logger.warning("%d of %d graphs were recorded in %g s", len(self._recorded), len(order), seconds)
                break
            self._recorded[rows, shares] = _Recorded(self._accelerator, self._prepare(rows, shares))
        self.sizes = sorted(rows for rows, shares in self._recorded if not shares)

    def size_for(self, rows: int) -> int | None:
        """Rows of the graph that a step of `rows` takes; None if there is none."""
        place = bisect_left(self.sizes, rows)
        return self.sizes[place] if place < len(self.sizes) else None

    def has(self, size: int, *, shares: bool) -> bool:
        return (size, shares) in self._recorded

    def replay(self, size: int, *, shares: bool) -> Tensor:
        """The hidden states, in a buffer that the next replay overwrites."""
        return self._recorded[size, shares].replay()

    @property
    def report(self) -> str:
        if not self.sizes:
            return "CUDA graphs: none"
        return f"CUDA graphs: {len(self.sizes)}, for decode steps of up to {self.sizes[-1]} rows"


class _Recorded:
    """One graph and the tensor that it writes."""

    def __init__(self, accelerator: Accelerator, forward: Forward) -> None:
        self._forward = forward
        self._output: Tensor | None = None
        self._replay: Replay = accelerator.record(self._run)

    def _run(self) -> None:
        self._output = self._forward()

    def replay(self) -> Tensor:
        self._replay()
        assert self._output is not None
        return self._output
