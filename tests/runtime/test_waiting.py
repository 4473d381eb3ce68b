"""The order of the waiting queue, against the same order said with less care for its cost."""

from __future__ import annotations

import time
from array import array
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists, sampled_from, tuples

from stolon.lang.types import SamplingParams
from stolon.runtime.config import RadixEvictionPolicy, SchedulePolicy
from stolon.runtime.holdings import Holdings
from stolon.runtime.pages import PagePool
from stolon.runtime.sequence import Sequence
from stolon.runtime.waiting import WaitingQueue

Cached = list[tuple[str, list[int]]]
OTHER = 9  # a token that nothing cached goes on with


def queue_of(
    policy: SchedulePolicy, cached: Cached, *, share: bool = True, eviction: RadixEvictionPolicy = "lru"
) -> WaitingQueue:
    """A queue before a tree that holds `cached`: salts and tokens."""
    pool = PagePool(100_000, 1)
    holdings = Holdings(pool, share=share, most_pinned=0, pin_seconds=0.0, clock=lambda: 0.0, eviction=eviction)
    for salt, tokens in cached:
        slots = np.arange(len(tokens), dtype=np.int32)
        holdings.tree.insert(holdings.tree.root, array("i", tokens), len(tokens), slots, salt)
    return WaitingQueue(holdings, policy, 64)


def wait(queue: WaitingQueue, prompt: list[int], *, salt: str = "", priority: int = 0) -> Sequence:
    arrival = len(queue) + 1
    sequence = Sequence(
        id=arrival,
        tokens=array("i", prompt),
        num_prompt=len(prompt),
        params=SamplingParams(),
        seed=0,
        salt=salt,
        priority=priority,
    )
    sequence.arrival = arrival
    queue.add(sequence)
    return sequence


def order(queue: WaitingQueue) -> list[int]:
    return [candidate.sequence.arrival for candidate in queue.in_order()]


CACHED: Cached = [("", [1, 1, 1, 1]), ("", [1, 1, 2, 2]), ("", [3, 3, 3, 3]), ("a", [1, 1, 1, 1])]
WAITING = [[OTHER], [3, 3, 3, 3, OTHER], [1, 1, 2, OTHER], [1, 1, 1, 1, OTHER], [1, 1, 2, 2, OTHER], [1, OTHER]]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fcfs", [1, 2, 3, 4, 5, 6]),
        ("lpm", [2, 4, 5, 3, 6, 1]),
        # four below 1, of which two below 1 1 2; a node's own come after what is below it, the longer prefix first
        ("dfs-weight", [5, 3, 4, 6, 2, 1]),
    ],
)
def test_the_order_of_each_policy(policy: SchedulePolicy, expected: list[int]) -> None:
    queue = queue_of(policy, CACHED)
    for prompt in WAITING:
        wait(queue, prompt)
    assert order(queue) == expected


@pytest.mark.parametrize("policy", ["fcfs", "lpm", "dfs-weight"])
def test_age_then_priority_then_preemption_come_before_every_policy(policy: SchedulePolicy) -> None:
    queue = queue_of(policy, CACHED)
    waiting = [wait(queue, prompt) for prompt in [*WAITING, *WAITING[1:]]]
    urgent = wait(queue, [OTHER], priority=1)
    waiting[10].preemptions = 1
    waiting[8].overtaken = waiting[0].overtaken = 64
    assert order(queue)[:4] == [1, 9, urgent.arrival, 11]


def test_without_a_cache_every_policy_is_first_come_first_served() -> None:
    queue = queue_of("dfs-weight", [], share=False)
    for prompt in WAITING:
        wait(queue, prompt)
    assert order(queue) == [1, 2, 3, 4, 5, 6]


def test_what_is_below_another_salt_has_its_own_weight() -> None:
    queue = queue_of("dfs-weight", CACHED)
    for salt in ("a", "", "", "a", "a"):
        wait(queue, [1, 1, 1, 1, OTHER], salt=salt)
    assert order(queue) == [1, 4, 5, 2, 3]


