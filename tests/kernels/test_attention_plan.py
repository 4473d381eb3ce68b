"""Plans read every position of every row exactly once, fit the sizes they promise, and share where that pays."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import DataObject, data, integers, lists, sampled_from

from stolon.kernels.attention_plan import Chip, DecodePlan, DecodePlanner, Heads, Shared, plan_extend
from tests.kernels.attention_cases import H200, SLOW

LLAMA_8B = Heads(32, 8, 128, item_bytes=2, kv_item_bytes=2)
SHAPES = [LLAMA_8B, Heads(14, 2, 64, 2, 2), Heads(32, 32, 96, 2, 1), Heads(71, 1, 64, 4, 4)]


def positions_read(plan: DecodePlan, rows: int) -> list[list[tuple[int, int]]]:
    """For each row, its ranges with the partial results they go to checked: each of the row's own, each once."""
    ranges: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
    targets: Counter[int] = Counter()
    whole: Counter[int] = Counter()
    for row, begin, end, target in plan.items.tolist():
        if row >= 0:
            ranges[row].append((begin, end))
            if target < 0:
                whole[row] += 1
            else:
                assert plan.firsts[row] <= target < plan.firsts[row + 1]
                targets[target] += 1
    for first, count, begin, end, split in [] if plan.prefixes is None else plan.prefixes.tolist():
        for row in plan.members[first : first + count].tolist():
            ranges[row].append((begin, end))
            assert plan.firsts[row] + split < plan.firsts[row + 1]
            targets[plan.firsts[row] + split] += 1
    assert set(targets.values()) <= {1}
    assert sorted(targets) == list(range(plan.firsts[-1]))
    assert plan.firsts[-1] <= plan.partials
    for row in range(rows):
        assert (whole[row] == 1) == (plan.firsts[row] == plan.firsts[row + 1])
    return ranges


def joined(ranges: list[tuple[int, int]]) -> tuple[int, int]:
    """From where to where they reach, if they follow each other without a gap."""
    ranges = sorted(ranges)
    for (_, end), (begin, _) in pairwise(ranges):
        assert end == begin
    return ranges[0][0], ranges[-1][1]


@settings(max_examples=150, deadline=None)
@given(
    contexts=lists(integers(0, 200) | integers(0, 70_000), min_size=1, max_size=40),
    heads=sampled_from(SHAPES),
    chip=sampled_from([H200, SLOW]),
    window=sampled_from([None, 1, 100, 4096]),
    source=data(),
)
def test_every_position_is_read_once_whatever_the_lengths(
    contexts: list[int], heads: Heads, chip: Chip, window: int | None, source: DataObject
) -> None:
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(source.draw(lists(integers(0, 4), min_size=len(contexts), max_size=len(contexts)))):
        if contexts[row] > 1:
            groups.setdefault(group, []).append(row)
    shared = [
        Shared(rows, source.draw(integers(1, min(contexts[row] for row in rows) - 1)))
        for group, rows in groups.items()
        if len(rows) > 1 and group
    ]
    planner = DecodePlanner(len(contexts), heads, chip)
    plan = planner.plan(np.array(contexts, np.int32), shared, window)
    assert plan.items.shape == (planner.items, 4)
    assert plan.prefixes is None or plan.prefixes.shape == (planner.prefixes, 5)
    for context, ranges in zip(contexts, positions_read(plan, len(contexts)), strict=True):
        assert joined(ranges) == (0 if window is None else max(0, context - window), context)


def load_of(contexts: list[int], heads: Heads = LLAMA_8B) -> float:
    """The chip's time for a plan over the least possible, if every program reads at the same rate: items are taken in
    order by whoever is free."""
    planner = DecodePlanner(len(contexts), heads, H200)
    plan = planner.plan(np.array(contexts, np.int32))
    free = [0.0] * planner.at_once
    for row, begin, end, _ in plan.items.tolist():
        if row >= 0:
            first = min(range(len(free)), key=free.__getitem__)
            free[first] += end - begin
    return max(free) / (sum(contexts) / len(free))


@pytest.mark.parametrize(
    ("contexts", "most"),
    [
        ([131_072], 1.05),
        ([32_768] * 64, 1.1),
        ([32_768] * 40, 1.2),
        ([512] * 256, 1.1),
        ([100_000, *[500] * 255], 1.4),
        ([100_000, 3], 1.1),
    ],
    ids=["one long", "64 long", "40 long", "256 short", "one long among short", "one long beside a new one"],
)
def test_the_chip_is_filled(contexts: list[int], most: float) -> None:
    assert load_of(contexts) <= most


def test_a_short_row_is_not_cut() -> None:
    planner = DecodePlanner(1, LLAMA_8B, H200)
    assert (planner.plan(np.array([128], np.int32)).items[:, 0] >= 0).sum() == 1
    assert (planner.plan(np.array([4096], np.int32)).items[:, 0] >= 0).sum() > 16


def test_sharing_pays_for_long_prefixes_and_many_rows_only() -> None:
    planner = DecodePlanner(64, LLAMA_8B, H200)
    assert planner.pays(Shared(range(64), 16_384))
    assert planner.pays(Shared(range(8), 4096))
    assert planner.pays(Shared(range(2), 32_768))
    assert not planner.pays(Shared(range(2), 1000))
    assert not planner.pays(Shared(range(64), 32))
    # one row in company of none
    assert not planner.pays(Shared([3], 100_000))


@pytest.mark.parametrize(("length", "rows"), [(32, 64), (1000, 2), (16_384, 64), (32_768, 2), (4096, 1)])
def test_what_pays_is_shared_unasked_and_what_does_not_never_is(length: int, rows: int) -> None:
    planner = DecodePlanner(64, LLAMA_8B, H200)
    group = Shared(range(rows), length)
    plan = planner.plan(np.full(64, length + 100, np.int32), [group])
    assert (plan.prefixes is not None) == planner.pays(group)


def test_a_window_that_cuts_the_prefix_forbids_sharing() -> None:
    planner = DecodePlanner(2, LLAMA_8B, SLOW)
    contexts, shared = np.array([1200, 1100], np.int32), [Shared([0, 1], 1000)]
    assert planner.plan(contexts, shared, window=1200).prefixes is not None
    assert planner.plan(contexts, shared, window=1199).prefixes is None


def test_tiles_of_new_tokens_cover_each_token_once_longest_first() -> None:
    lengths, contexts = np.array([100, 0, 1, 33], np.int32), np.array([100, 50, 9000, 64], np.int32)
    step = LLAMA_8B.tokens_per_tile
    tiles = plan_extend(lengths, contexts, LLAMA_8B).tolist()
    assert sorted(tiles) == [[0, first] for first in range(0, 100, step)] + [[2, 0]] + [
        [3, first] for first in range(0, 33, step)
    ]
    ends = [contexts[row] - lengths[row] + min(first + step, lengths[row]) for row, first in tiles]
    assert ends == sorted(ends, reverse=True)
