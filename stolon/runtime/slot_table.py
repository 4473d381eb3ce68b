"""Where the KV entries of running sequences lie, kept on the device; steps tell it what is new only."""

from __future__ import annotations

from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .accelerator import Accelerator
from .sequence import Row
from .staging import DeviceArrays


@dataclass(slots=True, eq=False)
class _Line:
    """What one line of the table says: the slots of the first `known` positions of the sequence with id `owner`.

    relocated: how often slots of that sequence had changed when that was so
    """

    number: int
    owner: int | None = None
    relocated: int = 0
    known: int = 0


@dataclass(slots=True)
class News:
    """Entries of the table to write: int32 arrays of one length."""

    lines: NDArray[np.int32]
    positions: NDArray[np.int32]
    slots: NDArray[np.int32]

    @staticmethod
    def none() -> News:
        return News(*(np.empty(0, np.int32) for _ in range(3)))


class SlotTable:
    """One line for each sequence that computes; a sequence that is new takes the line that was used least recently.

    tensor: int32 [lines, width], slots by position. Steps are enqueued in order, so a line may get a new owner while a
    step that reads it for the old one is still to come.
    """

    ARRAYS = ("news_lines", "news_positions", "news_slots")  # that carry `News` to the device

    def __init__(self, accelerator: Accelerator, lines: int, width: int) -> None:
        self.tensor = torch.zeros((lines, width), dtype=torch.int32, device=accelerator.device)
        self._lines = [_Line(i) for i in range(lines)]
        self._line_of: dict[int, _Line] = {}
        self._by_use: dict[_Line, None] = dict.fromkeys(self._lines)  # least recently used first

    def assign(self, rows: Sequence_[Row]) -> tuple[list[int], News]:
        """The line of each row, and what must be written to the table before the step attends."""
        assert len(rows) <= len(self._lines), "more rows than a step may have"
        lines = [self._use(row.sequence.id) for row in rows]
        fresh: list[tuple[_Line, int, NDArray[np.int32]]] = []
        for row, line in zip(rows, lines, strict=True):
            sequence, end = row.sequence, row.end
            if line.relocated != sequence.relocated:
                line.relocated, line.known = sequence.relocated, 0
            known = min(line.known, row.start)
            if end > known:
                fresh.append((line, known, sequence.slots[known:end]))
            line.known = end
        return [line.number for line in lines], _news(fresh)

    def _use(self, owner: int) -> _Line:
        line = self._line_of.get(owner)
        if line is None:
            line = next(iter(self._by_use))
            if line.owner is not None:
                del self._line_of[line.owner]
            line.owner, line.known = owner, 0
            self._line_of[owner] = line
        del self._by_use[line]
        self._by_use[line] = None
        return line

    def forget(self) -> None:
        """Nothing that was assigned is sure to have been written."""
        for line in self._lines:
            line.known = 0

    def write(self, arrays: DeviceArrays) -> None:
        """Enqueue what `News` says, from the step's arrays."""
        lines, positions, slots = map(arrays.int32, self.ARRAYS)
        self.tensor.index_put_((lines, positions), slots)


def _news(fresh: list[tuple[_Line, int, NDArray[np.int32]]]) -> News:
    if all(len(slots) == 1 for _, _, slots in fresh):
        return News(
            np.array([line.number for line, _, _ in fresh], np.int32),
            np.array([start for _, start, _ in fresh], np.int32),
            np.array([slots[0] for _, _, slots in fresh], np.int32),
        )
    lengths = [len(slots) for _, _, slots in fresh]
    return News(
        np.repeat(np.array([line.number for line, _, _ in fresh], np.int32), lengths),
        np.concatenate([np.arange(start, start + len(slots), dtype=np.int32) for _, start, slots in fresh]),
        np.concatenate([slots for _, _, slots in fresh]),
    )
