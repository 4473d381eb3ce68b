from __future__ import annotations

import time
from array import array
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import data, integers, lists, sampled_from

from stolon.runtime.config import RadixEvictionPolicy
from stolon.runtime.invariants import check_tree
from stolon.runtime.pages import InvariantError
from stolon.runtime.radix import RadixNode, RadixTree, common_prefix

Tokens = tuple[int, ...]


def tokens_of(*items: int) -> array[int]:
    return array("i", items)


def insert(tree: RadixTree, tokens: array[int], salt: str = "", first: int = 0) -> RadixNode:
    slots = np.arange(first, first + len(tokens), dtype=np.int32)
    return tree.insert(tree.root, tokens, len(tokens), slots, salt)[0]


def slots_of(tree: RadixTree, node: RadixNode, length: int) -> list[int]:
    out = np.full(node.end, -1, np.int32)
    tree.read(node, 0, out)
    return out[:length].tolist()


@given(lists(integers(0, 2), max_size=80), lists(integers(0, 2), max_size=80), data())
def test_runs_are_compared_like_items(a: list[int], b: list[int], draw) -> None:
    i, j = draw.draw(integers(0, len(a))), draw.draw(integers(0, len(b)))
    most = min(len(a) - i, len(b) - j)
    expected = next((k for k in range(most) if a[i + k] != b[j + k]), most)
    assert common_prefix(array("i", a), i, array("i", b), j, most) == expected


@given(integers(0, 300), integers(1, 300))
def test_long_runs_that_differ_in_one_place_agree_up_to_it(at: int, more: int) -> None:
    a = array("i", range(at + more))
    b = array("i", a)
    b[at] = -1
    assert common_prefix(a, 0, b, 0, len(a)) == at


def test_a_match_ends_in_the_middle_of_a_node_and_changes_nothing() -> None:
    tree = RadixTree()
    insert(tree, tokens_of(1, 2, 3, 4))
    before = [(repr(n), n.access) for n in tree.nodes()], tree.epoch
    node, length = tree.match(tokens_of(1, 2, 9), 3)
    assert (length, node.start, node.end) == (2, 0, 4)
    assert ([(repr(n), n.access) for n in tree.nodes()], tree.epoch) == before


def test_salts_share_nothing() -> None:
    tree = RadixTree()
    insert(tree, tokens_of(1, 2, 3), "alice")
    assert tree.match(tokens_of(1, 2, 3), 3, "bob")[1] == 0
    assert tree.match(tokens_of(1, 2, 3), 3, "alice")[1] == 3


def test_pages_are_matched_whole() -> None:
    tree = RadixTree(page_size=4)
    insert(tree, tokens_of(*range(12)))
    assert tree.match(tokens_of(*range(7), 99), 8)[1] == 4
    assert tree.match(tokens_of(*range(12)), 11)[1] == 8
    insert(tree, tokens_of(0, 1, 2, 9), first=12)  # differs within the first page: a sibling
    assert len(tree.root.children) == 2


def test_the_least_recently_used_leaf_goes_first_and_its_tail_before_its_head() -> None:
    tree = RadixTree()
    old = insert(tree, tokens_of(1, 1, 1))
    new = insert(tree, tokens_of(2, 2, 2), first=3)
    tree.lock(old)
    tree.unlock(old)  # now it is the newer one
    assert [s.tolist() for s in tree.evict(2)] == [[4, 5]]
    assert new.end == 1
    assert [s.tolist() for s in tree.evict(3)] == [[3], [1, 2]]
    assert tree.match(tokens_of(1, 1, 1), 3)[1] == 1
    assert not new.alive


def test_what_is_locked_or_pinned_is_not_evicted() -> None:
    tree = RadixTree()
    one, two = insert(tree, tokens_of(1, 2)), insert(tree, tokens_of(3, 4), first=2)
    tree.lock(one)
    tree.pin(two)
    assert (tree.evict(4), tree.evictable, tree.pinned, tree.loose) == ([], 0, 2, 2)
    tree.unpin(two)
    assert [s.tolist() for s in tree.evict(4)] == [[2, 3]]
    with pytest.raises(InvariantError, match="while it was held"):
        tree.drop(one)


def test_an_old_answer_is_brought_up_to_date() -> None:
    tree = RadixTree()
    insert(tree, tokens_of(1, 2, 3, 4, 5, 6))
    want = tokens_of(1, 2, 3, 4, 5, 9)
    node, length = tree.match(want, 6)
    tree.anchor(node, 2)  # split below it
    node, length = tree.match(want, 6, node=node, length=length)
    assert length == 5
    tree.evict(3)  # and cut
    node, length = tree.match(want, 6, node=node, length=length)
    assert length == 3
    tree.evict(3)  # and gone
    node, length = tree.match(want, 6, node=node, length=length)
    assert (node, length) == (tree.root, 0)
    insert(tree, want)
    assert tree.match(want, 6, node=node, length=length)[1] == 6


def test_deep_chains_do_not_recurse() -> None:
    tree = RadixTree()
    node = tree.root
    key = array("i", [0] * 20_000)
    for end in range(1, len(key) + 1):
        child = tree.extend(node, key, end, np.array([end - 1], np.int32))
        assert child is not None
        node = child
    tree.lock(node)
    assert tree.match(key, len(key))[1] == len(key)
    tree.unlock(node)
    assert sum(map(len, tree.drop(next(iter(tree.root.children.values()))))) == len(key)
    assert tree.cached == tree.evictable == 0


