"""The hot operators in plain PyTorch: what every faster form is compared with, and what runs on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .paged import PagedKV

# Of float8_e4m3fn.
LARGEST_FLOAT8 = 448.0


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x**2) + epsilon) * weight over the last dimension, in float32, rounded once.

    x: [..., width]; weight: [width]
    Source: arXiv:1910.07467.
    """
    return functional.rms_norm(x, (x.shape[-1],), weight, epsilon)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The normalised sum, and the sum, which is rounded before it is normalised.

    x, residual: [rows, width], of one type; `residual` becomes the sum; weight: [width]
    """
    residual += x
    return rms_norm(residual, weight, epsilon), residual


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim / 2) of every head by its position's angle.

    x: [tokens, heads, head_dim]; cos, sin: [tokens, 1, head_dim], the first half of sin negated
    Source: arXiv:2104.09864, in the half-split layout of Llama's published weights.
    """
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), -1)
    return torch.addcmul(x * cos, swapped, sin)


def rotations(frequencies: Tensor, positions: int) -> Tensor:
    """Cosines, then sines, of each position's angles: float32 [positions, 2 * len(frequencies)].

    frequencies: float32 [head_dim / 2], radians by which one position turns each pair
    """
    angles = torch.arange(positions, device=frequencies.device).float().unsqueeze(1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), 1)


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RMS norm of each query and key head. weight: [heads + kv_heads, head_dim]"""

    weight: Tensor
    epsilon: float


@dataclass(frozen=True, slots=True)
class Places:
    """Where tokens stand and where their keys and values go.

    positions, slots: int64 [tokens]; a token whose slot is negative is padding: nothing is written for it
    """

    positions: Tensor
    slots: Tensor


def rotary_write(qkv: Tensor, turns: Tensor, places: Places, cache: PagedKV, norm: HeadNorm | None = None) -> Tensor:
    """Normalise and turn queries and keys, put keys and values into their slots; in float32, rounded once.

    qkv: [tokens, heads + 2 * kv_heads, head_dim], last dimension contiguous; turns: made by `rotations`
    returns: the queries, [tokens, heads, head_dim], contiguous, of qkv's type
    A float8 cache gets the numbers divided by its scales, within the largest float8, 448.
    Source: arXiv:2104.09864, in the half-split layout of Llama's published weights.
    """
    kv_heads, head_dim = cache.keys.shape[1:]
    turned = qkv.shape[1] - kv_heads
    x = qkv[:, :turned].float()
    if norm is not None:
        x = functional.rms_norm(x, (head_dim,), None, norm.epsilon) * norm.weight.float()
    cos, sin = turns[places.positions].unsqueeze(1).chunk(2, -1)
    x = rotate(x, torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))
    real = places.slots >= 0
    slots = places.slots[real]
    cache.keys[slots] = _stored(x[real, turned - kv_heads :], cache.key_scale, cache.keys.dtype)
    cache.values[slots] = _stored(qkv[real, turned:].float(), cache.value_scale, cache.values.dtype)
    return x[:, : turned - kv_heads].to(qkv.dtype)


def _stored(x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float8_e4m3fn:
        # torch turns what is larger into NaN
        x = (x / scale).clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8)
    return x.to(dtype)


def silu_mul(gate_up: Tensor) -> Tensor:
    """Gate the two halves of a projection: silu(gate) * up.

    gate_up: [tokens, 2 * width], gate half first; returns [tokens, width]
    Source: arXiv:2002.05202, section 2.
    """
    width = gate_up.shape[-1] // 2
    return functional.silu(gate_up[:, :width]).mul_(gate_up[:, width:])


def kv_write(key_cache: Tensor, value_cache: Tensor, slots: Tensor, key: Tensor, value: Tensor) -> None:
    """Put each token's key and value into its slot.

    key_cache, value_cache: [slots, kv_heads, head_dim]; slots: int64 [tokens]; key, value: [tokens, kv_heads, head_dim]
    """
    key_cache.index_copy_(0, slots, key)
    value_cache.index_copy_(0, slots, value)


def paged_attention(query: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor, window: int | None) -> Tensor:
    """The last tokens of one sequence attend causally to it.

    query: [tokens, heads, head_dim], of the last `tokens` positions
    slots: [context], where the keys and values of all positions lie; window: positions seen, itself included
    returns: [tokens, heads, head_dim]; computed in float32
    """
    tokens, heads, head_dim = query.shape
    context = slots.shape[0]
    keys = key_cache[slots].float().repeat_interleave(heads // key_cache.shape[1], 1)
    values = value_cache[slots].float().repeat_interleave(heads // value_cache.shape[1], 1)
    scores = torch.einsum("qhd,khd->hqk", query.float(), keys) * head_dim**-0.5
    at = torch.arange(context - tokens, context).unsqueeze(1)
    behind = at - torch.arange(context)
    hidden = behind < 0
    if window is not None:
        hidden |= behind >= window
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, values).to(query.dtype)
