from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis.strategies import integers, lists, tuples

from stolon.runtime.cascade import share_prefixes
from stolon.runtime.radix import RadixNode, RadixTree
from stolon.runtime.sequence import SharedPrefix


def partitions(rows: list[int]) -> Iterator[list[list[int]]]:
    """All ways to put rows into groups."""
    if not rows:
        yield []
        return
    first, *others = rows
    for rest in partitions(others):
        yield [[first], *rest]
        for i, group in enumerate(rest):
            yield [*rest[:i], [first, *group], *rest[i + 1 :]]


def common(nodes: list[RadixNode]) -> int:
    paths = [set(node.path()) for node in nodes]
    return max((node.end for node in set.intersection(*paths)), default=0)


def saved(groups: list[list[int]], nodes: list[RadixNode], shortest: int) -> int:
    lengths = [common([nodes[i] for i in group]) if len(group) > 1 else 0 for group in groups]
    return sum((len(g) - 1) * length for g, length in zip(groups, lengths, strict=True) if length >= shortest)


def grow(shape: list[tuple[int, int]]) -> list[RadixNode]:
    """A tree by random attachment: entry i hangs a node of so many tokens under an earlier one."""
    tree = RadixTree()
    nodes = [tree.root]
    for i, (parent, size) in enumerate(shape):
        above = nodes[parent % len(nodes)]
        tokens = array("i", [i + 1] * (above.end + size))
        node = tree.extend(above, tokens, above.end + size, np.zeros(size, np.int32))
        assert node is not None
        nodes.append(node)
    return nodes


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    lists(tuples(integers(0, 20), integers(1, 9)), min_size=1, max_size=8),
    lists(integers(0, 20), max_size=6),
    integers(1, 8),
)
def test_no_other_grouping_saves_more_reads(shape: list[tuple[int, int]], choice: list[int], shortest: int) -> None:
    nodes = grow(shape)
    held = [nodes[i % len(nodes)] for i in choice]
    groups = share_prefixes(held, shortest)
    best = max(saved(p, held, shortest) for p in partitions(list(range(len(held)))))
    assert sum((len(g.rows) - 1) * g.length for g in groups) == best
    seen = [row for group in groups for row in group.rows]
    assert len(seen) == len(set(seen))
    for group in groups:
        assert len(group.rows) >= 2
        assert shortest <= group.length <= common([held[i] for i in group.rows])


def test_rows_that_are_no_decode_rows_are_left_out() -> None:
    node = grow([(0, 40)])[1]
    assert share_prefixes([None, node, None, node]) == [SharedPrefix([1, 3], 40)]
    assert share_prefixes([node, None]) == []


def test_a_chain_of_many_chunks_counts_as_one_prefix() -> None:
    nodes = grow([(i, 1) for i in range(5000)])
    left, right = grow_pair(nodes[-1])
    assert share_prefixes([left, right]) == [SharedPrefix([0, 1], 5000)]


def grow_pair(node: RadixNode) -> tuple[RadixNode, RadixNode]:
    tree = RadixTree()
    one, two = (array("i", [t] * (node.end + 1)) for t in (-1, -2))
    left = tree.extend(node, one, node.end + 1, np.zeros(1, np.int32))
    right = tree.extend(node, two, node.end + 1, np.zeros(1, np.int32))
    assert left is not None
    assert right is not None
    return left, right
