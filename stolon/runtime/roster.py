"""Which sequences wait, run and have ended, and the one way to each of these states."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from ..lang.errors import BackendTimeout
from ..lang.types import FinishReason
from .config import SchedulerConfig
from .holdings import Holdings
from .metrics import Counters
from .sequence import Sequence, Status
from .waiting import WaitingQueue

DEAD_DEADLINES = 64  # entries of ended requests that are kept beside as many as there are live ones


class Roster:
    """Every live sequence, in exactly one of `waiting` and `running`.

    To end is two things: `mark` says how, at any time; `sweep` releases, once, when no step holds the sequence.

    running: in order of admission
    """

    def __init__(
        self, config: SchedulerConfig, holdings: Holdings, counters: Counters, clock: Callable[[], float]
    ) -> None:
        self.holdings = holdings
        self.counters = counters
        self.waiting = WaitingQueue(holdings, config.schedule_policy, config.max_overtakes)
        self.running: list[Sequence] = []
        self._marked: list[Sequence] = []
        self._ended: list[Sequence] = []
        self._clock = clock
        # A heap; the sequence sits in a list so that its release can take it out without a search.
        self._deadlines: list[tuple[float, int, list[Sequence]]] = []
        self._deadline_of: dict[Sequence, list[Sequence]] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.running or len(self.waiting) or self._marked or self._ended)

    def enter(self, sequence: Sequence) -> None:
        self.counters.submitted += 1
        sequence.arrival = self.counters.submitted
        self.waiting.add(sequence)
        if sequence.deadline_s is not None:
            entry = self._deadline_of[sequence] = [sequence]
            heapq.heappush(self._deadlines, (sequence.deadline_s, sequence.arrival, entry))

    def start(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.status = Status.RUNNING

    def preempt(self, sequence: Sequence) -> None:
        """Back to the queue. What it computed stays in the tree, its tail the first to go."""
        self.running.remove(sequence)
        self.holdings.settle(sequence)
        sequence.status = Status.WAITING
        sequence.preemptions += 1
        self.counters.preemptions += 1
        self.waiting.add(sequence)

    def youngest(self, *, in_flight: bool = False) -> Sequence | None:
        """Whom to preempt: lowest priority, then latest arrival; never the first of all, nor what a step holds.

        in_flight: whom to preempt next of those that a step holds
        """
        alive = [s for s in self.running if not s.is_finished]
        first = min(alive, key=seniority, default=None)
        able = (s for s in alive if s is not first and bool(s.in_flight) == in_flight)
        return max(able, key=seniority, default=None)

    def mark(
        self,
        sequence: Sequence,
        *,
        reason: FinishReason | None = None,
        matched: str | int | None = None,
        error: Exception | None = None,
    ) -> None:
        """It ends, with a reason or an error; what was marked first stays."""
        if not sequence.is_finished:
            sequence.finish, sequence.matched, sequence.error = reason, matched, error
            self._marked.append(sequence)

    def expire(self) -> None:
        """Mark those whose deadline has passed."""
        if not self._deadlines:
            return
        now = self._clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            for sequence in heapq.heappop(self._deadlines)[2]:
                self.mark(sequence, error=BackendTimeout("the request's deadline passed before its answer was whole"))

    def sweep(self) -> None:
        """Release what is marked and not in flight."""
        if not self._marked:
            return
        held: list[Sequence] = []
        for sequence in self._marked:
            if sequence.in_flight:
                held.append(sequence)
            else:
                self._release(sequence)
        self._marked = held

    def _release(self, sequence: Sequence) -> None:
        match sequence.status:
            case Status.RUNNING:
                self.running.remove(sequence)
                self._settle(sequence)
            case Status.WAITING:
                if sequence in self.waiting:  # it may have ended before it was submitted
                    self.waiting.remove(sequence)
            case Status.FINISHED:
                raise AssertionError(f"sequence {sequence.id} was released twice")
        sequence.status = Status.FINISHED
        self.counters.finished += 1
        self.counters.failed += sequence.error is not None
        self._forget_deadline(sequence)
        self._ended.append(sequence)

    def _forget_deadline(self, sequence: Sequence) -> None:
        entry = self._deadline_of.pop(sequence, None)
        if entry is not None:
            entry.clear()
            # most requests end long before their deadline: what is left of them must not stay until then
            if len(self._deadlines) > 2 * len(self._deadline_of) + DEAD_DEADLINES:
                self._deadlines = [each for each in self._deadlines if each[2]]
                heapq.heapify(self._deadlines)

    def _settle(self, sequence: Sequence) -> None:
        """Give back its memory; if its program goes on, what it ended with is needed again soon."""
        node = self.holdings.settle(sequence)
        if sequence.program:
            self.holdings.note(sequence.program, len(sequence.tokens))
        if sequence.program and sequence.finish in ("stop", "length") and node is not None:
            self.holdings.pin(sequence.program, node, sequence.width)

    def drain(self) -> list[Sequence]:
        """Those released since the last call."""
        ended, self._ended = self._ended, []
        return ended


def seniority(sequence: Sequence) -> tuple[int, int]:
    """Smallest is the last to be preempted."""
    return -sequence.priority, sequence.arrival
