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
from ..lang.types import SamplingParams
from .accelerator import Accelerator
from .sequence import Sequence
from .staging import DeviceArrays

Arrays = dict[str, NDArray[np.int32]]
# The first time anybody asks for penalties, and whenever these are not enough, so many lines more.
LINES_AT_ONCE = 8


def is_penalized(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1.0 or params.frequency_penalty != 0.0 or params.presence_penalty != 0.0


@dataclass(slots=True, eq=False)
class CountLine:
    """One line of the counts.

    counted: the tokens that the device has counted there, prompt and output; whoever reads a draw adds its token
    """

    number: int
    owner: int | None = None
    num_prompt: int = 0
    counted: array[int] = field(default_factory=lambda: array("i"))


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
        self._spare: list[CountLine] = []

    def plan(self, sequences: list[Sequence]) -> tuple[Arrays, list[CountLine | None]]:
        """What to send, and the line of each sequence; None for those without penalties."""
        asked = [s for s in sequences if is_penalized(s.params)]
        if not asked:
            return {}, [None] * len(sequences)
        owned = {s.id: self._use(s.id, keep=len(asked)) for s in asked}
        lines = [owned.get(s.id) for s in sequences]
        stale: list[int] = []
        rows: list[NDArray[np.int32]] = []
        for sequence in asked:
            line = owned[sequence.id]
            if sequence.num_prompt != line.num_prompt or sequence.tokens[: len(line.counted)] != line.counted:
                line.num_prompt, line.counted = sequence.num_prompt, array("i")
            if not line.counted:
                stale.append(line.number)
            if len(line.counted) < len(sequence.tokens):
                rows.append(_additions(line, sequence))
                line.counted = sequence.tokens[:]
        found = np.concatenate(rows, 1) if rows else np.empty((3, 0), np.int32)
        params = [s.params for s in sequences]
        return {
            "count_lines": np.array([-1 if line is None else line.number for line in lines], np.int32),
            "repetition": _float_bits([p.repetition_penalty for p in params]),
            "frequency": _float_bits([p.frequency_penalty for p in params]),
            "presence": _float_bits([p.presence_penalty for p in params]),
            "stale": np.array(stale, np.int32),
            "seen_lines": found[0],
            "seen_tokens": found[1],
            "seen_counts": found[2],
        }, lines

    def penalties(self, arrays: DeviceArrays) -> Penalties:
        """Enqueue what was planned."""
        self._counts.index_fill_(0, arrays.int32("stale").long(), 0)
        where = arrays.int32("seen_lines"), arrays.int32("seen_tokens")
        self._counts.index_put_(where, arrays.int32("seen_counts"), accumulate=True)
        return Penalties(
            arrays.float32("repetition"),
            arrays.float32("frequency"),
            arrays.float32("presence"),
            self._counts,
            arrays.int32("count_lines"),
        )

    def forget(self) -> None:
        """Nothing that was planned is sure to have been counted."""
        for line in self._lines.values():
            line.counted = array("i")

    def _use(self, owner: int, *, keep: int) -> CountLine:
        line = self._lines.pop(owner, None)
        if line is None:
            if not self._spare and len(self._lines) < keep:
                self._grow(max(keep, len(self._counts) + LINES_AT_ONCE))
            if self._spare:
                line = self._spare.pop()
            else:
                line = self._lines.pop(next(iter(self._lines)))
            line.owner, line.counted = owner, array("i")
        self._lines[owner] = line
        return line

    def _grow(self, lines: int) -> None:
        before = len(self._counts)
        more = torch.zeros((lines - before, self._vocab), dtype=torch.int32, device=self._device)
        self._counts = torch.cat((self._counts, more))
        self._spare = [CountLine(number) for number in range(before, lines)]


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
