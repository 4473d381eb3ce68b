from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists, sampled_from

from stolon.runtime.pages import InvariantError, PagePool


def test_a_fresh_pool_hands_out_whole_pages_from_the_front() -> None:
    pool = PagePool(11, page_size=4)
    assert (pool.free, pool.num_slots) == (8, 8)
    assert pool.take(1).tolist() == [0, 1, 2, 3]
    assert pool.take_one() == 4
    assert pool.free == 0


@given(sampled_from([1, 3]), lists(integers(1, 5), max_size=30), integers(0, 2**16))
def test_what_is_taken_is_never_free_and_comes_back_whole(page_size: int, sizes: list[int], order: int) -> None:
    pool = PagePool(10 * page_size, page_size)
    rng = np.random.default_rng(order)
    taken: list[np.ndarray] = []
    for size in sizes:
        if size * page_size <= pool.free:
            taken.append(pool.take(size))
        elif taken:
            pool.give(taken.pop(int(rng.integers(len(taken)))))
        everything = np.concatenate([pool.free_slots(), *taken])
        assert sorted(everything.tolist()) == list(range(10 * page_size))


def test_freeing_a_page_twice_is_noticed() -> None:
    pool = PagePool(8)
    slots = pool.take(3)
    pool.give(slots[:2])
    with pytest.raises(InvariantError, match="freed twice"):
        pool.give(slots[1:])


def test_taking_more_than_there_is_is_noticed() -> None:
    pool = PagePool(8, page_size=4)
    with pytest.raises(InvariantError, match="3 pages"):
        pool.take(3)
    pool.take(2)
    with pytest.raises(InvariantError, match="none is free"):
        pool.take_one()


def test_a_pool_without_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one page"):
        PagePool(3, page_size=4)
