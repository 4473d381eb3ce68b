"""Rows for one step: decoding sequences first, then prompts in progress, then (in `admission`) those that wait."""

from __future__ import annotations

from ..lang.errors import EngineError
from .cascade import share_prefixes
from .config import SchedulerConfig
from .ngram import Guesser
from .radix import RadixNode
from .roster import Roster, seniority
from .sequence import Plan, Row, Sequence, SharedPrefix, Status


class Planner:
    """Spends the token budget of a step on sequences that run.

    guesser: says what may come next, to be computed in the same step as what it would follow
    """

    def __init__(self, config: SchedulerConfig, roster: Roster, guesser: Guesser | None = None) -> None:
        self._config = config
        self.roster = roster
        self._holdings = roster.holdings
        self._guesser = guesser
        self._turn = 0
        self._decoded: list[RadixNode | None] = []  # by row of the plan that is being made; None: not a decode row
        self._grouped: list[RadixNode | None] = []
        self._groups: list[SharedPrefix] = []

    def plan_running(self, plan: Plan, budget: int, resting: Sequence | None = None) -> int:
        """Returns what is left of the budget. resting: gets no row"""
        decoding: list[Sequence] = []
        chunks: list[Sequence] = []
        for sequence in self.roster.running:
            if sequence.is_finished or sequence is resting or (sequence.in_flight and not goes_on(sequence)):
                continue
            (decoding if is_decoding(sequence) else chunks).append(sequence)
        chunks.sort(key=_is_in_prompt)  # a few forced tokens of an answer do not wait behind a long prompt
        later: list[Sequence] = []
        if len(decoding) + bool(chunks) > budget:
            decoding, later = self._take_turns(decoding, budget - bool(chunks))
        self._decoded = []
        budget -= self._plan_decoding(plan, decoding)
        for sequence in chunks:
            if budget <= 0:
                break
            # Not preempted or given up for the sake of those before it.
            if sequence.status is Status.RUNNING and not sequence.is_finished:
                budget -= self.plan_chunk(plan, sequence, budget)
        if later and budget > 0:  # the prompts had no memory to go on
            alive = [s for s in later if s.status is Status.RUNNING]
            budget -= self._plan_decoding(plan, alive[:budget])
        if self._guesser is not None:
            budget -= self._plan_guesses(plan, self._guesser, budget)
        self._group(plan)
        return budget

    def _take_turns(self, decoding: list[Sequence], places: int) -> tuple[list[Sequence], list[Sequence]]:
        """Those whose turn it is, and the others."""
        first = self._turn % max(len(decoding), 1)
        self._turn += places
        turns = decoding[first:] + decoding[:first]
        return turns[:places], turns[places:]

    def _make_room(self, decoding: list[Sequence]) -> list[Sequence]:
        """Those of `decoding` that can have their next slot, after preempting others if it must be."""
        size = self._config.page_size
        while decoding:
            need = sum(s.computed == s.allocated for s in decoding) * size
            if not need or self._holdings.reserve(need):
                break
            victim = self.roster.youngest()
            if victim is None:  # all others are in a step already, or there are none
                left_out = max(decoding, key=seniority)  # the next step may preempt it
                decoding = [s for s in decoding if s is not left_out]
                if len(self.roster.running) == 1 and not left_out.in_flight:
                    self._give_up(left_out)
            else:
                self.roster.preempt(victim)
                decoding = [s for s in decoding if s is not victim]
        return decoding

    def _plan_decoding(self, plan: Plan, decoding: list[Sequence]) -> int:
        """Rows of one token; returns how many."""
        decoding = self._make_room(decoding)
        rows, grow = plan.rows, self._holdings.grow_page
        self._decoded += [None] * (len(rows) - len(self._decoded))
        for number, sequence in enumerate(decoding, len(rows)):
            start = sequence.computed
            if start == sequence.allocated:
                grow(sequence)
            # all its tokens are computed or being computed: the next one is being drawn
            source = sequence.row if start == len(sequence.tokens) else None
            sequence.row = number
            rows.append(Row(sequence, start, 1, True, source))
            self._decoded.append(sequence.node)
            sequence.computed = start + 1
            sequence.in_flight += 1
        return len(decoding)

    def _plan_guesses(self, plan: Plan, guesser: Guesser, budget: int) -> int:
        """Rows of guessed tokens behind those that draw, while they are few; returns how many."""
        drawing = [row for row in plan.rows if row.samples and is_guessable(row.sequence)]
        places = min(budget, self._config.guess_rows - len(plan.rows))
        self._decoded += [None] * (len(plan.rows) - len(self._decoded))
        planned = 0
        for number, row in enumerate(drawing):
            fair = (places - planned) // (len(drawing) - number)
            if fair <= 0:
                continue
            sequence = row.sequence
            left = sequence.params.max_tokens - sequence.num_output - 1
            most = min(fair, left, sequence.trust, self._config.speculative_num_draft_tokens)
            guesses = self._with_room(sequence, guesser.guess(sequence, most)) if most > 0 else []
            for guess in guesses:
                plan.rows.append(Row(sequence, sequence.computed, 1, True, guess=guess))
                self._decoded.append(sequence.node)
                sequence.computed += 1
                sequence.in_flight += 1
            planned += len(guesses)
        self.roster.counters.guessed += planned
        return planned

    def _with_room(self, sequence: Sequence, guesses: list[int]) -> list[int]:
        """The guesses, with slots, if memory has any that nobody wants to keep."""
        holdings, end = self._holdings, sequence.computed + len(guesses)
        short = holdings.round_up(max(end - sequence.allocated, 0))
        if short > holdings.pool.free + holdings.tree.evictable or not holdings.reserve(short):
            return []
        holdings.grow(sequence, end)
        return guesses

    def _group(self, plan: Plan) -> None:
        if self._decoded != self._grouped:  # what the same nodes share never changes while they are held
            self._grouped, self._groups = self._decoded, share_prefixes(self._decoded)
        plan.shared = self._groups

    def _give_up(self, sequence: Sequence) -> None:
        error = EngineError(
            f"the KV cache of {self._holdings.pool.num_slots} tokens is full and no other request can yield; "
            f"{len(sequence.tokens)} tokens do not fit: lower max_tokens or raise --kv-tokens",
            code="kv_cache_full",
        )
        self.roster.mark(sequence, error=error)

    def plan_chunk(self, plan: Plan, sequence: Sequence, budget: int) -> int:
        """A row for the next tokens of a prompt in progress; returns how many."""
        holdings = self._holdings
        if not sequence.in_flight:  # which may be writing what would be given back
            self.count_cached(sequence, holdings.adopt(sequence))
        start = sequence.computed
        length = self._fit(sequence, min(len(sequence.tokens) - start, budget), alone=not plan.rows)
        if length <= 0:
            return 0
        end = start + length
        holdings.grow(sequence, end)
        sequence.computed = end
        sequence.in_flight += 1
        # An answer's tokens stay private while it grows, except when they are computed again after a preemption.
        if start < sequence.num_prompt or sequence.preemptions:
            holdings.publish(sequence, plan.step)
        samples = end == len(sequence.tokens) and sequence.params.max_tokens > 0
        sequence.row = len(plan.rows)
        plan.rows.append(Row(sequence, start, length, samples))
        return length

    def count_cached(self, sequence: Sequence, tokens: int) -> None:
        """Note that `tokens` up to `computed` came from the cache; what a preempted one finds again does not count."""
        if tokens and not sequence.preemptions:
            beyond = max(sequence.computed - sequence.num_prompt, 0)
            tokens = max(tokens - beyond, 0)
            sequence.cached = (sequence.cached or 0) + tokens
            self.roster.counters.cached += tokens

    def uncount_cached(self, sequence: Sequence) -> None:
        """It was taken back to `computed`; what it finds in the cache from there on counts anew."""
        lost = (sequence.cached or 0) - sequence.computed
        if lost > 0 and not sequence.preemptions:
            sequence.cached = sequence.computed
            self.roster.counters.cached -= lost

    def _fit(self, sequence: Sequence, length: int, *, alone: bool) -> int:
        """As much of `length` as memory allows, preempting whoever is younger.

        alone: the step has no rows yet
        """
        holdings, roster = self._holdings, self.roster
        while True:
            short = holdings.round_up(max(sequence.computed + length - sequence.allocated, 0))
            if holdings.reserve(short):
                return length
            room = sequence.allocated + holdings.pool.free - sequence.computed
            if room > 0:
                return min(length, room)
            victim = roster.youngest()
            if victim is None or seniority(victim) <= seniority(sequence):
                if alone and len(roster.running) == 1 and not sequence.in_flight:
                    self._give_up(sequence)
                return 0
            roster.preempt(victim)


def _is_in_prompt(sequence: Sequence) -> bool:
    return sequence.computed < sequence.num_prompt


def goes_on(sequence: Sequence) -> bool:
    """Whether a sequence that a step holds has more to compute; if it turns out to have ended, that was in vain."""
    known = sequence.computed < len(sequence.tokens)
    return known or sequence.num_output + 1 < sequence.params.max_tokens


def is_guessable(sequence: Sequence) -> bool:
    """All its tokens are computed or being computed, and what it draws does not change how the next one is drawn."""
    return len(sequence.tokens) == sequence.computed >= sequence.num_prompt and not sequence.params.is_penalized


def is_decoding(sequence: Sequence) -> bool:
    """Its prompt is computed, and at most one token is not; if none, one is being drawn."""
    computed = sequence.computed
    return len(sequence.tokens) - computed <= 1 and computed >= sequence.num_prompt
