"""Faults of the kind that engines of this sort have had. Each breaks one product method; the simulation must notice."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import numpy as np

from stolon.runtime.holdings import Holdings
from stolon.runtime.pages import PagePool
from stolon.runtime.planner import Planner
from stolon.runtime.radix import RadixNode, RadixTree
from stolon.runtime.roster import Roster
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import Plan, Row, RowResult, Sequence, Status
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

    def undo(self: Scheduler, plan: Plan, rows: list[Row], *, spoilt: bool) -> None:
        pass

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
        self.roster.counters.cached += 2 * tokens

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

    def commit(self: Scheduler, plan: Plan, results: list[RowResult]) -> list[Sequence]:
        self._end(plan)
        for row, result in zip(plan.rows, results, strict=True):
            if result.error is not None:
                self.abort(row.sequence, result.error)
            elif result.token is not None:
                row.sequence.tokens.append(result.token)
        return [row.sequence for row in plan.rows]

    return patch.object(Scheduler, "commit", commit)


# -- of steps that are begun before the one before has ended


def keep_the_surplus_token() -> AbstractContextManager[Any]:
    """What is drawn for a sequence that has turned out to have ended is appended."""
    commit = Scheduler.commit

    def keep(self: Scheduler, plan: Plan, results: list[RowResult]) -> list[Sequence]:
        drawn = [result.token for result in results]
        ended = [row.sequence.is_finished for row in plan.rows]
        advanced = commit(self, plan, results)
        for row, token, had_ended in zip(plan.rows, drawn, ended, strict=True):
            if had_ended and token is not None and not row.void:
                row.sequence.tokens.append(token)
        return advanced

    return patch.object(Scheduler, "commit", keep)


def release_what_a_step_holds() -> AbstractContextManager[Any]:
    """What has ended is released at once, whoever still computes on it."""

    def sweep(self: Roster) -> None:
        marked, self._marked = self._marked, []
        for sequence in marked:
            self._release(sequence)

    return patch.object(Roster, "sweep", sweep)


def take_the_token_of_another_row() -> AbstractContextManager[Any]:
    """A sequence goes on with what the step's first row drew."""
    plan_decoding = Planner._plan_decoding

    def first(self: Planner, plan: Plan, decoding: list[Sequence]) -> int:
        count = plan_decoding(self, plan, decoding)
        for row in plan.rows:
            row.source = None if row.source is None else 0
        return count

    return patch.object(Planner, "_plan_decoding", first)


def free_what_a_step_uses() -> AbstractContextManager[Any]:
    """What a fault takes back is free at once, although a step in flight uses it."""
    used_until = PagePool.used_until

    def at_once(self: PagePool, step: int) -> AbstractContextManager[None]:
        return used_until(self, 0)

    return patch.object(PagePool, "used_until", at_once)


def believe_what_was_taken_back() -> AbstractContextManager[Any]:
    """A fault takes back what a step in flight reads, and its results count all the same."""
    undo = Scheduler._undo

    def undo_this_one(self: Scheduler, plan: Plan, rows: list[Row], *, spoilt: bool) -> None:
        undo(self, plan, rows, spoilt=spoilt)
        for later in self._in_flight:
            for row in later.rows:
                row.void = False

    return patch.object(Scheduler, "_undo", undo_this_one)


def preempt_what_a_step_holds() -> AbstractContextManager[Any]:
    """The youngest yields, whatever is being computed for it."""
    youngest = Roster.youngest

    def anybody(self: Roster, *, in_flight: bool = False) -> Sequence | None:
        return youngest(self, in_flight=False) or youngest(self, in_flight=True)

    return patch.object(Roster, "youngest", anybody)


def give_up_too_early() -> AbstractContextManager[Any]:
    """Who has no room for one more token fails, although the one that is being drawn may be the last."""
    make_room = Planner._make_room

    def rash(self: Planner, decoding: list[Sequence]) -> list[Sequence]:
        flying = [(s, s.in_flight) for s in decoding]
        for sequence, _ in flying:
            sequence.in_flight = 0 if len(self.roster.running) == 1 else sequence.in_flight
        found = make_room(self, decoding)
        for sequence, count in flying:
            sequence.in_flight = count
        return found

    return patch.object(Planner, "_make_room", rash)


def append_what_is_known_already() -> AbstractContextManager[Any]:
    """A forced run was appended while a step was drawing its first token; that comes once more."""
    take = Scheduler._take

    def twice(self: Scheduler, row: Row, result: RowResult) -> None:
        if row.samples and result.token is not None:
            self._append(row.sequence, result.token)
        else:
            take(self, row, result)

    return patch.object(Scheduler, "_take", twice)


# -- of guesses


def believe_every_guess() -> AbstractContextManager[Any]:
    """What is drawn behind a guess counts, whatever was drawn in its place."""

    def gullible(self: Scheduler, row: Row, result: RowResult) -> bool:
        return True

    return patch.object(Scheduler, "_confirm", gullible)


def keep_what_guesses_wrote() -> AbstractContextManager[Any]:
    """The KV entries of a wrong guess stay for the token that came in its place."""
    confirm = Scheduler._confirm

    def keep(self: Scheduler, row: Row, result: RowResult) -> bool:
        computed = row.sequence.computed
        confirmed = confirm(self, row, result)
        row.sequence.computed = min(computed, len(row.sequence.tokens))
        return confirmed

    return patch.object(Scheduler, "_confirm", keep)


def guess_with_the_slots_of_others() -> AbstractContextManager[Any]:
    """Guesses are given no slots of their own."""

    def roomy(self: Planner, sequence: Sequence, guesses: list[int]) -> list[int]:
        return guesses

    return patch.object(Planner, "_with_room", roomy)


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
    keep_the_surplus_token,
    release_what_a_step_holds,
    take_the_token_of_another_row,
    free_what_a_step_uses,
    believe_what_was_taken_back,
    preempt_what_a_step_holds,
    give_up_too_early,
    append_what_is_known_already,
    believe_every_guess,
    keep_what_guesses_wrote,
    guess_with_the_slots_of_others,
)
