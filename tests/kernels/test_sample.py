"""Triton's sampler against the plain one, over vocabularies of several segments."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from stolon.kernels import reference_sample, sample
from stolon.kernels.draw import draw_keys, token_hash
from stolon.kernels.drawing import Allowed, Drawn
from tests.kernels.drawing_cases import FILTERS, make_allowed, make_bias, make_draws, make_logits, make_penalties

VOCAB = 9001
ROWS = len(FILTERS)

pytestmark = pytest.mark.usefixtures("poisoned")


def check(got: Drawn, expected: Drawn) -> None:
    assert got.tokens.tolist() == expected.tokens.tolist()
    fine = expected.tokens >= 0
    torch.testing.assert_close(got.logprobs[fine], expected.logprobs[fine], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.normalizers[fine], expected.normalizers[fine], rtol=1e-6, atol=1e-5)
    assert got.normalizers.isfinite().tolist() == expected.normalizers.isfinite().tolist()


@triton.jit
def _hashes(output, keys, COUNT: tl.constexpr):
    token = tl.arange(0, COUNT)
    tl.store(
        output + token, sample.hash_bits(token * 40009, tl.load(keys), tl.load(keys + 1)).to(tl.int32, bitcast=True)
    )


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1])
def test_the_hash_is_the_cpus_bit_for_bit(seed: int) -> None:
    keys = torch.tensor(draw_keys(seed, 7), dtype=torch.int32)
    got = torch.empty(4096, dtype=torch.int32)
    _hashes[(1,)](got, keys, COUNT=tl.constexpr(4096))
    assert torch.equal(got, token_hash(torch.arange(4096, dtype=torch.int32) * 40009, keys[0], keys[1]))


@pytest.mark.parametrize("first_key", [0, 100])
def test_rows_draw_as_in_the_plain_form(first_key: int) -> None:
    logits, draws = make_logits(ROWS, VOCAB), make_draws(first_key=first_key)
    check(sample.sample(logits, draws), reference_sample.sample(logits, draws))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocab", [40, 4096, 4097])
def test_any_vocabulary_and_type_without_filters(vocab: int, dtype: torch.dtype) -> None:
    logits = make_logits(3, vocab, dtype)
    draws = make_draws(filters=[(1.0, 0, 1.0, 0.0), (0.0, 0, 1.0, 0.0), (0.3, 0, 1.0, 0.0)])
    assert not draws.filters
    check(sample.sample(logits, draws), reference_sample.sample(logits, draws))


def test_penalties_bias_and_masks_as_in_the_plain_form() -> None:
    vocab = 4500
    logits = make_logits(ROWS, vocab)
    penalties = make_penalties(ROWS, vocab)
    edits = {"bias": make_bias(ROWS, vocab), "allowed": make_allowed(ROWS, vocab)}
    draws = replace(make_draws(), penalties=penalties, **edits)
    counted = replace(penalties, counts=penalties.counts.clone())
    check(sample.sample(logits, draws), reference_sample.sample(logits, replace(draws, penalties=counted)))
    assert torch.equal(penalties.counts, counted.counts)


def test_equal_logits_all_stay_and_the_lowest_token_wins_a_tie() -> None:
    logits = torch.zeros(3, 5000)
    logits[:, 100::50] = 2.0
    logits[1] *= -1
    draws = make_draws(filters=[(0.0, 0, 1.0, 0.0), (0.0, 0, 1.0, 0.0), (1.0, 3, 1.0, 0.0)])
    got = sample.sample(logits, draws)
    check(got, reference_sample.sample(logits, draws))
    assert got.tokens[:2].tolist() == [100, 0]


# the interpreter computes with numpy, which tells of NaN as it comes up
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")
def test_a_bad_row_gets_no_token_and_harms_no_other() -> None:
    logits = make_logits(ROWS, 5000).clone()
    logits[0, 7], logits[3, 2], logits[9] = math.nan, math.inf, -math.inf
    lines = torch.full((ROWS,), -1, dtype=torch.int32)
    lines[5] = 0
    nothing = Allowed(torch.zeros(1, -(-5000 // 32), dtype=torch.int32), lines)
    draws = replace(make_draws(), allowed=nothing)
    got = sample.sample(logits, draws)
    check(got, reference_sample.sample(logits, draws))
    assert got.tokens[[0, 3, 5, 9]].tolist() == [-1] * 4


def test_no_rows_are_no_work() -> None:
    assert sample.sample(torch.empty(0, 50), make_draws()).tokens.shape == (0,)


def test_a_row_draws_the_same_alone() -> None:
    logits, draws = make_logits(ROWS, 5000), make_draws()
    together = sample.sample(logits, draws)
    for row in (2, 5):
        own = {name: getattr(draws, name)[row : row + 1] for name in ("temperature", "top_k", "top_p", "min_p", "keys")}
        alone = sample.sample(logits[row : row + 1], replace(draws, **own))
        assert alone.tokens[0] == together.tokens[row]
        assert alone.logprobs[0] == together.logprobs[row]