@pytest.mark.parametrize("policy", ["lru", "lfu", "priority"])
def test_eviction_does_not_look_at_all_leaves(policy: RadixEvictionPolicy) -> None:
    tree = RadixTree(eviction=policy)
    leaves = [insert(tree, tokens_of(i, 0), first=2 * i) for i in range(100_000)]
    tree.want(leaves[:1024])
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        tree.evict(64)
        best = min(best, time.perf_counter() - start)
    assert best < 0.001


class RadixMachine(RuleBasedStateMachine):
    """The tree against a dictionary from every cached prefix of whole pages to the slots of its last page."""

    @initialize(page_size=sampled_from([1, 1, 2, 3]), policy=sampled_from(["lru", "lfu", "priority"]))
    def start(self, page_size: int, policy: RadixEvictionPolicy) -> None:
        self.tree = RadixTree(page_size, policy)
        self.page_size = page_size
        self.cached: dict[tuple[str, Tokens], Tokens] = {}
        self.locked: list[tuple[RadixNode, str, Tokens]] = []
        self.pinned: list[tuple[RadixNode, str, Tokens]] = []
        self.places: list[tuple[str, array[int], RadixNode, int]] = []
        self.next_slot = 0

    keys = lists(integers(0, 2), min_size=1, max_size=12)
    salts = sampled_from(["", "a"])

    def pages(self, length: int) -> range:
        """Where the whole pages of the first `length` tokens end."""
        return range(self.page_size, length + 1, self.page_size)

    def longest(self, salt: str, tokens: list[int], limit: int) -> int:
        return max((n for n in self.pages(limit) if (salt, tuple(tokens[:n])) in self.cached), default=0)

    @rule(tokens=keys, salt=salts)
    def insert(self, tokens: list[int], salt: str) -> None:
        end = len(tokens) - len(tokens) % self.page_size
        if not end:
            return
        slots = np.arange(self.next_slot, self.next_slot + end, dtype=np.int32)
        self.next_slot += end
        expected = self.longest(salt, tokens, end)
        node, known = self.tree.insert(self.tree.root, array("i", tokens), end, slots, salt)
        assert known == expected
        assert node.start < end <= node.end
        for n in self.pages(end):
            if n > known:
                self.cached[salt, tuple(tokens[:n])] = tuple(slots[n - self.page_size : n].tolist())

    @rule(tokens=keys, salt=salts, cut=integers(0, 2))
    def match(self, tokens: list[int], salt: str, cut: int) -> None:
        key, limit = array("i", tokens), max(len(tokens) - cut, 0)
        node, length = self.tree.match(key, limit, salt)
        assert length == self.longest(salt, tokens, limit)
        found = slots_of(self.tree, node, length)
        assert found == [slot for n in self.pages(length) for slot in self.cached[salt, tuple(tokens[:n])]]
        self.places.append((salt, key, node, length))

    @rule(choices=lists(integers(0, 1000), max_size=4))
    def want(self, choices: list[int]) -> None:
        nodes = list(self.tree.nodes())
        self.tree.want([nodes[choice % len(nodes)] for choice in choices if nodes])

    @precondition(lambda self: self.places)
    @rule(choice=integers(0, 1000))
    def match_again(self, choice: int) -> None:
        salt, key, node, length = self.places[choice % len(self.places)]
        node, length = self.tree.match(key, len(key), salt, node, length)
        assert length == self.longest(salt, key.tolist(), len(key))

    @rule(tokens=keys, salt=salts, pin=sampled_from([False, False, True]))
    def hold(self, tokens: list[int], salt: str, pin: bool) -> None:
        node, length = self.tree.match(array("i", tokens), len(tokens), salt)
        node = self.tree.anchor(node, length)
        assert node.end == length
        (self.tree.pin if pin else self.tree.lock)(node)
        (self.pinned if pin else self.locked).append((node, salt, tuple(tokens[:length])))

    @precondition(lambda self: self.locked)
    @rule(choice=integers(0, 1000))
    def unlock(self, choice: int) -> None:
        self.tree.unlock(self.locked.pop(choice % len(self.locked))[0])

    @precondition(lambda self: self.pinned)
    @rule(choice=integers(0, 1000))
    def unpin(self, choice: int) -> None:
        self.tree.unpin(self.pinned.pop(choice % len(self.pinned))[0])

    @rule(pages=integers(1, 6))
    def evict(self, pages: int) -> None:
        count = pages * self.page_size
        possible = min(count, self.tree.evictable)
        freed = [slot for slots in self.tree.evict(count) for slot in slots.tolist()]
        assert len(freed) == possible
        self._forget(freed)

    @rule(choice=integers(0, 1000))
    def drop(self, choice: int) -> None:
        held = {n for node, _, _ in self.locked + self.pinned for n in node.path()}
        free = [node for node in self.tree.nodes() if node not in held]
        if free:
            self._forget([slot for slots in self.tree.drop(free[choice % len(free)]) for slot in slots.tolist()])

    def _forget(self, freed: list[int]) -> None:
        gone = set(freed)
        assert len(gone) == len(freed)
        self.cached = {key: page for key, page in self.cached.items() if not gone.issuperset(page)}

    @invariant()
    def the_books_are_right(self) -> None:
        holders: Counter[RadixNode | None] = Counter(node for node, _, _ in self.locked)
        check_tree(self.tree, holders, Counter(node for node, _, _ in self.pinned))
        assert self.tree.cached == len(self.cached) * self.page_size

    @invariant()
    def what_is_held_is_there(self) -> None:
        for node, salt, tokens in self.locked + self.pinned:
            assert node.end == len(tokens)
            assert all((salt, tokens[:n]) in self.cached for n in self.pages(len(tokens)))


TestRadixMachine = RadixMachine.TestCase
TestRadixMachine.settings = settings(max_examples=200, stateful_step_count=50, derandomize=True, deadline=None)
