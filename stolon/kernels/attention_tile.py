"""The loop that all attention kernels share: a tile of queries reads positions of one sequence."""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from .products import add_product


@triton.jit
def read_positions(
    query,
    state,
    cache,
    span,
    seen,
    HEAD_DIM: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Online softmax over the positions of `span`, KEYS at a time; scores and sums in float32, powers of two.

    query: [QUERIES, DIMS], times the scale of the scores and log2(e) on the way; DIMS is HEAD_DIM, padded with zeros
    state: (weighted sum of values [QUERIES, DIMS], sum of weights [QUERIES], largest score [QUERIES])
    cache: (keys, values, table, slot stride of keys, of values, scale): pointers at the head and at the table's line
    span: (first position, position after the last)
    seen: (first, after the last) position that each query sees, [QUERIES] or scalars; only asked for if MASKED
    returns: the new state
    Not MASKED: the span is whole steps, and every query sees all of it.
    """
    total, weight, best = state
    keys, values, table, key_stride, value_stride, scale = cache
    begin, end = span
    first, after = seen
    dims = tl.arange(0, query.shape[1])
    inside = dims[None, :] < HEAD_DIM
    for start in range(begin, end, KEYS):
        position = start + tl.arange(0, KEYS)
        if MASKED:
            # zeros where nothing is: what another sequence left may be NaN, which no weight of 0 hides
            there = position < end
            slots = tl.load(table + position, mask=there, other=0).to(tl.int64)
            load = there[:, None] & inside
        else:
            slots = tl.load(table + position).to(tl.int64)
            load = inside
        # int64: a slot times its stride passes 2**31 in a cache of more than 4 GiB
        key = tl.load(keys + slots[:, None] * key_stride + dims[None, :], mask=load, other=0.0)
        scores = tl.zeros((query.shape[0], KEYS), tl.float32)
        scores = add_product(query, tl.trans(key.to(query.dtype)), scores) * scale
        if MASKED:
            visible = there[None, :] & (position[None, :] >= first) & (position[None, :] < after)
            scores = tl.where(visible, scores, float("-inf"))
        larger = tl.maximum(best, tl.max(scores, 1))
        # a query that has seen nothing yet has no largest score to subtract
        known = tl.where(larger == float("-inf"), 0.0, larger) if MASKED else larger
        weights = tl.exp2(scores - known[:, None])
        fade = tl.exp2(best - known)
        weight = weight * fade + tl.sum(weights, 1)
        value = tl.load(values + slots[:, None] * value_stride + dims[None, :], mask=load, other=0.0)
        total = add_product(weights.to(query.dtype), value.to(query.dtype), total * fade[:, None])
        best = larger
    return total, weight, best


@triton.jit
def nothing_read(QUERIES: tl.constexpr, DIMS: tl.constexpr):
    """The state before any position."""
    total = tl.zeros((QUERIES, DIMS), tl.float32)
    return total, tl.zeros((QUERIES,), tl.float32), tl.full((QUERIES,), float("-inf"), tl.float32)
