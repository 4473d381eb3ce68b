"""Requests that wait, and the order in which they are admitted."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from .config import SchedulePolicy
from .holdings import Holdings
from .radix import RadixNode
from .sequence import Sequence

Rank = tuple[bool, int, bool, int, int]


@dataclass(slots=True, eq=False)
class Candidate:
    """A waiting sequence and where its longest cached prefix ended when it was last looked up."""

    sequence: Sequence
    node: RadixNode | None = None
    length: int = 0
    epoch: int = -1


class WaitingQueue:
    """Waiting sequences in order of arrival, and `Admission`, one pass over them in order of merit.

    most_overtakes: how many later arrivals may pass a sequence before nothing passes it any more; those admitted in the
        step that reaches the number still do
    """

    def __init__(self, holdings: Holdings, policy: SchedulePolicy, most_overtakes: int) -> None:
        self._holdings = holdings
        self._by_prefix = policy == "lpm" and holdings.share
        self._most_overtakes = most_overtakes
        self._candidates: dict[Sequence, Candidate] = {}

    def __len__(self) -> int:
        return len(self._candidates)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._candidates)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._candidates

    def add(self, sequence: Sequence) -> None:
        self._candidates[sequence] = Candidate(sequence)

    def remove(self, sequence: Sequence) -> None:
        del self._candidates[sequence]

    def is_aged(self, sequence: Sequence) -> bool:
        """It was overtaken so often that nothing may pass it any more, not even what has a higher priority."""
        return sequence.overtaken >= self._most_overtakes

    def admission(self) -> Admission:
        return Admission(self, [c for c in self._candidates.values() if not c.sequence.is_finished], self._by_prefix)

    def look_up(self, candidate: Candidate) -> None:
        """Bring its longest cached prefix up to date; costs next to nothing where the tree did not change."""
        tree, sequence = self._holdings.tree, candidate.sequence
        if candidate.epoch != tree.epoch:
            candidate.node, candidate.length = tree.match(
                sequence.tokens, self._holdings.limit(sequence), sequence.salt, candidate.node, candidate.length
            )
            candidate.epoch = tree.epoch

    def rank(self, candidate: Candidate) -> Rank:
        """Smallest first: who was overtaken too often, priority, who was preempted, longest cached prefix, arrival."""
        sequence = candidate.sequence
        length = candidate.length if self._by_prefix else 0
        return (
            not self.is_aged(sequence),
            -sequence.priority,
            not sequence.preemptions,
            -length,
            sequence.arrival,
        )

    def count_overtakes(self, admitted: list[int], spared: set[Sequence]) -> None:
        """admitted: arrivals of those that one pass admitted; spared: those that wait for a prefix in the making."""
        admitted.sort()
        for sequence in self._candidates:
            if admitted[-1] > sequence.arrival and sequence not in spared:
                sequence.overtaken += len(admitted) - bisect.bisect(admitted, sequence.arrival)


class Admission:
    """One pass over the waiting sequences, best first.

    Longest cached prefix first, and kept true while the pass itself adds to the cache: when a sequence is admitted, those
    that share its next tokens are looked up again and move ahead. So equal prefixes come together, deepest first.
    """

    def __init__(self, queue: WaitingQueue, candidates: list[Candidate], by_prefix: bool) -> None:
        self._queue = queue
        self._by_prefix = by_prefix
        if by_prefix:
            for candidate in candidates:
                queue.look_up(candidate)
        self._heap = [(queue.rank(c), c.length, c) for c in candidates]
        heapq.heapify(self._heap)
        self._kin: dict[tuple[RadixNode | None, int, int], list[Candidate]] | None = None

    def __iter__(self) -> Iterator[Candidate]:
        while self._heap:
            _, length, candidate = heapq.heappop(self._heap)
            if self._by_prefix and length != candidate.length:
                continue  # it moved ahead and has had its turn
            self._queue.look_up(candidate)
            yield candidate

    def admitted(self, candidate: Candidate, node: RadixNode | None, length: int) -> None:
        """It got a row; node, length: where its cached prefix ended before."""
        if not self._by_prefix:
            return
        if self._kin is None:
            self._kin = {}
            for _, _, other in self._heap:
                self._kin.setdefault(self._key(other), []).append(other)
        kin = self._kin.pop((node, length, self._next(candidate, length)), [])
        for other in kin:
            if other.sequence.status is candidate.sequence.status:
                continue  # it runs already
            before = other.length
            self._queue.look_up(other)
            self._kin.setdefault(self._key(other), []).append(other)
            if other.length > before:
                heapq.heappush(self._heap, (self._queue.rank(other), other.length, other))

    def _key(self, candidate: Candidate) -> tuple[RadixNode | None, int, int]:
        return candidate.node, candidate.length, self._next(candidate, candidate.length)

    @staticmethod
    def _next(candidate: Candidate, length: int) -> int:
        return candidate.sequence.tokens[length]
