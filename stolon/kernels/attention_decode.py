"""Attention of one new token a row, in pieces that fill the chip, with prefixes that rows share read once."""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_tile import nothing_read, read_positions
from .paged import DecodeWork, PagedKV
from .tiles import MERGE, decode_tile, extend_tile, padded


def decode_attention(query: Tensor, cache: PagedKV, work: DecodeWork, *, scale: float | None = None) -> Tensor:
    """The newest token of each sequence attends to it, in the pieces that `work` says, merged by their shares.

    query: [rows, heads, head_dim], last dimension contiguous; scale: of the scores, 1 / sqrt(head_dim) by default
    returns: [rows, heads, head_dim], contiguous, of the query's type; zeros for a row without positions
    float32, float16 or bfloat16; scores, sums and partial results are float32, weights rounded to the query's type.
    Three kernels, or two without shared prefixes; their grids depend on sizes only, so a CUDA graph may hold them:
    items (a piece of one row for one key head), prefixes (a piece of a shared prefix for up to a tile of rows), merge.
    Source: arXiv:2205.14135; the split is that of "Flash-Decoding for long-context inference" (Dao and others, 2023),
    the shared prefix that of Hydragen, arXiv:2402.05099. Plain form: reference_attention.
    """
    rows, heads, head_dim = query.shape
    kv_heads = cache.keys.shape[1]
    group = heads // kv_heads
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    partial = torch.empty((work.partials, heads, head_dim), dtype=torch.float32, device=query.device)
    sums = torch.empty((work.partials, heads), dtype=torch.float32, device=query.device)
    factor = head_dim**-0.5 if scale is None else scale
    tensors = query, cache.keys, cache.values, cache.table, work.lines, partial, sums
    numbers = factor * cache.key_scale * math.log2(math.e), cache.value_scale
    strides = *query.stride()[:2], *cache.keys.stride()[:2], *cache.values.stride()[:2], cache.table.stride(0)
    sizes = {"KV_HEADS": kv_heads, "GROUP": group, "HEAD_DIM": head_dim, "DIMS": padded(head_dim)}
    if work.prefixes is not None:
        tile = extend_tile(head_dim, query.dtype.itemsize, group)
        _prefixes[(work.prefixes.shape[0] * kv_heads,)](
            *tensors,
            work.prefixes,
            work.members,
            work.firsts,
            *numbers,
            *strides,
            **sizes,
            QUERIES=tile.queries,
            KEYS=tile.keys,
            **tile.options,
        )
    tile = decode_tile(head_dim, query.dtype.itemsize, group)
    _items[(work.items.shape[0] * kv_heads,)](
        *tensors,
        output,
        work.items,
        *numbers,
        *strides,
        **sizes,
        QUERIES=tile.queries,
        KEYS=tile.keys,
        **tile.options,
    )
    _merge[(rows * heads,)](
        partial,
        sums,
        work.firsts,
        output,
        heads,
        HEAD_DIM=head_dim,
        DIMS=padded(head_dim),
        PARTS=MERGE.keys,
        **MERGE.options,
    )
    return output


@triton.jit
def _items(
    query,
    keys,
    values,
    table,
    lines,
    partial,
    sums,
    output,
    items,
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
):
    """One item for one key head; lines of the tile beyond GROUP are padding."""
    item = tl.program_id(0) // KV_HEADS
    kv_head = tl.program_id(0) % KV_HEADS
    row = tl.load(items + item * 4).to(tl.int64)
    if row < 0:
        return
    begin = tl.load(items + item * 4 + 1)
    end = tl.load(items + item * 4 + 2)
    target = tl.load(items + item * 4 + 3).to(tl.int64)

    index = tl.arange(0, QUERIES)
    dims = tl.arange(0, DIMS)
    head = kv_head * GROUP + index
    filled = (index < GROUP)[:, None] & (dims[None, :] < HEAD_DIM)
    own = tl.load(
        query + row * query_stride + head[:, None] * query_head_stride + dims[None, :], mask=filled, other=0.0
    )
    line = tl.load(lines + row).to(tl.int64) * table_stride
    cache = (
        keys + kv_head * key_head_stride,
        values + kv_head * value_head_stride,
        table + line,
        key_stride,
        value_stride,
        scale,
    )
    state = nothing_read(QUERIES, DIMS)
    total, weight, best = read_positions(own, state, cache, (begin, end), (begin, end), HEAD_DIM, KEYS, True)
    result = total / tl.where(weight > 0, weight, 1.0)[:, None] * value_scale

    offsets = head[:, None] * HEAD_DIM + dims[None, :]
    size = KV_HEADS * GROUP
    if target < 0:
        tl.store(output + row * size * HEAD_DIM + offsets, result.to(output.dtype.element_ty), mask=filled)
    else:
        tl.store(partial + target * size * HEAD_DIM + offsets, result, mask=filled)
        tl.store(sums + target * size + head, best + tl.log2(weight), mask=index < GROUP)


