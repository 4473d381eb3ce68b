"""Ragged batches over a paged cache, and attention in float64 to compare with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stolon.kernels.attention_plan import Chip, DecodePlan, Heads, plan_extend
from stolon.kernels.paged import DecodeWork, ExtendWork, PagedKV

H200 = Chip(units=132, bandwidth=4.3e12, cache_bytes=60_000_000)
# so slow to read that a short prefix is worth reading once
SLOW = Chip(units=8, bandwidth=1e9, cache_bytes=0)

# largest error of an output, whose values are about 1: 16-bit types round the output once and the weights once
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass
class Case:
    """rows: how many new tokens each has, and how many positions with them"""

    rows: list[tuple[int, int]]
    heads: Heads
    query: Tensor
    cache: PagedKV
    lines: Tensor

    def expected(self, window: int | None = None, scale: float | None = None) -> Tensor:
        """float64 [tokens, heads, head_dim], each token alone"""
        parts: list[Tensor] = []
        query = iter(self.query.double())
        for line, (length, context) in zip(self.lines.tolist(), self.rows, strict=True):
            for end in range(context - length + 1, context + 1):
                begin = 0 if window is None else max(0, end - window)
                slots = self.cache.table[line, begin:end].long()
                keys = self.cache.keys[slots].double() * self.cache.key_scale
                values = self.cache.values[slots].double() * self.cache.value_scale
                parts.append(_attend(next(query), keys, values, scale))
        return torch.stack(parts)

    def extend_work(self) -> ExtendWork:
        lengths, contexts = np.array(self.rows, np.int32).reshape(-1, 2).T
        tiles = torch.from_numpy(plan_extend(lengths, contexts, self.heads))
        firsts = torch.from_numpy((np.cumsum(lengths) - lengths).astype(np.int32))
        return ExtendWork(firsts, torch.tensor(lengths), torch.tensor(contexts), self.lines, tiles)


def decode_work(plan: DecodePlan, lines: Tensor) -> DecodeWork:
    prefixes = None if plan.prefixes is None else torch.from_numpy(plan.prefixes)
    items, firsts, members = (torch.from_numpy(array) for array in (plan.items, plan.firsts, plan.members))
    return DecodeWork(lines, items, firsts, prefixes, members, plan.partials)


def _attend(query: Tensor, keys: Tensor, values: Tensor, scale: float | None) -> Tensor:
    """query: [heads, head_dim]"""
    heads, head_dim = query.shape
    if not len(keys):
        return torch.zeros(heads, head_dim, dtype=torch.float64)
    keys, values = (x.repeat_interleave(heads // x.shape[1], 1) for x in (keys, values))
    scores = torch.einsum("hd,khd->hk", query, keys) * (head_dim**-0.5 if scale is None else scale)
    return torch.einsum("hk,khd->hd", scores.softmax(-1), values)


def make_case(
    rows: list[tuple[int, int]],
    *,
    heads: tuple[int, int] = (6, 2),
    head_dim: int = 64,
    dtype: torch.dtype = torch.float32,
    float8: bool = False,
    prefix: int = 0,
) -> Case:
    """The first `prefix` positions of all rows lie in the same slots.

    Slots in no row's context hold NaN, as do the table's entries beyond a context lead there; the query and the caches
    are parts of larger tensors, so that no stride is what a contiguous one would be.
    """
    generator = torch.Generator().manual_seed(len(rows) * 1000 + head_dim)
    own = sum(max(0, context - prefix) for _, context in rows)
    slots = np.random.default_rng(1).permutation(prefix + own + 3).astype(np.int32)
    unused, common, free = slots[:3], slots[3 : 3 + prefix], slots[3 + prefix :]
    longest = max((context for _, context in rows), default=0)
    table = np.full((len(rows) + 2, longest + 5), unused[0], np.int32)
    lines = np.random.default_rng(2).permutation(len(rows) + 2)[: len(rows)].astype(np.int32)
    for line, (_, context) in zip(lines, rows, strict=True):
        mine, free = np.split(free, [max(0, context - prefix)])
        table[line, :context] = np.concatenate((common, mine))[:context]

    def random(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(kind)

    kind = torch.float8_e4m3fn if float8 else dtype
    both = random(len(slots), heads[1] * 2, head_dim + 16, kind=kind)
    both[torch.from_numpy(unused).long()] = torch.nan
    keys, values = both[:, : heads[1], :head_dim], both[:, heads[1] :, :head_dim]
    scales = (0.75, 1.5) if float8 else (1.0, 1.0)
    query = random(sum(length for length, _ in rows), heads[0] + 3, head_dim)[:, 1 : heads[0] + 1]
    shape = Heads(*heads, head_dim, item_bytes=dtype.itemsize, kv_item_bytes=kind.itemsize)
    return Case(rows, shape, query, PagedKV(keys, values, torch.from_numpy(table), *scales), torch.from_numpy(lines))
