"""Requests that wait, and the order in which they come to be admitted."""

from __future__ import annotations

import bisect
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from .config import SchedulePolicy
from .holdings import Holdings
from .radix import RadixNode
from .sequence import Sequence, Status

Rank = tuple[bool, int, bool, int, int, int]
Place = tuple[RadixNode | None, int, int]


@dataclass(slots=True, eq=False)
class Candidate:
    """A waiting sequence, and where its longest cached prefix ended when it was last looked up.

    turn: when a walk of the tree came to where it stands, if the order of the queue is one
    """

    sequence: Sequence
    node: RadixNode | None = None
    length: int = 0
    epoch: int = -1
    turn: int = 0


class WaitingQueue:
    """Waiting sequences.

    most_overtakes: how many later arrivals may pass a sequence before nothing passes it any more; those admitted in the
        step that reaches the number still do
    """

    def __init__(self, holdings: Holdings, policy: SchedulePolicy, most_overtakes: int) -> None:
        self.by_prefix = policy != "fcfs" and holdings.share
        self._by_weight = policy == "dfs-weight" and holdings.share
        self._holdings = holdings
        self._most_overtakes = most_overtakes
        self._candidates: dict[Sequence, Candidate] = {}
        self._priorities: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._candidates)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._candidates)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._candidates

    def add(self, sequence: Sequence) -> None:
        self._candidates[sequence] = Candidate(sequence)
        self._priorities[sequence.priority] += 1

    def remove(self, sequence: Sequence) -> None:
        del self._candidates[sequence]
        self._priorities[sequence.priority] -= 1
        if not self._priorities[sequence.priority]:
            del self._priorities[sequence.priority]
        if not self._candidates:
            self._holdings.tree.want([])

    @property
    def highest_priority(self) -> float:
        """Minus infinity if nobody waits."""
        return max(self._priorities, default=-math.inf)

    def best(self) -> Candidate | None:
        """The oldest of those with the highest priority, looked up."""
        highest = self.highest_priority
        able = [c for s, c in self._candidates.items() if s.priority == highest and not s.is_finished]
        first = min(able, key=lambda c: c.sequence.arrival, default=None)
        if first is not None:
            self.look_up(first)
        return first

    def is_aged(self, sequence: Sequence) -> bool:
        """It was overtaken so often that nothing may pass it any more, whatever its priority."""
        return sequence.overtaken >= self._most_overtakes

    def in_order(self) -> MeritOrder:
        candidates = [c for c in self._candidates.values() if not c.sequence.is_finished]
        if self.by_prefix:
            self._look_up_all(candidates)
        if self._by_weight:
            _take_turns(candidates)
        return MeritOrder(self, candidates)

    def look_up(self, candidate: Candidate) -> None:
        """Bring its longest cached prefix up to date; looks only at what changed since."""
        tree, sequence = self._holdings.tree, candidate.sequence
        if candidate.epoch != tree.epoch:
            candidate.node, candidate.length = tree.match(
                sequence.tokens, self._holdings.limit(sequence), sequence.salt, candidate.node, candidate.length
            )
            candidate.epoch = tree.epoch

    def _look_up_all(self, candidates: list[Candidate]) -> None:
        """`look_up`, and tell the tree what is wanted: it evicts that after what nobody waits for."""
        for candidate in candidates:
            self.look_up(candidate)
        self._holdings.tree.want([c.node for c in candidates if c.node is not None])

    def rank(self, candidate: Candidate) -> Rank:
        """Smallest first: who was overtaken too often, priority, who was preempted, turn, cached prefix, arrival."""
        sequence = candidate.sequence
        if self.is_aged(sequence):
            return False, 0, False, 0, 0, sequence.arrival
        length = candidate.length if self.by_prefix else 0
        return True, -sequence.priority, not sequence.preemptions, candidate.turn, -length, sequence.arrival

    def count_overtakes(self, admitted: list[int], spared: set[Sequence]) -> None:
        """admitted: arrivals of those that one step admitted; spared: those that wait for a prefix in the making."""
        admitted.sort()
        last = admitted[-1]
        for sequence in self._candidates:
            if last > sequence.arrival and sequence not in spared:
                sequence.overtaken += len(admitted) - bisect.bisect(admitted, sequence.arrival)


