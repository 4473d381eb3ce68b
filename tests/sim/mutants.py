"""Faults of the kind that engines of this sort have had. Each breaks one product method; the simulation must notice."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import numpy as np

from stolon.runtime.holdings import Holdings
from stolon.runtime.planner import Planner
from stolon.runtime.radix import RadixNode, RadixTree
from stolon.runtime.roster import Roster
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import Row, RowResult, Sequence, Status
from stolon.runtime.waiting import WaitingQueue

Mutant = Callable[[], AbstractContextManager[Any]]


def skip_one_unlock() -> AbstractContextManager[Any]:
    """Moving on in the tree forgets to let go of where the sequence stood."""

    def move(self: Holdings, sequence: Sequence, node: RadixNode) -> None:
        self.tree.lock(node)
        sequence.node = node

    return patch.object(Holdings, "_move", move)


def free_twice() -> AbstractContextManager[Any]:
    """What was known to the tree already is freed again with the rest."""
    settle = Holdings.settle

    def twice(self: Holdings, sequence: Sequence) -> RadixNode | None:
        node = sequence.node
        own = sequence.slots[node.end : sequence.allocated].copy() if node else None
        before = self.pool.free
        found = settle(self, sequence)
        if own is not None and self.pool.free > before:
            self.pool.give(own)
        return found

    return patch.object(Holdings, "settle", twice)


def split_off_by_one() -> AbstractContextManager[Any]:
    """A split hands the upper part the slots that stand one page further."""
    anchor = RadixTree.anchor

    def shifted(self: RadixTree, node: RadixNode, length: int) -> RadixNode:
        slots = node.slots
        upper = anchor(self, node, length)
        if upper is not node:
            upper.slots = slots[self.page_size : self.page_size + len(upper.key)]
        return upper

    return patch.object(RadixTree, "anchor", shifted)


def keep_what_a_failed_step_wrote() -> AbstractContextManager[Any]:
    """A step that failed leaves its nodes in the tree."""

    def undo(self: Scheduler, rows: list[Row], step: int) -> set[Sequence]:
        return set()

    return patch.object(Scheduler, "_undo", undo)


def share_the_last_partial_page() -> AbstractContextManager[Any]:
    """A prefix may end inside a page, which then has two owners."""
    match = RadixTree.match

    def partial(
        self: RadixTree, tokens: array[int], limit: int, salt: str = "", node: RadixNode | None = None, length: int = 0
    ) -> tuple[RadixNode, int]:
        found, reached = match(self, tokens, limit, salt, node, length)
        for child in found.children.values() if reached == found.end and found.parent else ():
            same = 0
            while reached + same < limit and same < len(child.key) and child.key[same] == tokens[reached + same]:
                same += 1
            if same:
                return child, reached + same
        return found, reached

    return patch.object(RadixTree, "match", partial)


def forget_an_abort_in_the_queue() -> AbstractContextManager[Any]:
    """An abort of a sequence that waits is noted, and nobody acts on it."""
    mark = Roster.mark

    def forgetful(self: Roster, sequence: Sequence, **how: Any) -> None:
        if sequence.status is not Status.WAITING:
            mark(self, sequence, **how)

    return patch.object(Roster, "mark", forgetful)


def deliver_logprobs_twice() -> AbstractContextManager[Any]:
    """A resumed sequence delivers the log-probabilities of its prompt once more."""
    limit = Holdings.limit

    def from_the_start(self: Holdings, sequence: Sequence) -> int:
        sequence.scored = 0
        return limit(self, sequence)

    return patch.object(Holdings, "limit", from_the_start)


def ignore_the_salt() -> AbstractContextManager[Any]:
    """Prefixes are found whoever cached them."""

    def edge(self: RadixTree, node: RadixNode, tokens: array[int], at: int, salt: str) -> Any:
        first = tokens[at] if self.page_size == 1 else tokens[at : at + self.page_size].tobytes()
        return first if node.parent is not None else ("", first)

    return patch.object(RadixTree, "_edge", edge)


def evict_what_is_locked() -> AbstractContextManager[Any]:
    """Eviction takes any leaf."""

    def evict(self: RadixTree, count: int) -> list[np.ndarray[Any, np.dtype[np.int32]]]:
        freed: list[np.ndarray[Any, np.dtype[np.int32]]] = []
        while count > 0:
            leaf = next((n for n in self.nodes() if not n.children), None)
            if leaf is None:
                break
            count -= len(leaf.key)
            freed.append(self._remove(leaf))
        return freed

    return patch.object(RadixTree, "evict", evict)


def count_cached_tokens_again() -> AbstractContextManager[Any]:
    """Whatever a sequence finds in the cache counts, also when it finds it again after a preemption."""

    def count(self: Planner, sequence: Sequence, tokens: int) -> None:
        sequence.cached = (sequence.cached or 0) + 2 * tokens
        self._roster.counters.cached += 2 * tokens

    return patch.object(Planner, "count_cached", count)


def lose_one_waiter() -> AbstractContextManager[Any]:
    """A preempted sequence does not come back to the queue."""
    preempt = Roster.preempt

    def lossy(self: Roster, sequence: Sequence) -> None:
        preempt(self, sequence)
        self.waiting.remove(sequence)

    return patch.object(Roster, "preempt", lossy)


def restart_with_an_old_slot() -> AbstractContextManager[Any]:
    """A sequence that is admitted again keeps the last slot that it had, although it was given back."""
    admit = Holdings.admit
    last: dict[int, int] = {}

    def stale(self: Holdings, sequence: Sequence, node: RadixNode, length: int) -> None:
        admit(self, sequence, node, length)
        if sequence.preemptions and length:
            sequence.slots[length - 1] = last.get(sequence.id, 0)
        last[sequence.id] = int(sequence.slots[0])

    return patch.object(Holdings, "admit", stale)


def overtake_without_end() -> AbstractContextManager[Any]:
    """Nobody is ever old enough to be let through."""

    def never(self: WaitingQueue, sequence: Sequence) -> bool:
        return False

    return patch.object(WaitingQueue, "is_aged", never)


def take_late_results() -> AbstractContextManager[Any]:
    """The token of a sequence that was aborted while its step ran is appended all the same."""

    def commit(self: Scheduler, plan: Any, results: list[RowResult]) -> list[Sequence]:
        for row, result in zip(plan.rows, results, strict=True):
            row.sequence.in_flight -= 1
            if result.error is not None:
                self.abort(row.sequence, result.error)
            elif result.token is not None:
                row.sequence.tokens.append(result.token)
        return [row.sequence for row in plan.rows]

    return patch.object(Scheduler, "commit", commit)


MUTANTS: tuple[Mutant, ...] = (
    skip_one_unlock,
    free_twice,
    split_off_by_one,
    keep_what_a_failed_step_wrote,
    share_the_last_partial_page,
    forget_an_abort_in_the_queue,
    deliver_logprobs_twice,
    ignore_the_salt,
    evict_what_is_locked,
    count_cached_tokens_again,
    lose_one_waiter,
    restart_with_an_old_slot,
    overtake_without_end,
    take_late_results,
)
