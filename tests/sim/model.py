"""A model without arithmetic: every KV slot carries its own history, so whoever reads a wrong slot is found out."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from stolon.lang.errors import EngineError
from stolon.lang.types import SamplingParams, TokenLogprob
from stolon.runtime.sequence import Masks, OutOfMemory, Plan, Row, RowResult, Sequence

VOCABULARY = 7  # few tokens, so that random prompts share prefixes
EOS = 0
ANY = tuple(range(VOCABULARY))
NONSENSE = VOCABULARY + 1

# (salt, position, token, hash of the entry before). Hashes of tuples of ints are the same in every process.
Entry = tuple[int, int, int, int]
POISON: Entry = (-1, -1, -1, -1)


def chain(salt: str, tokens: Items[int], known: list[Entry] | None = None) -> list[Entry]:
    """What the KV entries of `tokens` have to be; extends `known`, the chain of a prefix, in place."""
    entries = known if known is not None else []
    number = crc32(salt.encode())
    parent = hash(entries[-1]) if entries else 0
    for position in range(len(entries), len(tokens)):
        entries.append((number, position, tokens[position], parent))
        parent = hash(entries[-1])
    return entries


def draw(last: Entry, seed: int, allowed: Items[int] = ANY) -> int:
    return allowed[hash((last, seed)) % len(allowed)]


def logprob(before: Entry, token: int) -> float:
    return -(hash((before, token)) % 1000) / 100


def generate(
    prompt: Items[int],
    salt: str,
    params: SamplingParams,
    seed: int,
    context_length: int,
    allowed: Callable[[Items[int]], Items[int]] = lambda answer: ANY,
) -> list[int]:
    """The answer as a sequential generator without cache, batch or scheduler gives it.

    allowed: what may follow an answer's tokens
    """
    tokens = list(prompt)
    entries = chain(salt, tokens)
    answer: list[int] = []
    while len(answer) < params.max_tokens and len(tokens) < context_length:
        token = draw(entries[-1], seed, allowed(answer))
        answer.append(token)
        tokens.append(token)
        chain(salt, tokens, entries)
        stops = (token == EOS and not params.ignore_eos) or token in params.stop_token_ids
        if stops and len(answer) > params.min_tokens:
            break
    return answer


class WrongSlotError(AssertionError):
    """A row was given a slot that does not hold what the row's tokens say, or the token of another row."""


@dataclass(slots=True)
class Faults:
    """What goes wrong in the next step: the whole of it, the rows with these indices, or it has not enough memory.

    memory: the part of the step that finds out
    """

    step: bool = False
    rows: set[int] = field(default_factory=set[int])
    memory: Literal["launch", "sample", "results"] | None = None

    def of(self, plan: Plan) -> set[int]:
        """Rows whose requests may end for that."""
        everybody = self.step or (self.memory is not None and plan.num_tokens == 1)
        return set(range(len(plan.rows))) if everybody else self.rows.intersection(range(len(plan.rows)))


class FakeModel:
    """A runner of an asynchronous device: a step is computed when its results are asked for. In each step all rows
    write first, then all rows read, as the layers of a real model do.

    all_logprobs: give log-probabilities of all prompt positions of a row, not only of those asked for
    most_tokens: there is no memory for larger steps
    meanwhile: called while a step is in flight; told: what will go wrong with a step that is launched
    drawn: by row of the step that was computed last
    """

    def __init__(self, num_slots: int, *, all_logprobs: bool = False) -> None:
        self.kv: list[Entry] = [POISON] * num_slots
        self.all_logprobs = all_logprobs
        self.faults = Faults()
        self.most_tokens = 1 << 30
        self.meanwhile: Callable[[], None] = lambda: None
        self.told: Callable[[Plan, Faults], None] = lambda plan, faults: None
        self.drawn: list[int] = []
        self.in_flight: list[FakeStep] = []
        self._chains: dict[int, list[Entry]] = {}

    def launch(self, plan: Plan) -> FakeStep:
        faults, self.faults = self.faults, Faults()
        if plan.num_tokens > self.most_tokens:
            faults = Faults(memory=faults.memory or "launch")
        self.told(plan, faults)
        step = FakeStep(self, plan, faults)
        self.in_flight.append(step)
        step.find_out("launch")
        return step

    def forget(self, sequence: Sequence) -> None:
        self._chains.pop(sequence.id, None)

    def history(self, sequence: Sequence) -> list[Entry]:
        """What its tokens have to be in the KV cache."""
        return chain(sequence.salt, sequence.tokens, self._chains.setdefault(sequence.id, []))


