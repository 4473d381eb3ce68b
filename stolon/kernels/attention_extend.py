"""Causal attention of new tokens to a paged cache that already holds them: prefill in whole or in chunks."""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_tile import nothing_read, read_positions
from .paged import ExtendWork, PagedKV
from .tiles import extend_tile, padded


def extend_attention(
    query: Tensor,
    cache: PagedKV,
    work: ExtendWork,
    *,
    window: int | None = None,
    scale: float | None = None,
    uniform: bool = False,
) -> Tensor:
    """The last tokens of each sequence attend causally to it: softmax(scale * q k) v, row by row.

    query: [tokens, heads, head_dim], last dimension contiguous; a row's tokens follow each other
    window: positions seen, itself included, None for all; scale: of the scores, 1 / sqrt(head_dim) by default
    uniform: compute every token by the same instructions wherever its chunk begins, so that its bits do not depend on
        that; costs masks where none are needed
    returns: [tokens, heads, head_dim], contiguous, of the query's type; what belongs to no row is not written
    float32, float16 or bfloat16; scores and sums are float32, weights are rounded to the query's type.
    A program takes a tile of tokens with all query heads that share a key head, which reads keys once for all of them.
    Source: arXiv:2205.14135, arXiv:2307.08691; pages as in arXiv:2309.06180. Plain form: reference_attention.
    """
    _, heads, head_dim = query.shape
    kv_heads = cache.keys.shape[1]
    group = heads // kv_heads
    tile = extend_tile(head_dim, query.dtype.itemsize, group)
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    factor = head_dim**-0.5 if scale is None else scale
    count = work.tiles.shape[0]
    if count:
        _extend[(count * kv_heads,)](
            query,
            cache.keys,
            cache.values,
            cache.table,
            output,
            work.tiles,
            work.firsts,
            work.lengths,
            work.contexts,
            work.lines,
            factor * cache.key_scale * math.log2(math.e),
            cache.value_scale,
            *query.stride()[:2],
            *cache.keys.stride()[:2],
            *cache.values.stride()[:2],
            cache.table.stride(0),
            KV_HEADS=kv_heads,
            GROUP=group,
            HEAD_DIM=head_dim,
            DIMS=padded(head_dim),
            QUERIES=tile.queries,
            KEYS=tile.keys,
            WINDOW=window or 0,
            UNIFORM=uniform,
            **tile.options,
        )
    return output


@triton.jit
def _extend(
    query,
    keys,
    values,
    table,
    output,
    tiles,
    firsts,
    lengths,
    contexts,
    lines,
    scale,
    value_scale,
    query_stride,
    query_head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    UNIFORM: tl.constexpr,
):
    """One tile for one key head. Line m of it is query head m % GROUP of its token m // GROUP."""
    tile = tl.program_id(0) // KV_HEADS
    kv_head = tl.program_id(0) % KV_HEADS
    row = tl.load(tiles + tile * 2)
    low = tl.load(tiles + tile * 2 + 1)
    length = tl.load(lengths + row)
    start = tl.load(contexts + row) - length
    line = tl.load(lines + row).to(tl.int64)

    index = tl.arange(0, QUERIES)
    dims = tl.arange(0, DIMS)
    token = low + index // GROUP
    real = (index < (QUERIES // GROUP) * GROUP) & (token < length)
    head = kv_head * GROUP + index % GROUP
    place = (tl.load(firsts + row) + token).to(tl.int64)
    filled = real[:, None] & (dims[None, :] < HEAD_DIM)
    offsets = place[:, None] * query_stride + head[:, None] * query_head_stride + dims[None, :]
    own = tl.load(query + offsets, mask=filled, other=0.0)

    head_keys = keys + kv_head * key_head_stride
    head_values = values + kv_head * value_head_stride
    cache = head_keys, head_values, table + line * table_stride, key_stride, value_stride, scale
    state = nothing_read(QUERIES, DIMS)
    # every position below `everyone` is seen by every token of the tile, but for the window
    end = start + tl.minimum(low + QUERIES // GROUP, length)
    everyone = tl.minimum(start + low + 1, end)
    position = start + token
    begin = 0
    whole = 0
    first = tl.zeros((QUERIES,), tl.int32)
    if WINDOW:
        # steps begin at multiples of KEYS, so that a token's sums do not depend on its tile
        first = position - WINDOW + 1
        begin = tl.maximum(everyone - WINDOW, 0) // KEYS * KEYS
        whole = tl.cdiv(tl.maximum(end - WINDOW, 0), KEYS) * KEYS
    seen = first[:, None], position[:, None] + 1
    if UNIFORM:
        state = read_positions(own, state, cache, (begin, end), seen, HEAD_DIM, KEYS, True)
    else:
        if WINDOW:
            whole = tl.minimum(whole, end)
            state = read_positions(own, state, cache, (begin, whole), seen, HEAD_DIM, KEYS, True)
        masked = tl.maximum(everyone // KEYS * KEYS, whole)
        state = read_positions(own, state, cache, (whole, masked), seen, HEAD_DIM, KEYS, False)
        state = read_positions(own, state, cache, (masked, end), seen, HEAD_DIM, KEYS, True)

    total, weight, _ = state
    # what is no real query may have seen nothing
    result = total / tl.where(weight > 0, weight, 1.0)[:, None] * value_scale
    offsets = (place[:, None] * (KV_HEADS * GROUP) + head[:, None]) * HEAD_DIM + dims[None, :]
    tl.store(output + offsets, result.to(output.dtype.element_ty), mask=filled)
