"""What happens to queries, keys and values between their projection and attention, in one kernel."""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .paged import PagedKV
from .reference import LARGEST_FLOAT8, HeadNorm, Places
from .tiles import ROTARY, padded

_LARGEST = tl.constexpr(LARGEST_FLOAT8)


def rotary_write(qkv: Tensor, turns: Tensor, places: Places, cache: PagedKV, norm: HeadNorm | None = None) -> Tensor:
    """Normalise and turn queries and keys, put keys and values into their slots; in float32, rounded once.

    qkv: [tokens, heads + 2 * kv_heads, head_dim], last dimension contiguous; turns: made by `reference.rotations`
    returns: the queries, [tokens, heads, head_dim], contiguous, of qkv's type
    A float8 cache gets the numbers divided by its scales, within the largest float8, 448.
    Source: arXiv:2104.09864, in the half-split layout of Llama's published weights. Plain form: reference.
    """
    tokens, all_heads, head_dim = qkv.shape
    kv_heads = cache.keys.shape[1]
    query = torch.empty((tokens, all_heads - 2 * kv_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    blocks = triton.cdiv(all_heads, ROTARY.queries)
    if tokens:
        _rotary_write[(tokens * blocks,)](
            qkv,
            query,
            cache.keys,
            cache.values,
            turns,
            places.positions,
            places.slots,
            turns if norm is None else norm.weight,
            0.0 if norm is None else norm.epsilon,
            cache.key_scale,
            cache.value_scale,
            *qkv.stride()[:2],
            *cache.keys.stride()[:2],
            *cache.values.stride()[:2],
            HEADS=all_heads - 2 * kv_heads,
            KV_HEADS=kv_heads,
            HALF=head_dim // 2,
            PAIRS=padded(head_dim // 2),
            BLOCKS=blocks,
            BLOCK=ROTARY.queries,
            NORM=norm is not None,
            FLOAT8=cache.keys.dtype == torch.float8_e4m3fn,
            **ROTARY.options,
        )
    return query


@triton.jit
def _rotary_write(
    qkv,
    query,
    keys,
    values,
    turns,
    positions,
    slots,
    weight,
    epsilon,
    key_scale,
    value_scale,
    stride,
    head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    NORM: tl.constexpr,
    FLOAT8: tl.constexpr,
):
    """BLOCK heads of one token, which may be queries, keys and values; each as two halves [BLOCK, PAIRS]."""
    token = (tl.program_id(0) // BLOCKS).to(tl.int64)
    head = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    pair = tl.arange(0, PAIRS)
    inside = (head < HEADS + 2 * KV_HEADS)[:, None] & (pair < HALF)[None, :]
    place = qkv + token * stride + head[:, None] * head_stride + pair[None, :]
    low = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(place + HALF, mask=inside, other=0.0).to(tl.float32)
    turned = (head < HEADS + KV_HEADS)[:, None]
    normed_low, normed_high = low, high
    if NORM:
        squares = tl.sum(low * low, 1) + tl.sum(high * high, 1)
        scale = 1.0 / tl.sqrt(squares / (2 * HALF) + epsilon)
        factor = weight + head[:, None] * (2 * HALF) + pair[None, :]
        normed_low = low * scale[:, None] * tl.load(factor, mask=inside & turned, other=0.0).to(tl.float32)
        normed_high = high * scale[:, None] * tl.load(factor + HALF, mask=inside & turned, other=0.0).to(tl.float32)
    # int64: a position times a head's size could pass 2**31
    turn = turns + tl.load(positions + token).to(tl.int64) * (2 * HALF) + pair
    cos = tl.load(turn, mask=pair < HALF, other=0.0)[None, :]
    sin = tl.load(turn + HALF, mask=pair < HALF, other=0.0)[None, :]
    low = tl.where(turned, normed_low * cos - normed_high * sin, low)
    high = tl.where(turned, normed_high * cos + normed_low * sin, high)

    own = inside & (head < HEADS)[:, None]
    place = query + (token * HEADS + head[:, None]) * (2 * HALF) + pair[None, :]
    tl.store(place, low.to(query.dtype.element_ty), mask=own)
    tl.store(place + HALF, high.to(query.dtype.element_ty), mask=own)

    slot = tl.load(slots + token).to(tl.int64)
    if slot < 0:
        return
    if FLOAT8:
        scale = tl.where(turned, key_scale, value_scale)
        low = tl.clamp(low / scale, -_LARGEST, _LARGEST)
        high = tl.clamp(high / scale, -_LARGEST, _LARGEST)
    low = low.to(keys.dtype.element_ty)
    high = high.to(keys.dtype.element_ty)
    own = inside & turned & (head >= HEADS)[:, None]
    place = keys + slot * key_stride + (head - HEADS)[:, None] * key_head_stride + pair[None, :]
    tl.store(place, low, mask=own)
    tl.store(place + HALF, high, mask=own)
    own = inside & (head >= HEADS + KV_HEADS)[:, None]
    place = values + slot * value_stride + (head - HEADS - KV_HEADS)[:, None] * value_head_stride + pair[None, :]
    tl.store(place, low, mask=own)
    tl.store(place + HALF, high, mask=own)
