"""Which waiting sequences a step takes in."""

from __future__ import annotations

from .config import SchedulerConfig
from .planner import Planner, is_decoding
from .radix import RadixNode
from .roster import Roster
from .sequence import Plan, Sequence
from .waiting import Candidate

MOST_MISFITS = 16  # waiting sequences that are tried in one step although they turn out not to fit

Leaders = dict[RadixNode, list[Sequence]]


class Admission:
    """Lets sequences in while budget, places and memory last.

    A sequence is let in when all it still has to compute fits beside what the running ones still have to compute. Who
    needs what a running prompt is about to compute waits for that. A program begins when there is also room for it, and
    for those under way, to grow: too many at once would take each other's prefixes away, turn by turn.
    """

    def __init__(self, config: SchedulerConfig, roster: Roster, planner: Planner) -> None:
        self._config = config
        self._roster = roster
        self._planner = planner
        self._holdings = roster.holdings
        self._stuck: tuple[int, ...] = ()  # the state in which nobody could be admitted, and the memory there was
        self._stuck_at = 0

    def plan_waiting(self, plan: Plan, budget: int) -> None:
        state, available = self._state(), self._holdings.available
        if state == self._stuck and available <= self._stuck_at:
            return
        admitted, spared = self._one_pass(plan, budget)
        if admitted:
            self._roster.waiting.count_overtakes(admitted, spared)
        self._stuck, self._stuck_at = (() if admitted else state), available

    def _state(self) -> tuple[int, ...]:
        """While this stays the same and memory does not grow, those that could not be admitted still cannot."""
        roster, holdings = self._roster, self._holdings
        counts = len(roster.running), len(roster.waiting), roster.counters.submitted, holdings.ended
        return holdings.tree.grown, *counts

    def _one_pass(self, plan: Plan, budget: int) -> tuple[list[int], set[Sequence]]:
        """Returns the arrivals of those admitted, and who waits for a prefix in the making."""
        roster = self._roster
        leaders: Leaders = {}
        for sequence in roster.running:
            self._lead(sequence, leaders)
        order = roster.waiting.in_order()
        admitted: list[int] = []
        spared: set[Sequence] = set()
        misfits, least = 0, None
        for candidate in order:
            if budget <= 0 or misfits >= MOST_MISFITS:
                break
            sequence = candidate.sequence
            if least is not None and sequence.priority < least:
                break
            if self._is_led(candidate, leaders):
                spared.add(sequence)
            elif self._has_room(candidate):
                before = candidate.node, candidate.length
                budget -= self._admit(plan, candidate, budget)
                admitted.append(sequence.arrival)
                self._lead(sequence, leaders)
                order.move_kin_ahead(candidate, *before)
            elif roster.waiting.is_aged(sequence):
                break
            else:
                misfits += 1
                least = sequence.priority
        return admitted, spared

    def _admit(self, plan: Plan, candidate: Candidate, budget: int) -> int:
        """Returns how many tokens of it the step computes."""
        sequence = candidate.sequence
        assert candidate.node is not None
        self._roster.start(sequence)
        if sequence.program:
            self._holdings.note(sequence.program, len(sequence.tokens))
        self._holdings.admit(sequence, candidate.node, candidate.length)
        if sequence.cached is None:
            sequence.cached = 0
            self._roster.counters.prompt += sequence.num_prompt
            self._planner.count_cached(sequence, candidate.length)
        return self._planner.plan_chunk(plan, sequence, budget)

    # -- prefixes in the making

    def _lead(self, sequence: Sequence, leaders: Leaders) -> None:
        """Note it if its next tokens will enter the tree in a later step."""
        node, holdings = sequence.node, self._holdings
        if node is None or sequence.is_finished or not holdings.share:
            return
        if len(sequence.tokens) > sequence.computed and not is_decoding(sequence) and holdings.is_contiguous(sequence):
            leaders.setdefault(node, []).append(sequence)

    def _is_led(self, candidate: Candidate, leaders: Leaders) -> bool:
        """Whether a running sequence is about to compute what this one needs next."""
        node, length, sequence = candidate.node, candidate.length, candidate.sequence
        followed = leaders.get(node) if node is not None else None
        end = length + self._config.page_size
        if not followed or node is None or node.end != length or self._holdings.limit(sequence) < end:
            return False
        page = sequence.tokens[length:end]
        return any(s.salt == sequence.salt and s.tokens[length:end] == page for s in followed)

    # -- room

    def make_way(self) -> Sequence | None:
        """Before a step is planned: preempt lower priorities for the best of those that wait with a higher one.

        returns: whom a step holds and the next call may preempt, if it rests until then
        """
        roster = self._roster
        if not roster.running or roster.waiting.highest_priority <= min(s.priority for s in roster.running):
            return None
        candidate = roster.waiting.best()
        while candidate is not None and not self._has_room(candidate):
            victim = self._victim(candidate, in_flight=False)
            if victim is None:
                return self._victim(candidate, in_flight=True)
            roster.preempt(victim)
            roster.waiting.look_up(candidate)
        return None

    def _victim(self, candidate: Candidate, *, in_flight: bool) -> Sequence | None:
        victim = self._roster.youngest(in_flight=in_flight)
        if victim is None or victim.priority >= candidate.sequence.priority or self._roster.waiting.is_aged(victim):
            return None
        return victim

    def _has_room(self, candidate: Candidate) -> bool:
        running, holdings, sequence = self._roster.running, self._holdings, candidate.sequence
        if not running:
            return True  # `submit` saw to it that it fits alone
        if len(running) >= self._config.max_running_requests:
            return False
        assert candidate.node is not None
        need = holdings.round_up(len(sequence.tokens) - candidate.length)
        promised = sum(max(len(s.tokens) - s.allocated, 0) for s in running)
        spare = max(len(running) * self._config.page_size, holdings.pool.num_slots // 100)
        if sequence.preemptions:
            # It comes back when there is memory for so many steps of everybody, twice as many each time.
            steps = 16 << min(sequence.preemptions, 16)
            spare += sum(min(to_come(s), steps) for s in (*running, sequence))
        unlocked = holdings.tree.unlocked(candidate.node, candidate.length)
        if need + promised + spare + unlocked > holdings.available:
            return False
        begins = sequence.program and not holdings.is_live(sequence.program)
        if not begins or self._roster.waiting.is_aged(sequence):
            return True
        return holdings.fits_a_program(need + promised + unlocked, len(sequence.tokens))


def to_come(sequence: Sequence) -> int:
    """Most tokens that are still to be drawn for it."""
    return sequence.params.max_tokens - len(sequence.tokens) + sequence.num_prompt
