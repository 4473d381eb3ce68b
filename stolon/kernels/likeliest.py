"""The likeliest tokens of each row, without a sort: those of every segment of the vocabulary, then those of these."""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .ordinals import from_ordinal, to_ordinal
from .tiles import LIKELIEST, LIKELIEST_KEPT, LIKELIEST_MERGE, padded

# Below the key of any token.
_NOTHING = tl.constexpr(-(1 << 63))


def top_logprobs(logits: Tensor, normalizers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each row, likeliest first, the lower id where logits are equal.

    logits: [rows, vocab], any float type, last dimension contiguous; normalizers: float32 [rows]
    returns: float32 log-probabilities and int32 ids, [rows, min(count, vocab)]
    Two kernels: top_segments (rows and segments), which takes the largest one by one out of numbers that it holds in
    registers; top_merge (a program a row), which does the same with what segments found. A logit and its id are one
    number, so no two are equal. How many are asked for makes no kernel of its own, up to `LIKELIEST_KEPT`.
    Plain form: reference_sample.
    """
    rows, vocab = logits.shape
    count = min(count, vocab)
    segments = triton.cdiv(vocab, LIKELIEST.keys)
    kept = max(LIKELIEST_KEPT, padded(count))
    found = torch.empty((rows, segments, kept), dtype=torch.int64, device=logits.device)
    values = torch.empty((rows, count), dtype=torch.float32, device=logits.device)
    ids = torch.empty((rows, count), dtype=torch.int32, device=logits.device)
    if not values.numel():
        return values, ids
    sizes = {"SEGMENTS": segments, "KEPT": kept}
    _top_segments[(rows * segments,)](
        logits, found, count, logits.stride(0), VOCAB=vocab, **sizes, BLOCK=LIKELIEST.keys, **LIKELIEST.options
    )
    _top_merge[(rows,)](
        found, normalizers, values, ids, count, **sizes, PADDED=padded(segments * kept), **LIKELIEST_MERGE.options
    )
    return values, ids


@triton.jit(do_not_specialize=["count"])
def _top_segments(
    logits,
    found,
    count,
    stride,
    VOCAB: tl.constexpr,
    SEGMENTS: tl.constexpr,
    KEPT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Keys of one segment's largest logits, largest first: by the logit, and the lower the id the larger."""
    row = (tl.program_id(0) // SEGMENTS).to(tl.int64)
    segment = tl.program_id(0) % SEGMENTS
    token = segment * BLOCK + tl.arange(0, BLOCK)
    inside = token < VOCAB
    # adding 0 makes -0 a 0, which it is equal to
    value = tl.load(logits + row * stride + token, mask=inside, other=0.0).to(tl.float32) + 0.0
    key = tl.where(inside, to_ordinal(value) * (1 << 32) + (0x7FFFFFFF - token), _NOTHING)
    place = found + (row * SEGMENTS + segment) * KEPT
    for i in range(count):
        best = tl.max(key, 0)
        tl.store(place + i, best)
        key = tl.where(key == best, _NOTHING, key)


@triton.jit(do_not_specialize=["count"])
def _top_merge(
    found,
    normalizers,
    values,
    ids,
    count,
    SEGMENTS: tl.constexpr,
    KEPT: tl.constexpr,
    PADDED: tl.constexpr,
):
    """The largest of a row's keys, as log-probabilities and ids."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, PADDED)
    there = (place < SEGMENTS * KEPT) & (place % KEPT < count)
    key = tl.load(found + row * SEGMENTS * KEPT + place, mask=there, other=_NOTHING)
    normalizer = tl.load(normalizers + row)
    for i in range(count):
        best = tl.max(key, 0)
        tl.store(values + row * count + i, from_ordinal(best >> 32) - normalizer)
        tl.store(ids + row * count + i, 0x7FFFFFFF - best.to(tl.int32))
        key = tl.where(key == best, _NOTHING, key)
