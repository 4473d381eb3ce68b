"""What people see of the tree and the queue is true, and bounded."""

from __future__ import annotations

from array import array

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stolon.runtime.radix import RadixNode, RadixTree
from stolon.runtime.view import WIDEST, view_tree

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), max_size=20)


def tree_of(prompts: list[list[int]]) -> RadixTree:
    tree = RadixTree()
    for prompt in prompts:
        tree.insert(tree.root, array("i", prompt), len(prompt), np.arange(len(prompt), dtype=np.int32))
    return tree


def all_nodes(tree: RadixTree) -> dict[int, RadixNode]:
    found: dict[int, RadixNode] = {}
    pending = list(tree.root.children.values())
    while pending:
        node = pending.pop()
        found[node.serial] = node
        pending += node.children.values()
    return found


@given(PROMPTS)
def test_a_small_tree_is_shown_whole(prompts: list[list[int]]) -> None:
    tree = tree_of(prompts)
    expected = all_nodes(tree)
    shown = view_tree(tree, 1000, first=3)
    assert {node.id for node in shown} == set(expected)
    for node in shown:
        true = expected[node.id]
        assert true.parent is not None
        assert (node.parent, node.tokens, node.end, node.hidden) == (true.parent.serial, len(true.key), true.end, 0)
        assert node.first == tuple(true.key[:3])


@given(PROMPTS, st.integers(0, 6))
def test_a_part_hangs_together_and_says_how_many_children_it_leaves_out(prompts: list[list[int]], most: int) -> None:
    tree = tree_of(prompts)
    every = all_nodes(tree)
    shown = view_tree(tree, most)
    assert len(shown) == min(most, len(every))
    ids = {node.id for node in shown}
    for node in shown:
        assert node.parent in ids | {0}
        assert node.hidden == sum(child.serial not in ids for child in every[node.id].children.values())


def test_a_wide_top_leaves_room_for_what_is_below() -> None:
    tree = tree_of([[i, 7, j] for i in range(100) for j in range(2)])
    shown = view_tree(tree, WIDEST + 8)
    assert sum(node.parent == 0 for node in shown) == WIDEST
    assert sum(node.parent != 0 for node in shown) == 8


def test_a_prefix_is_as_hot_as_what_was_used_below_it() -> None:
    tree = tree_of([[1, 2, 3], [1, 2, 4], [5]])
    (leaf,) = (node for node in all_nodes(tree).values() if list(node.key) == [3])
    tree.lock(leaf)
    tree.unlock(leaf)
    idle = {node.end: node.idle for node in view_tree(tree, 100) if node.parent == 0}
    assert idle[2] == 0 < idle[1]
