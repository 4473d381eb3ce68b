"""Masks of the constrained rows of a step, filled in a thread of their own while the forward pass runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Sequence_
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .constrained import allow, allows
from .sequence import ANYTHING, NOTHING, Masks, Plan, Row, Sequence


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


class MaskedAnswer(Protocol):
    """Says what may be drawn for one answer, as `Constrained` does."""

    @property
    def is_over(self) -> bool: ...
    def fill(self, row: NDArray[np.int32], left: int) -> None: ...
    def take(self, token: int, left: int) -> list[int]: ...
    def ahead(self) -> MaskedAnswer: ...


class AllowedTokens:
    """The same few tokens all along."""

    is_over = False

    def __init__(self, tokens: Sequence_[int], vocab_size: int) -> None:
        self._bits = np.zeros(-(-vocab_size // 32), np.int32)
        for token in tokens:
            allow(self._bits, token)

    def fill(self, row: NDArray[np.int32], left: int) -> None:
        row[:] = self._bits

    def take(self, token: int, left: int) -> list[int]:
        return []

    def ahead(self) -> AllowedTokens:
        return self


class MaskFiller:
    """One thread that fills the masks of one step at a time.

    bits: gives the memory for so many rows, as `MaskingRunner.mask_bits` does
    """

    def __init__(self, bits: Callable[[int], NDArray[np.int32]]) -> None:
        self._bits: Callable[[int], NDArray[np.int32]] | None = bits
        self._thread: ThreadPoolExecutor | None = None  # begins with the first mask

    def begin(self, plan: Plan, masked: Mapping[int, MaskedAnswer]) -> Filling | None:
        """Begin with the masks of `plan`, to be waited for; None if no row needs one. masked: by sequence id"""
        rows = [i for i, row in enumerate(plan.rows) if row.sequence.id in masked and row.draws_next] if masked else []
        if not rows:
            return None
        constrained = [plan.rows[i] for i in rows]
        answers = [masked[row.sequence.id] for row in constrained]
        assert self._bits is not None, "a mask after close"
        masks = Masks(rows, self._bits(len(rows)))
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "stolon-masks")
        return Filling(masks, self._thread.submit(_fill, masks.bits, constrained, answers))

    def close(self) -> None:
        self._bits = None  # it holds the model
        if self._thread is not None:
            self._thread.shutdown()


def _fill(bits: NDArray[np.int32], rows: list[Row], answers: list[MaskedAnswer]) -> list[Fault]:
    faults: list[Fault] = []
    guessed: dict[Sequence, _Guessed] = {}
    for mask, row, answer in zip(bits, rows, answers, strict=True):
        sequence = row.sequence
        left = sequence.params.max_tokens - (row.end - sequence.num_prompt)
        try:
            if row.guess is None:
                answer.fill(mask, left)
                guessed[sequence] = _Guessed(answer, mask)
            elif sequence not in guessed or not guessed[sequence].fill(mask, row.guess, left):
                mask[:] = NOTHING
        except Exception as error:  # whatever it is, it is the fault of this answer alone
            if row.guess is None:
                mask[:] = ANYTHING
                faults.append(Fault(sequence, error))
            else:  # it is met again if the guess comes true
                mask[:] = NOTHING
                del guessed[sequence]
    return faults


class _Guessed:
    """Masks behind guesses, until one is not allowed or ends the answer."""

    def __init__(self, answer: MaskedAnswer, mask: NDArray[np.int32]) -> None:
        """mask: of what may come first"""
        self._answer = answer
        self._ahead: MaskedAnswer | None = None
        self._mask = mask

    def fill(self, mask: NDArray[np.int32], guess: int, left: int) -> bool:
        """What may come behind `guess`, which stands behind those of the calls before; False where nothing may."""
        ahead = self._ahead = self._ahead or self._answer.ahead()
        if ahead.is_over or not allows(self._mask, guess):
            self._mask = np.zeros_like(mask)
            return False
        ahead.take(guess, left)
        if ahead.is_over:
            return False
        ahead.fill(mask, left)
        self._mask = mask
        return True
