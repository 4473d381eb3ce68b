"""The books of the planning half, checked against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Items

import numpy as np

from .config import SchedulerConfig
from .holdings import Holdings
from .pages import InvariantError
from .radix import RadixNode, RadixTree
from .roster import Roster
from .sequence import Plan, Row, Sequence, Status


def check(config: SchedulerConfig, roster: Roster, plan: Plan | None = None, in_flight: Items[Plan] = ()) -> None:
    """Raise InvariantError if anything is out of order.

    plan: one that was made just now; in_flight: those that were made and have not ended, it included
    """
    holdings = roster.holdings
    nodes = check_tree(holdings.tree, Counter(s.node for s in roster.running), Counter(holdings.pinned_nodes()))
    _check_slots(holdings, nodes, roster.running)
    for sequence in roster.running:
        _check_running(holdings, sequence)
    _check_waiting(config, roster)
    for flying in in_flight:
        _check_in_flight(flying)
    if plan is not None:
        _check_plan(config, plan, in_flight)


def ensure(claim: bool, message: str, *values: object) -> None:
    if not claim:
        raise InvariantError(": ".join([message, *map(repr, values)]))


# -- tree


def check_tree(tree: RadixTree, holders: Counter[RadixNode | None], pinners: Counter[RadixNode]) -> list[RadixNode]:
    """holders, pinners: how many hold, or pin, exactly that node. Returns all nodes."""
    cached = evictable = pinned = loose = 0
    nodes = list(tree.nodes())
    for node in nodes:
        size = len(node.key)
        _check_node(tree, node)
        # `get`, as a Counter is slow to say 0
        locks, pins = holders.get(node, 0), pinners.get(node, 0)
        for child in node.children.values():
            locks += child.locks > 0
            pins += child.pins > 0
        ensure(node.locks == locks, "a node's locks are not those of its holders and children", node, locks)
        ensure(node.pins == pins, "a node's pins are not those of its programs and children", node, pins)
        cached += size
        if pins:
            pinned += size
            loose += 0 if locks else size
        elif not locks:
            evictable += size
            ensure(bool(node.children) or node.queued, "an evictable leaf is not queued for eviction", node)
    counted = (cached, evictable, pinned, loose)
    kept = (tree.cached, tree.evictable, tree.pinned, tree.loose)
    ensure(counted == kept, "the tree's totals are wrong: counted, kept", counted, kept)
    return nodes


def _check_node(tree: RadixTree, node: RadixNode) -> None:
    size, parent, edge = len(node.key), node.parent, node.edge
    ensure(node.alive and parent is not None, "a dead node is in the tree", node)
    ensure(size > 0 and size % tree.page_size == 0, "a node's key is not a whole number of pages", node)
    ensure(len(node.slots) == size, "a node has as many slots as tokens", node, len(node.slots))
    if parent is not None:
        ensure(parent.children.get(edge) is node, "a node is not its parent's child", node)
        ensure(node.end - size == parent.end, "a node does not begin where its parent ends", node)
        first = node.key[0] if tree.page_size == 1 else node.key[: tree.page_size].tobytes()
        ensure((edge[1] if isinstance(edge, tuple) else edge) == first, "a node hangs under another's first page", node)
        ensure(isinstance(edge, tuple) == (parent is tree.root), "salts stand below the root only", node)


# -- slots


def _check_slots(holdings: Holdings, nodes: list[RadixNode], running: list[Sequence]) -> None:
    """Every slot is free, or in the tree, or one sequence's, or used until a step ends: exactly one of these."""
    parts = [holdings.pool.free_slots()]
    parts += [node.slots for node in nodes]
    parts += holdings.pool.used_slots()
    for sequence in running:
        if sequence.node is not None:
            parts.append(sequence.slots[sequence.node.end : sequence.allocated])
    owners = np.bincount(np.concatenate(parts), minlength=holdings.pool.num_slots)
    if len(owners) != holdings.pool.num_slots or not (owners == 1).all():
        lost, shared = np.flatnonzero(owners == 0).tolist(), np.flatnonzero(owners > 1).tolist()
        raise InvariantError(f"slots without an owner: {lost}; with several: {shared}")


def _check_running(holdings: Holdings, sequence: Sequence) -> None:
    node, ident = sequence.node, sequence.id
    ensure(sequence.status is Status.RUNNING, "a running sequence has another status", ident, sequence.status)
    if node is None:
        raise InvariantError(f"running sequence {ident} holds nothing of the tree")
    end, size = node.end, holdings.page_size
    # one token that is being drawn, or as many guesses as rows in flight have
    ahead = max(sequence.in_flight - 1, int(sequence.in_flight > 0 or sequence.is_finished))
    ensure(
        end - size < sequence.computed <= len(sequence.tokens) + ahead and sequence.computed <= sequence.allocated,
        "a sequence has computed less than it holds, or more than it has",
        ident,
        (end, sequence.computed, sequence.allocated, len(sequence.tokens)),
    )
    ensure(sequence.allocated % size == 0 and sequence.allocated >= end, "pages are divided", ident, sequence.allocated)
    ensure(sequence.allocated <= len(sequence.slots), "a sequence has slots for less than was allocated", ident)
    ensure(sequence.num_output <= sequence.params.max_tokens, "a sequence has more output than it asked for", ident)
    # its last token is computed for the logits, unless forced tokens follow it
    most = sequence.num_prompt - (sequence.num_output == 0)
    ensure(0 <= (sequence.cached or 0) <= most, "more is cached than may be", ident, sequence.cached)
    for step in node.path():
        ensure(step.alive, "a sequence holds a node that is gone", ident, step)
        ensure(step.key == sequence.tokens[step.start : step.end], "a sequence holds other tokens than its own", ident)
        ensure(bool((sequence.slots[step.start : step.end] == step.slots).all()), "slots are not the tree's", ident)
        if isinstance(step.edge, tuple):
            ensure(step.edge[0] == sequence.salt, "a sequence holds a prefix of another salt", ident, step.edge)


