"""Masks of the constrained rows of a step, filled in a thread of their own while the forward pass runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .constrained import Constrained
from .sequence import ANYTHING, Masks, Plan, Sequence


@dataclass(frozen=True, slots=True)
class Fault:
    """A sequence whose answer cannot go on; its row of the masks allows anything, and its draw is to be forgotten."""

    sequence: Sequence
    error: Exception


@dataclass(frozen=True, slots=True)
class Filling:
    """Masks on their way."""

    masks: Masks
    faults: Future[list[Fault]]

    def wait(self) -> list[Fault]:
        """Returns once the masks are filled."""
        return self.faults.result()


class MaskFiller:
    """One thread that fills the masks of one step at a time.

    bits: gives the memory for so many rows, as `MaskingRunner.mask_bits` does
    """

    def __init__(self, bits: Callable[[int], NDArray[np.int32]]) -> None:
        self._bits: Callable[[int], NDArray[np.int32]] | None = bits
        self._thread: ThreadPoolExecutor | None = None  # begins with the first mask

    def begin(self, plan: Plan, forms: Mapping[int, Constrained]) -> Filling | None:
        """Begin with the masks of `plan`, to be waited for; None if no row needs one. forms: by sequence id"""
        rows = [i for i, row in enumerate(plan.rows) if row.sequence.id in forms and row.draws_next] if forms else []
        if not rows:
            return None
        sequences = [plan.rows[i].sequence for i in rows]
        answers = [forms[sequence.id] for sequence in sequences]
        assert self._bits is not None, "a mask after close"
        masks = Masks(rows, self._bits(len(rows)))
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "stolon-masks")
        return Filling(masks, self._thread.submit(_fill, masks.bits, sequences, answers))

    def close(self) -> None:
        self._bits = None  # it holds the model
        if self._thread is not None:
            self._thread.shutdown()


def _fill(bits: NDArray[np.int32], sequences: list[Sequence], answers: list[Constrained]) -> list[Fault]:
    faults: list[Fault] = []
    for row, sequence, answer in zip(bits, sequences, answers, strict=True):
        try:
            answer.fill(row, sequence.params.max_tokens - sequence.num_output)
        except Exception as error:  # whatever it is, it is the fault of this answer alone
            row[:] = ANYTHING
            faults.append(Fault(sequence, error))
    return faults