class MeritOrder:
    """One pass over the waiting sequences, best first.

    Longest cached prefix first, and kept true while the pass itself adds to the cache: when a sequence is admitted,
    those that share its next token are looked up again and move ahead. So equal prefixes come together, deepest first.
    In a walk of the tree they stood together and keep their turn: to move ahead is to walk into what has grown.
    """

    def __init__(self, queue: WaitingQueue, candidates: list[Candidate]) -> None:
        self._queue = queue
        self._heap = [(queue.rank(c), c.length, c) for c in candidates]
        heapq.heapify(self._heap)
        self._kin: dict[Place, list[Candidate]] | None = None

    def __iter__(self) -> Iterator[Candidate]:
        while self._heap:
            _, length, candidate = heapq.heappop(self._heap)
            if length != candidate.length or candidate.sequence.status is not Status.WAITING:
                continue  # it moved ahead and has had its turn
            self._queue.look_up(candidate)
            yield candidate

    def move_kin_ahead(self, admitted: Candidate, node: RadixNode | None, length: int) -> None:
        """node, length: where the cached prefix of the one just admitted ended before."""
        if not self._queue.by_prefix:
            return
        if self._kin is None:
            self._kin = {}
            for _, _, candidate in self._heap:
                self._kin.setdefault(_place(candidate), []).append(candidate)
        for candidate in self._kin.pop((node, length, admitted.sequence.tokens[length]), ()):
            if candidate.sequence.status is not Status.WAITING:
                continue
            before = candidate.length
            self._queue.look_up(candidate)
            self._kin.setdefault(_place(candidate), []).append(candidate)
            if candidate.length > before:
                heapq.heappush(self._heap, (self._queue.rank(candidate), candidate.length, candidate))


def _take_turns(candidates: list[Candidate]) -> None:
    """Set `turn` by a depth-first walk of the tree: of a node's children first that below which most candidates stand,
    or else the first to arrive; after its children the node itself. Looks only at the ways to where they stand.

    Source: SGLang's `dfs-weight`.
    """
    weights: dict[RadixNode, int] = {}
    firsts: dict[RadixNode, int] = {}
    for candidate in candidates:
        node, arrival = candidate.node, candidate.sequence.arrival
        assert node is not None
        weights[node] = weights.get(node, 0) + 1
        firsts[node] = min(firsts.get(node, arrival), arrival)
    for node in list(weights):
        while node.parent is not None and node.parent not in weights:
            node = node.parent
            weights[node] = 0
    children: defaultdict[RadixNode, list[RadixNode]] = defaultdict(list)
    for node in sorted(weights, key=lambda n: n.end, reverse=True):  # children before their parents
        if node.parent is not None:
            weights[node.parent] += weights[node]
            firsts[node.parent] = min(firsts.get(node.parent, firsts[node]), firsts[node])
            children[node.parent].append(node)
    walk: list[RadixNode] = []  # backwards
    pending = [node for node in weights if node.parent is None]
    while pending:
        node = pending.pop()
        walk.append(node)
        pending.extend(sorted(children.get(node, ()), key=lambda n: (-weights[n], firsts[n])))
    turns = {node: turn for turn, node in enumerate(reversed(walk))}
    for candidate in candidates:
        assert candidate.node is not None
        candidate.turn = turns[candidate.node]


def _place(candidate: Candidate) -> Place:
    """Equal for those whose cached prefixes end together and that go on with the same token."""
    return candidate.node, candidate.length, candidate.sequence.tokens[candidate.length]