# -- queue and plan


def _check_waiting(config: SchedulerConfig, roster: Roster) -> None:
    running, waiting = roster.running, roster.waiting
    ensure(len(running) <= config.max_running_requests, "too many sequences run", len(running))
    fresh = sum(not s.preemptions for s in waiting)
    ensure(fresh <= config.max_queued_requests, "too many sequences wait", fresh)
    ensure(len(set(running)) == len(running), "a sequence runs twice")
    most = config.max_overtakes + config.max_running_requests
    for sequence in waiting:
        ensure(sequence.status is Status.WAITING, "a waiting sequence has another status", sequence.id)
        holds = sequence.node is not None or sequence.allocated or sequence.computed or sequence.in_flight
        ensure(not holds, "a waiting sequence holds slots", sequence.id)
        ensure(sequence.overtaken <= most, "a sequence was overtaken too often", sequence.id, sequence.overtaken)


def _check_in_flight(plan: Plan) -> None:
    for row in plan.rows:
        sequence = row.sequence
        ensure(
            sequence.in_flight > 0 and sequence.status is Status.RUNNING, "a step's sequence was let go", sequence.id
        )
        ensure(row.void or sequence.computed >= row.end, "a row was taken back and counts", row)


def _check_plan(config: SchedulerConfig, plan: Plan, in_flight: Items[Plan]) -> None:
    ensure(plan.num_tokens <= config.step_tokens, "a plan is over its budget", plan.num_tokens)
    known = [row for row in plan.rows if row.guess is None]
    ensure(len({row.sequence.id for row in known}) == len(known), "a sequence has two rows that are no guesses")
    ensure(len(plan.rows) <= config.most_rows, "a plan has too many rows", len(plan.rows))
    ends = {row.sequence: row.end for row in known}
    written: list[int] = []
    for row in plan.rows:
        sequence, end = row.sequence, row.end
        ensure(row.length > 0 and end <= sequence.computed and not row.void, "a row is not its sequence's", row)
        if row.guess is not None:
            follows = row.start == ends.get(sequence) and row.start >= len(sequence.tokens)
            ensure(follows and row.length == 1, "a guess is not the one token behind what it follows", row)
            ends[sequence] = end
        holders = sum(s is sequence for p in in_flight for s in (r.sequence for r in p.rows))
        ensure(sequence.in_flight == holders, "a sequence does not know which steps hold it", sequence.id, holders)
        ensure(not sequence.is_finished, "a plan has a row for a sequence that has ended", sequence.id)
        last = end >= len(sequence.tokens) and sequence.params.max_tokens > 0
        ensure(row.samples == last, "a row samples exactly if it has the last token", row)
        _check_source(row, in_flight)
        written += sequence.slots[row.start : end].tolist()
        _check_writes(plan, row)
    for sequence, end in ends.items():
        ensure(end == sequence.computed, "a sequence computes what no row does", sequence.id, end, sequence.computed)
    ensure(len(set(written)) == len(written), "two rows write one slot", written)
    _check_shared(plan)


def _check_source(row: Row, in_flight: Items[Plan]) -> None:
    """A token that is not known comes from the row that draws it."""
    end = row.end
    if row.source is None:
        ensure(end <= len(row.sequence.tokens) or row.guess is not None, "a row has tokens that nobody knows", row)
        return
    before = in_flight[-2].rows[row.source] if len(in_flight) > 1 else row
    draws = before.samples and not before.void and before.end == row.start
    ensure(before.sequence is row.sequence and draws, "a row takes its token from another row", row, before)
    ensure(row.start == len(row.sequence.tokens) and row.length == 1, "a row waits for a token that is known", row)


def _check_writes(plan: Plan, row: Row) -> None:
    """What a row writes is its own, or was put into the tree for this very step; what it reads was written."""
    for node in row.sequence.node.path() if row.sequence.node else ():
        if node.end > row.start:
            mine = node.step == plan.step and node.writer == row.sequence.id
            ensure(mine, "a row writes what the tree held before", row.sequence.id, node)


def _check_shared(plan: Plan) -> None:
    grouped: set[int] = set()
    for group in plan.shared:
        members = [plan.rows[i] for i in group.rows]
        ensure(len(members) >= 2 and not grouped.intersection(group.rows), "rows are in two groups", group)
        grouped.update(group.rows)
        first = members[0].sequence.slots[: group.length]
        for row in members:
            same = bool((row.sequence.slots[: group.length] == first).all())
            ensure(row.length == 1 and group.length <= row.start and same, "rows do not share their prefix", group)