@triton.jit
def _prefixes(
    query,
    keys,
    values,
    table,
    lines,
    partial,
    sums,
    prefixes,
    members,
    firsts,
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
):
    """A piece of a prefix for one key head. Line m of the tile is query head m % GROUP of its member m // GROUP."""
    prefix = prefixes + tl.program_id(0) // KV_HEADS * 5
    kv_head = tl.program_id(0) % KV_HEADS
    count = tl.load(prefix + 1)
    if count == 0:
        return
    first = tl.load(prefix)
    begin = tl.load(prefix + 2)
    end = tl.load(prefix + 3)
    split = tl.load(prefix + 4)

    index = tl.arange(0, QUERIES)
    dims = tl.arange(0, DIMS)
    member = index // GROUP
    real = member < count
    row = tl.load(members + first + member, mask=real, other=0).to(tl.int64)
    head = kv_head * GROUP + index % GROUP
    filled = real[:, None] & (dims[None, :] < HEAD_DIM)
    offsets = row[:, None] * query_stride + head[:, None] * query_head_stride + dims[None, :]
    own = tl.load(query + offsets, mask=filled, other=0.0)
    # any member's line leads to the same slots
    line = tl.load(lines + tl.load(members + first)).to(tl.int64) * table_stride
    cache = (
        keys + kv_head * key_head_stride,
        values + kv_head * value_head_stride,
        table + line,
        key_stride,
        value_stride,
        scale,
    )
    state = nothing_read(QUERIES, DIMS)
    whole = begin + (end - begin) // KEYS * KEYS
    state = read_positions(own, state, cache, (begin, whole), (begin, end), HEAD_DIM, KEYS, False)
    total, weight, best = read_positions(own, state, cache, (whole, end), (begin, end), HEAD_DIM, KEYS, True)
    target = (tl.load(firsts + row, mask=real, other=0) + split).to(tl.int64)
    place = target * (KV_HEADS * GROUP) + head
    tl.store(partial + place[:, None] * HEAD_DIM + dims[None, :], total / weight[:, None] * value_scale, mask=filled)
    tl.store(sums + place, best + tl.log2(weight), mask=real)


@triton.jit
def _merge(
    partial,
    sums,
    firsts,
    output,
    heads,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """One head of one row: its partial results, weighted with their sums of exponentials. Rows without any are done."""
    row = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    low = tl.load(firsts + row)
    high = tl.load(firsts + row + 1)
    if low == high:
        return
    dims = tl.arange(0, DIMS)
    total = tl.zeros((DIMS,), tl.float32)
    weight = 0.0
    best = float("-inf")
    for start in range(low, high, PARTS):
        part = start + tl.arange(0, PARTS)
        there = part < high
        place = part.to(tl.int64) * heads + head
        shares = tl.load(sums + place, mask=there, other=float("-inf"))
        filled = there[:, None] & (dims[None, :] < HEAD_DIM)
        results = tl.load(partial + place[:, None] * HEAD_DIM + dims[None, :], mask=filled, other=0.0)
        larger = tl.maximum(best, tl.max(shares, 0))
        shares = tl.exp2(shares - larger)
        fade = tl.exp2(best - larger)
        total = total * fade + tl.sum(results * shares[:, None], 0)
        weight = weight * fade + tl.sum(shares, 0)
        best = larger
    place = (row.to(tl.int64) * heads + head) * HEAD_DIM + dims
    tl.store(output + place, (total / weight).to(output.dtype.element_ty), mask=dims < HEAD_DIM)