@dataclass(slots=True)
class Work:
    """A row as it was when it was launched; the scheduler may have changed its mind since.

    used: slots up to its end; guesses: tokens up to there that nobody has drawn
    """

    row: Row
    used: NDArray[np.int32]
    slots: list[int]
    guesses: list[int]

    @staticmethod
    def all_of(plan: Plan) -> list[Work]:
        guesses: dict[int, list[int]] = {}
        found: list[Work] = []
        for row in plan.rows:
            if row.guess is not None:
                guesses[row.sequence.id] = [*guesses.get(row.sequence.id, []), row.guess]
            used = row.sequence.slots[: row.end].copy()
            found.append(Work(row, used, used.tolist(), guesses.get(row.sequence.id, [])))
        return found

    @property
    def counts(self) -> bool:
        return not (self.row.void or self.row.sequence.is_finished)


class FakeStep:
    def __init__(self, model: FakeModel, plan: Plan, faults: Faults) -> None:
        self.work = Work.all_of(plan)
        self._model = model
        self._faults = faults
        self._allowed: dict[int, list[int]] = {}

    def find_out(self, where: str) -> None:
        """That there is not enough memory; what was written until then is of no use."""
        if self._faults.memory == where:
            self._break()
            raise OutOfMemory(f"injected at {where}")

    def sample(self, masks: Masks | None) -> None:
        self.find_out("sample")
        for row, bits in zip(masks.rows, masks.bits.tolist(), strict=True) if masks else ():
            self._allowed[row] = [token for token in ANY if bits[0] >> token & 1]

    def results(self) -> list[RowResult]:
        model, faults = self._model, self._faults
        model.meanwhile()
        self.find_out("results")
        if faults.step:
            self._break()
            raise EngineError("the step failed (injected)")
        for index, work in enumerate(self.work):
            self._write(work, spoilt=index in faults.rows)
        results = [self._read(index, work) for index, work in enumerate(self.work)]
        model.drawn = [NONSENSE if result.token is None else result.token for result in results]
        model.in_flight.remove(self)
        return results

    def _break(self) -> None:
        for work in self.work:
            self._write(work, spoilt=True)
        self._model.in_flight.remove(self)

    def _write(self, work: Work, *, spoilt: bool) -> None:
        row, kv = work.row, self._model.kv
        slots = work.slots[row.start :]
        if spoilt or row.void:  # a void row may read anything, so the worst is what it writes
            for slot in slots:
                kv[slot] = POISON
            return
        entries = self._history(work)
        if row.source is not None:
            entries = self._with_drawn(work, entries)
        for slot, entry in zip(slots, entries[row.start : row.end], strict=True):
            kv[slot] = entry

    def _history(self, work: Work) -> list[Entry]:
        """The chain of what is known of the row's sequence, and on to what is guessed."""
        sequence, entries = work.row.sequence, self._model.history(work.row.sequence)
        if not work.guesses:
            return entries
        return chain(sequence.salt, [*sequence.tokens, *work.guesses], entries.copy())

    def _with_drawn(self, work: Work, entries: list[Entry]) -> list[Entry]:
        """The chain on to the token that the step before drew."""
        row = work.row
        assert row.source is not None
        token = self._model.drawn[row.source]
        tokens = row.sequence.tokens
        if work.counts and tokens[row.start] != token:
            raise WrongSlotError(f"sequence {row.sequence.id} goes on with {token}, but drew {tokens[row.start]}")
        return chain(row.sequence.salt, [*tokens[: row.start], token], entries[: row.start])

    def _read(self, index: int, work: Work) -> RowResult:
        """A row that reads what another row of this step spoilt gives nonsense, but that is no bug."""
        row, model = work.row, self._model
        sequence, end = row.sequence, row.end
        if index in self._faults.rows:
            return RowResult(error=EngineError("logits are not numbers (injected)"))
        nonsense = RowResult(token=NONSENSE if row.samples else None)
        if not work.counts:
            return nonsense
        kv = model.kv
        found = [kv[slot] for slot in work.slots]
        expected = self._history(work)
        if found != expected[:end]:
            if self._faults.rows and POISON in found:
                return nonsense
            wrong = next(i for i in range(end) if found[i] != expected[i])
            raise WrongSlotError(f"sequence {sequence.id} at {wrong}: found {found[wrong]}, needs {expected[wrong]}")
        allowed = self._allowed.get(index, ANY)
        if not allowed:
            return RowResult(error=EngineError("no token may be drawn"))
        token = draw(found[-1], sequence.seed, allowed) if row.samples else None
        return RowResult(token=token, prompt_logprobs=self._logprobs(row, found))

    def _logprobs(self, row: Row, found: list[Entry]) -> list[TokenLogprob]:
        sequence, params = row.sequence, row.sequence.params
        if params.prompt_logprobs is None or row.start >= sequence.num_prompt:
            return []
        first = row.start + 1 if self._model.all_logprobs else max(row.start + 1, params.logprob_start)
        last = min(row.end + 1, sequence.num_prompt)
        tokens = sequence.tokens
        return [TokenLogprob(tokens[i], logprob(found[i - 1], tokens[i])) for i in range(first, last)]
