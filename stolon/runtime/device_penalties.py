"""How often each token was seen by the sequences that are penalised for it, counted on the device."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..kernels.drawing import Penalties
from .accelerator import Accelerator
from .sampler import repetition_of
from .sequence import Row, Sequence
from .staging import Arrays, DeviceArrays

# The first time anybody asks for penalties, and whenever these are not enough, so many lines more.
LINES_AT_ONCE = 8


@dataclass(slots=True, eq=False)
class CountLine:
    """One line of the counts, from when it was last emptied on.

    counted: the tokens that the device has counted there, prompt and output, as far as the host knows
    drawing: draws that the device counts by itself and whose tokens nobody has read; whoever reads one adds its token
    """

    number: int
    num_prompt: int = 0
    counted: array[int] = field(default_factory=lambda: array("i"))
    drawing: int = 0

    def goes_on_with(self, row: Row) -> bool:
        """Whether what was counted is what precedes the row's draw, but for tokens that are still to be added.

        A token that is being drawn may be the row's own (`source`). It may also have lost its place to a forced run:
        then it is counted all the same, nobody knows yet which it is, and the line is of no use.
        """
        sequence = row.sequence
        return (
            self.num_prompt == sequence.num_prompt
            and self.drawing == (row.source is not None)
            and sequence.tokens[: len(self.counted)] == self.counted
        )

    def read(self, token: int) -> None:
        """A draw was read; token: -1 where there was nothing to draw, which was not counted"""
        self.drawing -= 1
        if token >= 0:
            self.counted.append(token)


class TokenCounts:
    """Counts as `Penalties` wants them, a line for each penalised sequence of a step.

    The device adds what it draws; the host sends what else there is: the prompt at first, and later tokens that came by
    another way than a draw. Where what was counted is not what the sequence says, its line begins anew.
    """

    def __init__(self, accelerator: Accelerator, vocab_size: int) -> None:
        self._vocab = vocab_size
        self._device = accelerator.device
        self._counts = torch.zeros((0, vocab_size), dtype=torch.int32, device=accelerator.device)
        self._lines: dict[int, CountLine] = {}  # by owner, least recently used first
        self._spare: list[int] = []  # numbers of lines without an owner

    def plan(self, rows: list[Row]) -> tuple[Arrays, list[CountLine | None]]:
        """What to send before these rows draw, and the line of each; None for those without penalties.

        Known at launch: a token that is still being drawn is on the device, and counted there.
        """
        asked = [row for row in rows if row.sequence.params.is_penalized]
        if not asked:
            return {}, [None] * len(rows)
        self._keep_lines([row.sequence.id for row in asked])
        stale: list[int] = []
        added: list[NDArray[np.int32]] = []
        for row in asked:
            sequence = row.sequence
            line = self._lines[sequence.id]
            if not line.goes_on_with(row):
                assert row.source is None, "a token that is being drawn is counted in the line of its sequence"
                line = self._lines[sequence.id] = CountLine(line.number, sequence.num_prompt)
                stale.append(line.number)
            if len(line.counted) < len(sequence.tokens):
                added.append(_additions(line, sequence))
                line.counted = sequence.tokens[:]
        found = np.concatenate(added, 1) if added else np.empty((3, 0), np.int32)
        lines = [self._lines.get(row.sequence.id) if row.sequence.params.is_penalized else None for row in rows]
        params = [row.sequence.params for row in rows]
        return {
            "count_lines": np.array([-1 if line is None else line.number for line in lines], np.int32),
            "repetition": _float_bits([repetition_of(p) for p in params]),
            "frequency": _float_bits([p.frequency_penalty for p in params]),
            "presence": _float_bits([p.presence_penalty for p in params]),
            "stale": np.array(stale, np.int32),
            "seen_lines": found[0],
            "seen_tokens": found[1],
            "seen_counts": found[2],
        }, lines

    def update(self, arrays: DeviceArrays) -> None:
        """Enqueue what was planned: empty lines that begin anew, add what was sent."""
        self._counts.index_fill_(0, arrays.int32("stale").long(), 0)
        where = arrays.int32("seen_lines"), arrays.int32("seen_tokens")
        self._counts.index_put_(where, arrays.int32("seen_counts"), accumulate=True)

    def penalties(self, arrays: DeviceArrays) -> Penalties:
        return Penalties(
            arrays.float32("repetition"),
            arrays.float32("frequency"),
            arrays.float32("presence"),
            self._counts,
            arrays.int32("count_lines"),
        )

    def forget(self) -> None:
        """Nothing that was planned is sure to have been counted."""
        self._lines = {owner: CountLine(line.number) for owner, line in self._lines.items()}

    def _keep_lines(self, owners: list[int]) -> None:
        """Give each of them a line of its own, those that have one theirs."""
        known = {owner: self._lines.pop(owner) for owner in owners if owner in self._lines}
        fresh = [owner for owner in owners if owner not in known]
        if len(self._lines) + len(self._spare) < len(fresh):
            self._grow(max(len(owners), len(self._counts) + LINES_AT_ONCE))
        for owner in fresh:
            number = self._spare.pop() if self._spare else self._lines.pop(next(iter(self._lines))).number
            known[owner] = CountLine(number)
        self._lines |= known

    def _grow(self, lines: int) -> None:
        before = len(self._counts)
        more = torch.zeros((lines - before, self._vocab), dtype=torch.int32, device=self._device)
        self._counts = torch.cat((self._counts, more))
        self._spare += range(before, lines)


def _additions(line: CountLine, sequence: Sequence) -> NDArray[np.int32]:
    """[3, n]: line, token, and what to add to its count: 1 for the prompt, 2 for each time in the output."""
    parts: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
    fresh = np.array(sequence.tokens[len(line.counted) :], np.int32)
    if not line.counted:
        prompt = np.unique(fresh[: sequence.num_prompt])
        parts.append((prompt, np.ones_like(prompt)))
        fresh = fresh[sequence.num_prompt :]
    output, times = np.unique(fresh, return_counts=True)
    parts.append((output, (2 * times).astype(np.int32)))
    tokens = np.concatenate([tokens for tokens, _ in parts])
    counts = np.concatenate([counts for _, counts in parts])
    return np.stack((np.full_like(tokens, line.number), tokens, counts))


def _float_bits(values: list[float]) -> NDArray[np.int32]:
    return np.array(values, np.float32).view(np.int32)
