"""The hot operators in plain PyTorch: what every faster form is compared with, and what runs on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x**2) + epsilon) * weight over the last dimension, in float32, rounded once.

    x: [..., width]; weight: [width]
    Source: arXiv:1910.07467.
    """
    return functional.rms_norm(x, (x.shape[-1],), weight, epsilon)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim / 2) of every head by its position's angle.

    x: [tokens, heads, head_dim]; cos, sin: [tokens, 1, head_dim], the first half of sin negated
    Source: arXiv:2104.09864, in the half-split layout of Llama's published weights.
    """
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), -1)
    return torch.addcmul(x * cos, swapped, sin)


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