def test_of_equal_weights_the_first_to_arrive_comes_first() -> None:
    queue = queue_of("dfs-weight", CACHED)
    for prompt in ([1, 1, 2, OTHER], [3, 3, OTHER], [3, OTHER], [1, 1, 1, 1, OTHER]):
        wait(queue, prompt)
    assert order(queue) == [1, 4, 2, 3]


@pytest.mark.parametrize("eviction", ["lru", "lfu", "priority"])
def test_what_somebody_waits_for_is_not_evicted_while_he_waits(eviction: RadixEvictionPolicy) -> None:
    queue = queue_of("lpm", [("", [first] * 3) for first in (1, 2, 3)], eviction=eviction)
    tree = queue._holdings.tree
    wanted, *others = [tree.match(array("i", [first] * 3), 3)[0] for first in (1, 2, 3)]
    for node in others:
        node.uses, node.priority = 5, 5
    waiting = wait(queue, [1, 1, 1, OTHER])
    queue.in_order()
    tree.evict(3)
    assert (wanted.alive, [node.alive for node in others]) == (True, [False, True])
    queue.remove(waiting)
    tree.evict(3)
    assert wanted.alive == (eviction == "lru")  # by which it counts as used


def walked(cached: Cached, waiting: list[Sequence]) -> list[int]:
    """The walk on a tree that has a node for every token, looked at from its root."""
    known = {(salt, *tokens[:end]) for salt, tokens in cached for end in range(1, len(tokens) + 1)}
    standing: defaultdict[tuple[str | int, ...], list[int]] = defaultdict(list)
    for sequence in waiting:
        tokens, end = sequence.tokens, 0
        while end < len(tokens) - 1 and (sequence.salt, *tokens[: end + 1]) in known:
            end += 1
        standing[(sequence.salt, *tokens[:end]) if end else ()].append(sequence.arrival)

    def below(place: tuple[str | int, ...]) -> list[int]:
        return sorted(a for where, arrivals in standing.items() if where[: len(place)] == place for a in arrivals)

    def visit(place: tuple[str | int, ...]) -> list[int]:
        depth = len(place) + (1 if place else 2)  # the salt and the first token are one step
        children = {where[:depth] for where in standing if len(where) >= depth and where[: len(place)] == place}
        first = sorted(children, key=lambda child: (-len(below(child)), below(child)[0]))
        return [a for child in first for a in visit(child)] + standing.get(place, [])

    return visit(())


texts = tuples(sampled_from(["", "a"]), lists(integers(0, 2), min_size=1, max_size=8))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(lists(texts, max_size=12), lists(texts, max_size=16))
def test_the_walk_is_that_of_a_tree_of_single_tokens(cached: Cached, prompts: Cached) -> None:
    queue = queue_of("dfs-weight", cached)
    waiting = [wait(queue, prompt, salt=salt) for salt, prompt in prompts]
    assert order(queue) == walked(cached, waiting)


def test_the_walk_looks_only_at_ways_to_those_that_wait() -> None:
    texts = [[i, *range(10)] for i in range(50_000)] + [[i, *range(5), OTHER] for i in range(25_000)]
    queue = queue_of("dfs-weight", [("", tokens) for tokens in texts])  # 100,000 nodes
    for i in range(1024):
        wait(queue, [i % 300, *range(10), OTHER])
    queue.in_order()
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        queue.in_order()
        best = min(best, time.perf_counter() - start)
    assert best < 0.01  # 1 ms on an idle machine


def test_a_deep_way_is_walked_without_recursion() -> None:
    depth = 1200
    queue = queue_of("dfs-weight", [("", [0] * end) for end in range(1, depth)])
    shallow, deep = wait(queue, [0, OTHER]), wait(queue, [0] * depth)
    assert order(queue) == [deep.arrival, shallow.arrival]
