"""A model without arithmetic: every KV slot carries its own history, so whoever reads a wrong slot is found out."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from zlib import crc32

from stolon.lang.errors import EngineError
from stolon.lang.types import SamplingParams, TokenLogprob
from stolon.runtime.sequence import Masks, Plan, Row, RowResult, Sequence

VOCABULARY = 7  # few tokens, so that random prompts share prefixes
EOS = 0

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


def draw(last: Entry, seed: int) -> int:
    return hash((last, seed)) % VOCABULARY


def logprob(before: Entry, token: int) -> float:
    return -(hash((before, token)) % 1000) / 100


def generate(prompt: Items[int], salt: str, params: SamplingParams, seed: int, context_length: int) -> list[int]:
    """The answer as a sequential generator without cache, batch or scheduler gives it."""
    tokens = list(prompt)
    entries = chain(salt, tokens)
    answer: list[int] = []
    while len(answer) < params.max_tokens and len(tokens) < context_length:
        token = draw(entries[-1], seed)
        answer.append(token)
        tokens.append(token)
        chain(salt, tokens, entries)
        stops = (token == EOS and not params.ignore_eos) or token in params.stop_token_ids
        if stops and len(answer) > params.min_tokens:
            break
    return answer


class WrongSlotError(AssertionError):
    """A row was given a slot that does not hold what the row's tokens say."""


@dataclass(slots=True)
class Faults:
    """What goes wrong in the next step: the whole of it, or the rows with these indices."""

    step: bool = False
    rows: set[int] = field(default_factory=set[int])


@dataclass(slots=True)
class FakeStep:
    """All happens when the results are asked for."""

    model: FakeModel
    plan: Plan

    def sample(self, masks: Masks | None) -> None:
        assert masks is None

    def results(self) -> list[RowResult]:
        return self.model.compute(self.plan)


class FakeModel:
    """A runner. In each step all rows write first, then all rows read, as the layers of a real model do.

    all_logprobs: give log-probabilities of all prompt positions of a row, not only of those asked for
    """

    def __init__(self, num_slots: int, *, all_logprobs: bool = False) -> None:
        self.kv: list[Entry] = [POISON] * num_slots
        self.faults = Faults()
        self._all_logprobs = all_logprobs
        self._chains: dict[int, list[Entry]] = {}

    def launch(self, plan: Plan) -> FakeStep:
        return FakeStep(self, plan)

    def compute(self, plan: Plan) -> list[RowResult]:
        faults, self.faults = self.faults, Faults()
        dirty = False
        for index, row in enumerate(plan.rows):
            dirty = self._write(row, spoiled=faults.step or index in faults.rows) or dirty
        if faults.step:
            raise EngineError("the step failed (injected)")
        return [self._read(row, failed=i in faults.rows, dirty=dirty) for i, row in enumerate(plan.rows)]

    def forget(self, sequence: Sequence) -> None:
        self._chains.pop(sequence.id, None)

    def history(self, sequence: Sequence) -> list[Entry]:
        return chain(sequence.salt, sequence.tokens, self._chains.setdefault(sequence.id, []))

    def _write(self, row: Row, *, spoiled: bool) -> bool:
        end = row.start + row.length
        entries = self.history(row.sequence)[row.start : end]
        for slot, entry in zip(row.sequence.slots[row.start : end].tolist(), entries, strict=True):
            self.kv[slot] = POISON if spoiled else entry
        return spoiled

    def _read(self, row: Row, *, failed: bool, dirty: bool) -> RowResult:
        """dirty: some row of this step wrote numbers that are none; who reads them gives nonsense, but it is no bug."""
        sequence, end = row.sequence, row.start + row.length
        if failed:
            return RowResult(error=EngineError("logits are not numbers (injected)"))
        kv = self.kv
        found = [kv[slot] for slot in sequence.slots[:end].tolist()]
        expected = self._chains[sequence.id]
        if found != expected[:end]:
            if dirty and POISON in found:
                return RowResult(token=VOCABULARY + 1 if row.samples else None)
            wrong = next(i for i in range(end) if found[i] != expected[i])
            raise WrongSlotError(f"sequence {sequence.id} at {wrong}: found {found[wrong]}, needs {expected[wrong]}")
        token = draw(found[-1], sequence.seed) if row.samples else None
        return RowResult(token=token, prompt_logprobs=self._logprobs(row, found))

    def _logprobs(self, row: Row, found: list[Entry]) -> list[TokenLogprob]:
        sequence, params = row.sequence, row.sequence.params
        if params.prompt_logprobs is None or row.start >= sequence.num_prompt:
            return []
        first = row.start + 1 if self._all_logprobs else max(row.start + 1, params.logprob_start)
        last = min(row.start + row.length + 1, sequence.num_prompt)
        tokens = sequence.tokens
        return [TokenLogprob(tokens[i], logprob(found[i - 1], tokens[i])) for i in range(first, last)]
