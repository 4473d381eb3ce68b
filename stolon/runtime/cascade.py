"""Which decode rows should read a common prefix together (cascade attention)."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from .radix import RadixNode
from .sequence import SharedPrefix

SHORTEST = 32  # tokens; below this a second pass over the rows costs more than the reads it saves


@dataclass(slots=True, eq=False)
class Fork:
    """A tree node where rows end or their paths part.

    above: forks on the way to it, the root's side first; below: the next forks under it
    """

    node: RadixNode
    above: tuple[Fork, ...]
    rows: list[int]
    below: list[Fork] = field(default_factory=list["Fork"])


def share_prefixes(nodes: Items[RadixNode | None], shortest: int = SHORTEST) -> list[SharedPrefix]:
    """Group rows by common tree path so that the reads saved, the sum of (rows - 1) * length, are the most possible.

    nodes: what the sequence of each row holds; row i of the plan is nodes[i]
    returns: disjoint groups of at least two rows, with lengths of at least `shortest`
    """
    forks = _forks(nodes, shortest)
    opens = _best_groups(forks)
    group_of: dict[Fork, Fork | None] = {}
    rows: dict[Fork, list[int]] = {}
    for fork in forks:
        group = group_of[fork.above[-1]] if fork.above else None
        if opens[fork][_depth(group)]:
            group = fork
        group_of[fork] = group
        if group is not None:
            rows.setdefault(group, []).extend(fork.rows)
    return [SharedPrefix(sorted(found), group.node.end) for group, found in rows.items()]


def _depth(fork: Fork | None) -> int:
    return len(fork.above) + 1 if fork is not None else 0


def _best_groups(forks: list[Fork]) -> dict[Fork, list[bool]]:
    """Whether a fork opens a group of its own, for each depth of the nearest fork above that has one (0: none has).

    Opening a group of length L costs L and saves L for every row that joins it: rows at the fork, and rows below that
    have no nearer group.
    """
    opens: dict[Fork, list[bool]] = {}
    saved: dict[Fork, list[int]] = {}
    for fork in reversed(forks):
        here = _depth(fork)
        alone = (len(fork.rows) - 1) * fork.node.end + sum(saved[b][here] for b in fork.below)
        lengths = [0, *(a.node.end for a in fork.above)]
        joined = [len(fork.rows) * length + sum(saved[b][d] for b in fork.below) for d, length in enumerate(lengths)]
        opens[fork] = [alone > value for value in joined]
        saved[fork] = [max(alone, value) for value in joined]
    return opens


def _forks(nodes: Items[RadixNode | None], shortest: int) -> list[Fork]:
    """The rows' paths, without what is too short and without nodes where nothing happens; parents come first."""
    ends: dict[RadixNode, list[int]] = {}
    for index, node in enumerate(nodes):
        if node is not None and node.end >= shortest:
            ends.setdefault(node, []).append(index)
    if sum(map(len, ends.values())) < 2:
        return []
    tops, below = _paths(ends, shortest)
    forks: list[Fork] = []
    pending: list[tuple[RadixNode, Fork | None]] = [(top, None) for top in reversed(tops)]
    while pending:
        node, over = pending.pop()
        while node not in ends and len(below[node]) == 1:
            node = below[node][0]
        fork = Fork(node, (*over.above, over) if over else (), ends.get(node, []))
        if over:
            over.below.append(fork)
        forks.append(fork)
        pending.extend((child, fork) for child in reversed(below[node]))
    return forks


def _paths(ends: dict[RadixNode, list[int]], shortest: int) -> tuple[list[RadixNode], dict[RadixNode, list[RadixNode]]]:
    """The topmost nodes that are long enough, and for each node on a path those below it on paths."""
    tops: list[RadixNode] = []
    below: dict[RadixNode, list[RadixNode]] = {}
    for node in ends:
        if node in below:
            continue
        below[node] = []
        while True:
            parent = node.parent
            if parent is None or parent.end < shortest:
                tops.append(node)
                break
            if parent in below:
                below[parent].append(node)
                break
            below[parent] = [node]
            node = parent
    return tops, below
