"""The plain operators against their formulas, written out."""

from __future__ import annotations

import pytest
import torch

from stolon.kernels.paged import PagedKV
from stolon.kernels.reference import (
    HeadNorm,
    Places,
    add_rms_norm,
    kv_write,
    paged_attention,
    rms_norm,
    rotary_write,
    rotate,
    rotations,
    silu_mul,
)
from stolon.kernels.reference_linear import linear, to_float8, to_int8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rms_norm_divides_by_the_root_of_the_mean_square(dtype: torch.dtype) -> None:
    x = torch.randn(3, 5, 24).to(dtype)
    weight = torch.randn(24).to(dtype)
    expected = x.float() / (x.float().square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.float()
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).float(), expected, rtol=1e-2, atol=1e-5)


def test_rotate_turns_each_pair_by_its_angle() -> None:
    x = torch.randn(4, 3, 10)
    angle = torch.randn(4, 1, 5)
    cos, sin = angle.cos(), angle.sin()
    got = rotate(x, torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))
    turned = torch.complex(x[..., :5], x[..., 5:]) * torch.complex(cos, sin)
    torch.testing.assert_close(got, torch.cat((turned.real, turned.imag), -1))


def test_silu_mul_gates_the_second_half_by_the_first() -> None:
    x = torch.randn(7, 18)
    gate, up = x[:, :9], x[:, 9:]
    torch.testing.assert_close(silu_mul(x), gate / (1 + (-gate).exp()) * up)


def test_kv_write_touches_its_slots_only() -> None:
    keys, values = torch.zeros(6, 2, 4), torch.zeros(6, 2, 4)
    key, value = torch.randn(2, 2, 4), torch.randn(2, 2, 4)
    kv_write(keys, values, torch.tensor([4, 1]), key, value)
    assert torch.equal(keys[[4, 1]], key)
    assert torch.equal(values[[4, 1]], value)
    assert not keys[[0, 2, 3, 5]].any()
    assert not values[[0, 2, 3, 5]].any()


@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_paged_attention_is_a_weighted_mean_of_the_values_seen(window: int | None) -> None:
    keys, values, query = torch.randn(9, 2, 4), torch.randn(9, 2, 4), torch.randn(3, 4, 4)
    slots = torch.tensor([8, 0, 3, 5, 1])
    got = paged_attention(query, keys, values, slots, window)
    for i, position in enumerate((2, 3, 4)):
        seen = [p for p in range(5) if p <= position and (window is None or position - p < window)]
        for head in range(4):
            weights = torch.tensor([float(query[i, head] @ keys[slots[p], head // 2]) / 2 for p in seen]).softmax(0)
            expected = sum(w * values[slots[p], head // 2] for w, p in zip(weights, seen, strict=True))
            torch.testing.assert_close(got[i, head], expected)


def test_add_rms_norm_normalises_the_rounded_sum() -> None:
    x, residual, weight = torch.randn(3, 24).bfloat16(), torch.randn(3, 24).bfloat16(), torch.randn(24).bfloat16()
    total = x + residual
    normed, kept = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(kept, total)
    assert kept is residual
    assert torch.equal(normed, rms_norm(total, weight, 1e-5))


@pytest.mark.parametrize("float8", [False, True])
def test_rotary_write_turns_queries_and_keys_and_writes_real_tokens_only(float8: bool) -> None:
    qkv, frequencies = torch.randn(3, 4 + 2 * 2, 8), torch.rand(4)
    norm = HeadNorm(torch.randn(4 + 2, 8), 1e-5)
    places = Places(torch.tensor([5, 0, 9]), torch.tensor([3, -1, 0]))
    kind = torch.float8_e4m3fn if float8 else torch.float32
    scales = (0.5, 2.0) if float8 else (1.0, 1.0)
    cache = PagedKV(torch.zeros(4, 2, 8).to(kind), torch.zeros(4, 2, 8).to(kind), torch.zeros(0, 0).int(), *scales)
    query = rotary_write(qkv, rotations(frequencies, 10), places, cache, norm)
    mean = qkv[:, :6].square().mean(-1, keepdim=True)
    normed = qkv[:, :6] / (mean + 1e-5).sqrt() * norm.weight
    angles = places.positions.float().view(3, 1, 1) * frequencies
    turned = torch.complex(normed[..., :4], normed[..., 4:]) * torch.polar(torch.ones(1), angles)
    turned = torch.cat((turned.real, turned.imag), -1)
    torch.testing.assert_close(query, turned[:, :4])
    rtol = 2**-4 if float8 else 1e-5  # three bits of mantissa
    for place, token in ((3, 0), (0, 2)):
        torch.testing.assert_close(cache.keys[place].float() * scales[0], turned[token, 4:], rtol=rtol, atol=1e-2)
        torch.testing.assert_close(cache.values[place].float() * scales[1], qkv[token, 6:], rtol=rtol, atol=1e-2)
    assert not cache.keys.float()[[1, 2]].any()


def test_what_is_too_large_for_float8_becomes_its_largest() -> None:
    keys, values = (torch.zeros(1, 1, 2).to(torch.float8_e4m3fn) for _ in range(2))
    cache = PagedKV(keys, values, torch.zeros(0, 0).int())
    qkv = torch.tensor([[[1.0, 2.0], [1e4, -1e4], [500.0, -3.0]]])
    rotary_write(qkv, rotations(torch.zeros(1), 1), Places(torch.tensor([0]), torch.tensor([0])), cache)
    assert cache.keys.float().flatten().tolist() == [448.0, -448.0]
    assert cache.values.float().flatten().tolist() == [448.0, -3.0]


@pytest.mark.parametrize(("make", "steps"), [(to_int8, 254), (to_float8, 16)])
def test_small_weights_are_within_a_rounding_of_the_weights(make: type, steps: int) -> None:
    weight, bias = torch.randn(5, 40) * torch.tensor([1e-3, 1.0, 0.0, 1e3, 1.0]).unsqueeze(1), torch.randn(5)
    small = make(weight, bias)
    largest = weight.abs().amax(1, keepdim=True)
    assert ((linear(torch.eye(40), small) - bias).T - weight).abs().le(largest / steps + 1e-4).all()
