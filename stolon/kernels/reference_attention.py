"""Attention over a paged cache in plain PyTorch: what the Triton kernels are compared with, of the same signatures."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .paged import DecodeWork, ExtendWork, PagedKV


def extend_attention(
    query: Tensor, cache: PagedKV, work: ExtendWork, *, window: int | None = None, scale: float | None = None
) -> Tensor:
    """The last tokens of each sequence attend causally to it: softmax(scale * q k) v, row by row.

    query: [tokens, heads, head_dim], last dimension contiguous; a row's tokens follow each other
    window: positions seen, itself included, None for all; scale: of the scores, 1 / sqrt(head_dim) by default
    returns: [tokens, heads, head_dim], contiguous, of the query's type; what belongs to no row is not written
    Scores and sums are float32; products of 16-bit types have weights rounded to that type.
    Source: arXiv:2205.14135; pages as in arXiv:2309.06180.
    """
    output = query.new_empty(query.shape)
    rows = zip(work.firsts.tolist(), work.lengths.tolist(), work.contexts.tolist(), work.lines.tolist(), strict=True)
    for first, length, context, line in rows:
        if not length:
            continue
        at = torch.arange(context - length, context, device=query.device).unsqueeze(1)
        position = torch.arange(context, device=query.device)
        visible = position <= at
        if window is not None:
            visible &= position > at - window
        keys, values = _gather(cache, line, 0, context)
        attended, _ = _attend(query[first : first + length], keys, values, visible, _scale(query, scale))
        output[first : first + length] = attended.to(query.dtype)
    return output


def decode_attention(query: Tensor, cache: PagedKV, work: DecodeWork, *, scale: float | None = None) -> Tensor:
    """The newest token of each sequence attends to it, in the pieces that `work` says, merged by their shares.

    query: [rows, heads, head_dim], last dimension contiguous; scale: of the scores, 1 / sqrt(head_dim) by default
    returns: [rows, heads, head_dim], contiguous, of the query's type; zeros for a row without positions
    Each piece gives softmax(scale * q k) v of its positions and the logarithm of its sum of exponentials; pieces are
    weighted with the exponentials of those. Windows are a matter of the plan.
    Source: arXiv:2205.14135; the split is that of "Flash-Decoding for long-context inference" (Dao and others, 2023),
    the shared prefix that of Hydragen, arXiv:2402.05099.
    """
    _, heads, head_dim = query.shape
    output = query.new_empty(query.shape)
    partial = torch.full((work.partials, heads, head_dim), torch.nan, device=query.device)
    sums = torch.full((work.partials, heads), torch.nan, device=query.device)
    for row, begin, end, target in work.items.tolist():
        if row < 0:
            continue
        attended, total = _decode_piece(query[row : row + 1], cache, int(work.lines[row]), (begin, end), scale)
        if target < 0:
            output[row] = attended[0].to(query.dtype)
        else:
            partial[target], sums[target] = attended[0], total[0]
    for first, count, begin, end, split in [] if work.prefixes is None else work.prefixes.tolist():
        rows = work.members[first : first + count].long()
        if count:
            attended, total = _decode_piece(query[rows], cache, int(work.lines[rows[0]]), (begin, end), scale)
            targets = work.firsts[rows].long() + split
            partial[targets], sums[targets] = attended, total
    firsts = work.firsts.tolist()
    for row, (low, high) in enumerate(pairwise(firsts)):
        if high > low:
            shares = sums[low:high].softmax(0).unsqueeze(-1)
            output[row] = (partial[low:high] * shares).sum(0).to(query.dtype)
    return output


def _decode_piece(
    query: Tensor, cache: PagedKV, line: int, span: tuple[int, int], scale: float | None
) -> tuple[Tensor, Tensor]:
    keys, values = _gather(cache, line, *span)
    visible = torch.ones(len(query), len(keys), dtype=torch.bool, device=query.device)
    return _attend(query, keys, values, visible, _scale(query, scale))


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


def _gather(cache: PagedKV, line: int, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """float32 [positions, kv_heads, head_dim]"""
    slots = cache.table[line, begin:end].long()
    return cache.keys[slots].float() * cache.key_scale, cache.values[slots].float() * cache.value_scale


def _attend(query: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """float32 [queries, heads, head_dim], zeros without keys; and logarithms of sums, [queries, heads]

    visible: bool [queries, keys]
    """
    group = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->qhk", query.float(), keys) * scale
    scores = scores.masked_fill(~visible.unsqueeze(1), -torch.inf)
    return torch.einsum("qhk,khd->qhd", scores.softmax(-1), values), scores.logsumexp(-1)
