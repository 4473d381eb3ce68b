"""The plain operators against their formulas, written out."""

from __future__ import annotations

import pytest
import torch

from stolon.kernels.reference import kv_write, paged_attention, rms_norm, rotate, silu_mul


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
