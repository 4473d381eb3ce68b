"""Who asked for what, what each was told, and rules that answers have to keep."""

from __future__ import annotations

import random
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import numpy as np

from stolon.lang.types import TokenLogprob
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import Masks, Plan, RowResult, Sequence

from .model import ANY, EOS, VOCABULARY, generate

ENDS = (EOS, 3)  # and those that requests name


@dataclass(frozen=True, slots=True)
class Rule:
    """A language: what may follow an answer's tokens. Often just one token may. number: names the language; 0: all"""

    number: int

    def __call__(self, answer: Items[int]) -> Items[int]:
        if not self.number:
            return ANY
        code = hash((self.number, len(answer), answer[-1] if answer else -1)) >> 3
        if code % 3 == 0:
            return (code // 3 % VOCABULARY,)
        return [token for token in ANY if code >> token & 1] or ANY

    def forced(self, answer: Items[int], most: int) -> list[int]:
        """Tokens of which each is the only one that may come, and none may end an answer."""
        said, run = list(answer), list[int]()
        while len(run) < most:
            allowed = self(said)
            if len(allowed) > 1 or allowed[0] in ENDS:
                break
            said += allowed
            run += allowed
        return run


@dataclass(slots=True, eq=False)
class Client:
    """Who asked, what it has been told, and whether the world took a hand in its end.

    jumps: tokens that the rule forces are appended, not drawn
    is_cut: it ended because of what its text said
    """

    sequence: Sequence
    prompt: list[int]
    rule: Rule
    jumps: bool
    answer: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    disturbed: bool = False
    is_cut: bool = False
    marked_at: int | None = None


class Seer:
    """Guesses what clients will be told, now and then wrongly, and does not mind guessing what ends an answer."""

    def __init__(self, rng: random.Random, clients: dict[int, Client], context_length: int) -> None:
        self._rng = rng
        self._clients = clients
        self._context_length = context_length

    def guess(self, sequence: Sequence, most: int) -> list[int]:
        client, rng = self._clients[sequence.id], self._rng
        answer = generate(
            client.prompt, sequence.salt, sequence.params, sequence.seed, self._context_length, client.rule
        )
        ahead = answer[len(client.answer) : len(client.answer) + most]
        return [rng.choice(ANY) if rng.random() < 0.3 else token for token in ahead][: rng.randrange(most + 1)]


class Rules:
    """The clients' rules as the pipeline asks for them."""

    def __init__(self, scheduler: Scheduler, clients: dict[int, Client]) -> None:
        self._scheduler = scheduler
        self._clients = clients

    def foresee(self, plan: Plan) -> None:
        pass

    def masks(self, plan: Plan) -> Masks | None:
        rows: list[int] = []
        bits: list[list[int]] = []
        said: dict[int, list[int] | None] = {}  # by sequence, with guesses; None behind one that the rule forbids
        for index, row in enumerate(plan.rows):
            client = self._clients[row.sequence.id]
            if client.rule.number and row.draws_next:
                before = client.answer if row.guess is None else said[row.sequence.id]
                if row.guess is not None and before is not None:
                    before = [*before, row.guess] if row.guess in client.rule(before) else None
                said[row.sequence.id] = before
                rows.append(index)
                allowed = () if before is None else client.rule(before)
                bits.append([sum(1 << token for token in set(allowed))])
        return Masks(rows, np.array(bits, np.int32)) if rows else None

    def advance(self, plan: Plan, results: list[RowResult]) -> None:
        for row, result in zip(plan.rows, results, strict=True):
            sequence = row.sequence
            if result.token is None or sequence.is_finished:
                continue
            client = self._clients[sequence.id]
            if client.jumps:
                run = client.rule.forced(client.answer, sequence.params.max_tokens - sequence.num_output)
                self._scheduler.extend(sequence, run)
                client.answer += run
