"""Triton's search for the likeliest tokens against a full sort that knows of ties."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stolon.kernels.likeliest import top_logprobs
from stolon.kernels.reference_sample import largest
from stolon.kernels.reference_sample import top_logprobs as plain
from stolon.kernels.tiles import LIKELIEST_KEPT
from stolon.runtime.limits import NATIVE_NUMBERS, NUMBERS
from tests.kernels.drawing_cases import make_logits

pytestmark = pytest.mark.usefixtures("poisoned")


def by_sort(logits: Tensor, count: int) -> tuple[list[list[float]], list[list[int]]]:
    """Values and ids of each row, by Python."""
    rows = [[(-value, token) for token, value in enumerate(row)] for row in logits.float().tolist()]
    best = [sorted(row)[:count] for row in rows]
    return [[-value for value, _ in row] for row in best], [[token for _, token in row] for row in best]


def check(logits: Tensor, count: int) -> None:
    """Both forms against the sort. The normaliser is subtracted in float32, once, so nothing differs by a bit."""
    normalizers = torch.linspace(-3, 5, len(logits))
    values, ids = by_sort(logits, count)
    expected = torch.tensor(values).reshape(len(logits), -1) - normalizers.unsqueeze(1)
    for top in (top_logprobs, plain):
        told, found = top(logits, normalizers, count)
        assert found.dtype == torch.int32
        assert found.tolist() == ids
        torch.testing.assert_close(told, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("rows", "vocab", "count"),
    # one row, segments of one token and of few, more than there are, more than are usually kept
    [(3, 9001, 20), (1, 4096, 1), (1, 4097, 5), (2, 1, 1), (4, 40, 50), (1, 4200, LIKELIEST_KEPT + 8)],
)
def test_the_likeliest_are_those_of_a_sort(rows: int, vocab: int, count: int, dtype: torch.dtype) -> None:
    """In 16 bits a few of twenty are equal already."""
    check(make_logits(rows, vocab, dtype, seed=count), count)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_of_equal_logits_the_lowest_ids_come_first_in_any_segment(count: int) -> None:
    logits = torch.zeros(4, 8300)
    logits[0, 4090:4110] = 1.0  # on both sides of an edge
    logits[1, [8299, 5000, 17]] = 2.0
    logits[2, ::2] = -0.0  # which is 0
    logits[3] = -math.inf
    logits[3, 4500] = -1e30
    check(logits, count)


def test_logits_that_are_infinite_or_hardly_differ_keep_their_order() -> None:
    logits = torch.full((2, 50), -math.inf)
    logits[0, [3, 9, 4]] = torch.tensor([-3e38, 1e-45, -1e-45])
    logits[1, [49, 0]] = torch.tensor([1.0, 1.0 - 2**-24])
    check(logits, 7)


def test_a_row_of_no_numbers_harms_no_other() -> None:
    logits = make_logits(3, 5000).clone()
    fine = logits[[0, 2]]
    logits[1, ::2], logits[1, 1] = math.nan, math.inf
    normalizers = torch.zeros(3)
    for top in (top_logprobs, plain):
        values, ids = top(logits, normalizers, 5)
        assert ids[[0, 2]].tolist() == by_sort(fine, 5)[1]
        assert values[[0, 2]].tolist() == by_sort(fine, 5)[0]
        assert ((ids >= 0) & (ids < 5000)).all()


@pytest.mark.parametrize(("rows", "count"), [(0, 5), (3, 0)])
def test_nothing_is_asked_of_nobody(rows: int, count: int) -> None:
    for top in (top_logprobs, plain):
        values, ids = top(torch.zeros(rows, 50), torch.zeros(rows), count)
        assert values.shape == ids.shape == (rows, count)


def test_the_first_largest_of_numbers_that_are_mostly_equal() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 4, 30, 200):
        values = torch.randint(0, 4, (30, 90), generator=generator).float()
        found, places = largest(values, count)
        expected = by_sort(values, count)
        assert (found.tolist(), places.tolist()) == expected


def test_what_a_server_may_be_asked_for_makes_no_kernel_of_its_own() -> None:
    most = max(NUMBERS["top_logprobs"].high, NUMBERS["logprobs"].high, NATIVE_NUMBERS["top_logprobs_num"].high)
    assert most <= LIKELIEST_KEPT
