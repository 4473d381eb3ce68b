"""A request inside the engine, and what the scheduler asks of a model runner. No torch here."""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ..lang.types import FinishReason, SamplingParams, TokenLogprob

if TYPE_CHECKING:
    from .radix import RadixNode


class Status(enum.Enum):
    """Where a sequence stands. WAITING -> RUNNING -> FINISHED; preemption leads back to WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """One token sequence: its prompt, what was generated, and where its KV entries lie.

    tokens: prompt and output ids, as array("i")
    priority: larger goes first
    arrival: order of submission; the scheduler sets it
    computed: how many of `tokens` have their KV entries written (or being written by the step in flight)
        or to be drawn: while the token after the last of `tokens` is on its way, it may count as well
    slots: int32 KV slot of each position below `computed`; the array may be longer
    relocated: how often slots of positions that had some became others
    cached: prompt tokens found in the cache at first admission (for usage)
    node: deepest tree node that this sequence holds locked; the tree owns the slots of positions below `node.end`
    allocated: how many positions have slots; this sequence alone owns those from `node.end` on
    in_flight: steps between schedule and commit that hold this sequence; nothing of it is released before they end
    row: its row in the latest of them that draws
    scored: prompt positions whose log-probabilities were delivered, so that a resumed sequence delivers none twice
    trust: how many of its next tokens to guess: one more for each guess that came true, one less for each that did not
    seed: resolved; the draw at position p depends on (seed, p) only
    deadline_s: on the scheduler's clock
    finish, error: set once; a finished sequence is released by the scheduler, once, when no step holds it
    """

    id: int
    tokens: array[int]
    num_prompt: int
    params: SamplingParams
    seed: int
    salt: str = ""
    priority: int = 0
    program: int = 0
    width: int = 1
    arrival: int = 0
    deadline_s: float | None = None
    status: Status = Status.WAITING
    computed: int = 0
    cached: int | None = None
    slots: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    relocated: int = 0
    node: RadixNode | None = None
    finish: FinishReason | None = None
    matched: str | int | None = None
    error: Exception | None = None
    preemptions: int = 0
    overtaken: int = 0
    allocated: int = 0
    in_flight: int = 0
    row: int = 0
    scored: int = 0
    trust: int = 1

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def is_finished(self) -> bool:
        return self.finish is not None or self.error is not None


@dataclass(slots=True)
class Row:
    """`length` tokens of a sequence, from position `start`, to compute in one step.

    samples: this row reaches the sequence's last token, so a next token is drawn from its logits
    source: if the row's one token is not known yet, the row of the step launched before that draws it
    guess: the row's one token, if it is only a guess at what the row of the position before, which is in the same plan,
        will draw; what this row draws counts if that turns out to be so
    void: what the row reads or writes has been taken back since it was launched; its result counts for nothing
    """

    sequence: Sequence
    start: int
    length: int
    samples: bool
    source: int | None = None
    void: bool = False
    guess: int | None = None

    @property
    def end(self) -> int:
        """The position behind the row: of the token that it draws, if it does."""
        return self.start + self.length

    @property
    def draws_next(self) -> bool:
        """Whether what the row draws will be a next token of its sequence, as far as can be known now."""
        sequence = self.sequence
        at_end = self.guess is not None or self.end == len(sequence.tokens)
        return self.samples and at_end and not (self.void or sequence.is_finished)


@dataclass(slots=True)
class SharedPrefix:
    """Decode rows whose first `length` KV slots are the same; attention may read them once for all."""

    rows: list[int]  # indices into Plan.rows
    length: int


@dataclass(slots=True)
class Plan:
    """What one step computes. In every layer all rows write their KV entries before any row attends, so a row may
    attend to entries that another row of the same plan writes (that is how in-batch prefixes are shared).

    step: number of this step, counted from 1
    """

    rows: list[Row]
    shared: list[SharedPrefix] = field(default_factory=list[SharedPrefix])
    step: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(row.length for row in self.rows)


@dataclass(slots=True)
class RowResult:
    """What a step gave for one row.

    token: the drawn id, if the row samples; logprob: of it, if asked for
    prompt_logprobs: for the positions after those computed, where the sequence asks for them: entry i is the
        log-probability of tokens[start + 1 + i] given what precedes it
    error: why this row's sequence cannot go on (for example logits that are not numbers); other rows are not affected
    """

    token: int | None = None
    logprob: TokenLogprob | None = None
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    error: Exception | None = None


ANYTHING = -1  # all bits of a mask's word
NOTHING = 0


@dataclass(slots=True)
class Masks:
    """What the constrained rows of a plan may draw.

    rows: indices into Plan.rows, of rows that sample
    bits: int32 [len(rows), words], what `mask_bits` gave last, filled; bit i % 32 of word i // 32 says whether token i
        may come, and what is beyond may not
    """

    rows: list[int]
    bits: NDArray[np.int32]


class OutOfMemory(Exception):
    """A step did not fit into the device's memory; a smaller one may. What it wrote counts for nothing."""


class Step(Protocol):
    """A step on its way. `sample`, then `results`, once each; an exception from either fails the whole step."""

    def sample(self, masks: Masks | None) -> None:
        """Draw the next tokens. Called when `Sequence.tokens` holds all that came before them, and before the next
        launch; need not wait."""
        ...

    def results(self) -> list[RowResult]:
        """One a row, in order. Waits."""
        ...


class Runner(Protocol):
    """Computes steps, in the order of their launches. All it does may raise OutOfMemory."""

    def launch(self, plan: Plan) -> Step:
        """Begin the forward pass; need not wait. An exception fails the whole step. What rows say of slots and
        positions is read here and may change afterwards."""
        ...


class MaskingRunner(Runner, Protocol):
    """One whose steps can be held to masks."""

    def mask_bits(self, rows: int) -> NDArray[np.int32]:
        """Where to write the masks of the next step that has any: int32 [rows, words], of any content. The device may
        copy from there, so nothing else is to be made of it. Waits until an earlier step has read it."""
        ...
