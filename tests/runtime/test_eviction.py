"""Which cached prefixes go first, by each policy: single cases, and a tree of single tokens that counts everything."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists, one_of, sampled_from, tuples

from stolon.lang.types import SamplingParams
from stolon.runtime.config import RadixEvictionPolicy
from stolon.runtime.holdings import Holdings
from stolon.runtime.pages import PagePool
from stolon.runtime.radix import RadixNode
from stolon.runtime.sequence import Sequence

Prefix = tuple[str | int, ...]  # a salt and tokens

SLOTS = 10_000


def holdings_of(policy: RadixEvictionPolicy) -> Holdings:
    pool = PagePool(SLOTS, 1)
    return Holdings(pool, share=True, most_pinned=0, pin_seconds=0.0, clock=lambda: 0.0, eviction=policy)


def admit(holdings: Holdings, tokens: list[int], *, salt: str = "", priority: int = 0) -> tuple[Sequence, int]:
    """A request, and how much of it was cached."""
    sequence = Sequence(
        id=0,
        tokens=array("i", tokens),
        num_prompt=len(tokens),
        params=SamplingParams(),
        seed=0,
        salt=salt,
        priority=priority,
    )
    node, length = holdings.tree.match(sequence.tokens, holdings.limit(sequence), salt)
    holdings.admit(sequence, node, length)
    return sequence, length


def begin(holdings: Holdings, tokens: list[int], *, salt: str = "", priority: int = 0) -> tuple[Sequence, int]:
    """`admit`, and its prompt is computed."""
    sequence, length = admit(holdings, tokens, salt=salt, priority=priority)
    assert holdings.reserve(len(tokens) - length)
    holdings.grow(sequence, len(tokens))
    sequence.computed = len(tokens)
    holdings.publish(sequence, 1)
    return sequence, length


def ask(holdings: Holdings, *tokens: int, salt: str = "", priority: int = 0) -> int:
    """A request that comes and ends; how much of it was cached."""
    sequence, length = begin(holdings, list(tokens), salt=salt, priority=priority)
    holdings.settle(sequence)
    return length


def evict(holdings: Holdings, count: int) -> None:
    for slots in holdings.tree.evict(count):
        holdings.pool.give(slots)


def cached(holdings: Holdings) -> set[Prefix]:
    found: set[Prefix] = set()
    for node in holdings.tree.nodes():
        way = list(node.path())[::-1]
        edge = way[0].edge
        assert isinstance(edge, tuple)
        tokens = [token for each in way for token in each.key]
        found |= {(edge[0], *tokens[:end]) for end in range(node.start + 1, node.end + 1)}
    return found


def node_of(holdings: Holdings, *tokens: int) -> RadixNode:
    node, length = holdings.tree.match(array("i", tokens), len(tokens))
    assert length == len(tokens)
    return node


# -- single cases


@pytest.mark.parametrize(("policy", "left"), [("lru", 3), ("lfu", 1), ("priority", 2)])
def test_each_policy_keeps_another_prefix(policy: RadixEvictionPolicy, left: int) -> None:
    holdings = holdings_of(policy)
    for _ in range(3):
        ask(holdings, 1, 1, 1)
    ask(holdings, 2, 2, 2, priority=1)
    ask(holdings, 3, 3, 3)
    evict(holdings, holdings.tree.cached - 1)
    assert cached(holdings) == {("", left)}


@pytest.mark.parametrize("policy", ["lfu", "priority"])
def test_of_equals_the_least_recently_used_goes_first(policy: RadixEvictionPolicy) -> None:
    holdings = holdings_of(policy)
    for first in (1, 2, 3, 1):
        ask(holdings, first, first, first)
    if policy == "lfu":
        ask(holdings, 2, 2, 2)
        ask(holdings, 3, 3, 3)
        evict(holdings, 3)  # the last tokens, which nobody found
        assert {prefix[1] for prefix in cached(holdings)} == {1, 2, 3}
        evict(holdings, 2)
        assert {prefix[1] for prefix in cached(holdings)} == {2, 3}
    else:
        evict(holdings, 3)
        assert {prefix[1] for prefix in cached(holdings)} == {1, 3}


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("policy", ["lfu", "priority"])
def test_a_split_keeps_uses_and_priority_of_both_parts(policy: RadixEvictionPolicy, lower: bool) -> None:
    holdings = holdings_of(policy)
    for _ in range(4):
        ask(holdings, 1, 1, 1, 1, 1, priority=2)
    ask(holdings, 1, 1, 3)  # splits what was found three times
    for _ in range(3):
        ask(holdings, 2, 2, 2, priority=1)
    if not lower:
        holdings.drop(node_of(holdings, 1, 1, 1, 1))
    left = [1, 1, 1, 1] if lower else [1, 1]
    evict(holdings, holdings.tree.cached - len(left))
    assert cached(holdings) == {("", *left[: end + 1]) for end in range(len(left))}


def test_who_finds_a_prefix_with_a_higher_priority_makes_it_as_important() -> None:
    holdings = holdings_of("priority")
    ask(holdings, 1, 1, 1, 1, priority=-1)
    ask(holdings, 2, 2, 2, 2)
    ask(holdings, 1, 1, 1, 5, priority=3)
    ask(holdings, 1, 1, 1, priority=-3)  # lowers nothing
    evict(holdings, holdings.tree.cached - 4)
    assert cached(holdings) == {("", 1), ("", 1, 1), ("", 1, 1, 1), ("", 1, 1, 1, 5)}


@pytest.mark.parametrize("policy", ["lfu", "priority"])
def test_to_find_a_prefix_counts_whatever_is_computed_after_it(policy: RadixEvictionPolicy) -> None:
    holdings = holdings_of(policy)
    ask(holdings, 1, 1, 1, priority=1)
    ask(holdings, 2, 2, 2, priority=1)
    holdings.settle(admit(holdings, [1, 1, 1, 1], priority=2)[0])
    ask(holdings, 3, 3, 3, priority=1)
    evict(holdings, 6)
    assert cached(holdings) == {("", 1), ("", 1, 1), ("", 1, 1, 1)}


def test_a_priority_below_zero_is_less_than_none() -> None:
    holdings = holdings_of("priority")
    ask(holdings, 1, 1)
    ask(holdings, 2, 2, priority=-1)
    evict(holdings, 2)
    assert cached(holdings) == {("", 1), ("", 1, 1)}


# -- what is wanted


@pytest.mark.parametrize("policy", ["lru", "lfu", "priority"])
def test_what_is_wanted_goes_last_and_only_as_long_as_it_is_wanted(policy: RadixEvictionPolicy) -> None:
    holdings = holdings_of(policy)
    for first in (1, 2, 3):
        ask(holdings, first, first, priority=first)
    for _ in range(3):
        ask(holdings, 2, 2, priority=2)
    holdings.tree.want([node_of(holdings, 1, 1)])
    evict(holdings, 2)
    assert ("", 1, 1) in cached(holdings)
    if policy != "lru":  # where to be wanted once is as good as to be used
        holdings.tree.want([])
        evict(holdings, 1)
        assert ("", 1, 1) not in cached(holdings)
        holdings.tree.want([node_of(holdings, 1)])
    evict(holdings, holdings.tree.cached - 1)
    assert cached(holdings) == {("", 1)}
    evict(holdings, 1)
    assert holdings.tree.cached == 0  # if nothing else is left, that goes, too


@pytest.mark.parametrize("policy", ["lfu", "priority"])
def test_what_was_spared_may_be_held_or_forgotten_meanwhile(policy: RadixEvictionPolicy) -> None:
    holdings = holdings_of(policy)
    for first in (1, 2, 3, 4):
        ask(holdings, first, first)
    kept = [node_of(holdings, first, first) for first in (1, 2, 3)]
    holdings.tree.want(kept)
    evict(holdings, 2)  # the fourth; the others' turn was first
    sequence, _ = begin(holdings, [1, 1, 1])
    holdings.drop(kept[1])
    holdings.tree.want([])
    evict(holdings, 100)
    assert {prefix[1] for prefix in cached(holdings)} == {1}
    holdings.settle(sequence)
    evict(holdings, 100)
    assert holdings.pool.free == SLOTS


# -- a model


@dataclass
class Token:
    """A cached token by its whole prefix; in the model nothing is split, and all is counted where it happens."""

    used: int  # the moment
    priority: int
    uses: int = 0
    holders: int = 0

    def worth(self, policy: RadixEvictionPolicy) -> tuple[int, int]:
        return {"lru": 0, "lfu": self.uses, "priority": self.priority}[policy], self.used


class Model:
    def __init__(self, policy: RadixEvictionPolicy) -> None:
        self.policy: RadixEvictionPolicy = policy
        self.tokens: dict[Prefix, Token] = {}
        self.moment = 0

    def begin(self, prefix: Prefix, priority: int) -> None:
        self.moment += 1
        for end in range(2, len(prefix) + 1):
            token = self.tokens.get(prefix[:end])
            if token is None or end == len(prefix):  # the last token is always computed
                token = token or self.tokens.setdefault(prefix[:end], Token(self.moment, priority))
            else:
                token.uses += 1
            token.priority = max(token.priority, priority)
            token.holders += 1

    def end(self, prefix: Prefix) -> None:
        self.moment += 1
        for end in range(2, len(prefix) + 1):
            token = self.tokens[prefix[:end]]
            token.holders -= 1
            if not token.holders:
                token.used = self.moment

    def evict(self, count: int) -> None:
        for _ in range(count):
            inner = {prefix[:-1] for prefix in self.tokens}
            able = [prefix for prefix, token in self.tokens.items() if prefix not in inner and not token.holders]
            if not able:
                return
            del self.tokens[min(able, key=lambda prefix: self.tokens[prefix].worth(self.policy))]


prompts = lists(integers(0, 1), min_size=1, max_size=5)
steps = one_of(
    tuples(sampled_from(["", "a"]), prompts, integers(-1, 2)),  # a request begins
    integers(0, 1000),  # one ends
    tuples(integers(1, 8)),  # so many tokens are evicted
)


@pytest.mark.parametrize("policy", ["lru", "lfu", "priority"])
@settings(max_examples=1000, derandomize=True, deadline=None)
@given(life=lists(steps, max_size=40))
def test_what_goes_is_what_goes_in_a_tree_of_single_tokens(
    policy: RadixEvictionPolicy, life: list[tuple[str, list[int], int] | int | tuple[int]]
) -> None:
    holdings, model = holdings_of(policy), Model(policy)
    running: list[Sequence] = []
    for step in life:
        match step:
            case (str(salt), tokens, priority):
                # a last token of its own, so that no request computes anew what another has cached
                prompt = [*tokens, 3 + holdings.tree.now]
                running.append(begin(holdings, prompt, salt=salt, priority=priority)[0])
                model.begin((salt, *prompt), priority)
            case int(choice) if running:
                sequence = running.pop(choice % len(running))
                holdings.settle(sequence)
                model.end((sequence.salt, *sequence.tokens))
            case (count,):
                evict(holdings, count)
                model.evict(count)
            case _:
                pass
        assert cached(holdings) == model.tokens.keys()
