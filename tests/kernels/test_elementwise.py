"""Triton's norms, rotary embedding and gate against their plain forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stolon.kernels import norm, reference, rotary, silu_mul
from stolon.kernels.paged import PagedKV
from stolon.kernels.reference import HeadNorm, Places, rotations

# of results of about 1; the interpreter cuts bfloat16 off where a GPU rounds it, so one unit in the last place
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}

pytestmark = pytest.mark.usefixtures("poisoned")
every_type = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    """Part of a larger tensor, so that rows do not follow each other."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape[:-1], shape[-1] + 8, generator=generator).to(dtype)[..., : shape[-1]]


def close(got: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got.float(), expected.float(), rtol=tolerance, atol=tolerance)


@every_type
@pytest.mark.parametrize(("rows", "width"), [(3, 64), (1, 1), (2, 896), (5, 3072), (0, 64)])
def test_rms_norm(rows: int, width: int, dtype: torch.dtype) -> None:
    x, weight = random(rows, width, dtype=dtype), torch.randn(width).to(dtype)
    close(norm.rms_norm(x, weight, 1e-5), reference.rms_norm(x.float(), weight.float(), 1e-5))


@every_type
def test_add_rms_norm_writes_the_sum_where_the_residual_was(dtype: torch.dtype) -> None:
    x, residual, weight = random(4, 100, dtype=dtype), random(4, 100, dtype=dtype) * 2, torch.randn(100).to(dtype)
    total = x.float() + residual.float()
    normed, kept = norm.add_rms_norm(x, residual, weight, 1e-5)
    assert kept is residual
    close(kept, total)
    close(normed, reference.rms_norm(kept.float(), weight.float(), 1e-5))


@every_type
@pytest.mark.parametrize(("tokens", "width"), [(3, 64), (2, 1500), (1, 7), (0, 16)])
def test_silu_mul(tokens: int, width: int, dtype: torch.dtype) -> None:
    x = random(tokens, 2 * width, dtype=dtype) * 3
    close(silu_mul.silu_mul(x), reference.silu_mul(x.float()))


Rotary = Callable[..., Tensor]


def rotate(write: Rotary, qkv: Tensor, places: Places, normed: HeadNorm | None, heads: int) -> tuple[Tensor, ...]:
    """heads: for keys; returns the queries, and both caches"""
    head_dim = qkv.shape[-1]
    both = torch.full((7, 2 * heads, head_dim), 0.5, dtype=qkv.dtype)
    cache = PagedKV(both[:, :heads], both[:, heads:], torch.zeros(0, 0, dtype=torch.int32))
    turns = rotations(1.0 / 100.0 ** (torch.arange(head_dim // 2) / head_dim), 50)
    return write(qkv, turns, places, cache, normed), cache.keys, cache.values


@every_type
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 2, 64), (7, 1, 80), (3, 3, 96), (16, 8, 128), (2, 1, 256)]
)
def test_rotary_write(heads: int, kv_heads: int, head_dim: int, normed: bool, dtype: torch.dtype) -> None:
    qkv = random(4, heads + 2 * kv_heads, head_dim, dtype=dtype)
    weight = HeadNorm(random(heads + kv_heads, head_dim, dtype=dtype).contiguous(), 1e-5) if normed else None
    places = Places(torch.tensor([0, 49, 7, 7]), torch.tensor([6, 0, -1, 3]))
    got = rotate(rotary.rotary_write, qkv, places, weight, kv_heads)
    for one, expected in zip(got, rotate(reference.rotary_write, qkv, places, weight, kv_heads), strict=True):
        close(one, expected)


def test_no_tokens_are_no_work() -> None:
    nowhere = torch.zeros(0, dtype=torch.int64)
    query, keys, values = rotate(rotary.rotary_write, torch.zeros(0, 8, 64), Places(nowhere, nowhere), None, 2)
    assert query.shape == (0, 4, 64)
    assert (torch.cat((keys, values)) == 0.5).all()
    nobody = torch.zeros(0, 64)
    assert [len(x) for x in norm.add_rms_norm(nobody, nobody.clone(), torch.ones(64), 1e-5)] == [0, 0]


def test_a_float8_cache_gets_numbers_over_its_scales_within_its_range() -> None:
    # exact in float8, as the interpreter rounds to it wrongly where a carry reaches the exponent
    kept = torch.tensor([1.0, -0.875, 448.0, 0.0, 2.5, -13.0, 0.25, 300.0]).repeat(2, 4, 8)
    kept[:, :, 7::8] = 416
    qkv = torch.cat((kept, kept[:, :2] * 0.5, kept[:, 2:] * 4), 1)
    qkv[0, 4, 0], qkv[1, 7, 9] = 1e6, -1e6
    caches = [torch.zeros(3, 2, 64).to(torch.float8_e4m3fn) for _ in range(2)]
    cache = PagedKV(caches[0], caches[1], torch.zeros(0, 0, dtype=torch.int32), 0.5, 4.0)
    places = Places(torch.zeros(2, dtype=torch.int64), torch.tensor([2, 0]))
    query = rotary.rotary_write(qkv, rotations(torch.ones(32), 1), places, cache)
    assert torch.equal(query, kept)
    expected = kept[:, :2].clone(), kept[:, 2:].clone()
    expected[0][0, 0, 0], expected[1][1, 1, 9] = 448, -448
    for got, wanted in zip(caches, expected, strict=True):
        assert torch.equal(got.float()[[2, 0]], wanted)
        assert not got.float()[1].any()
