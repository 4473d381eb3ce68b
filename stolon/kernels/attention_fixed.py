"""Attention on a CPU whose bits depend on a token and what precedes it only: not on the batch, nor on how a prompt was
cut, nor on what of it was computed before.

Queries are taken in blocks that begin at multiples of `QUERIES`, filled up with zeros, and keys up to a multiple of
`KEYS`; so whoever computes a token does it with products of the same shapes, and places outside its row add zeros.
"""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .attention_cpu import AttentionRow

QUERIES = 16
KEYS = 64


@dataclass(frozen=True, slots=True)
class _Block:
    """Tokens [low, high) of the batch are the queries from place `shift` on; `slots` of the keys that the block reads.

    hidden: [QUERIES, keys], True where a query does not see a key
    """

    low: int
    high: int
    shift: int
    slots: Tensor
    hidden: Tensor


class FixedAttention:
    """What every layer with the same window does for one batch; made once a step.

    window: positions seen, itself included, None for all
    """

    def __init__(self, rows: list[AttentionRow], *, window: int | None) -> None:
        self._blocks = [block for row in rows for block in _blocks(row, window)]

    def __call__(self, query: Tensor, key_cache: Tensor, value_cache: Tensor) -> Tensor:
        """query: [tokens, heads, head_dim]; caches: [slots, kv_heads, head_dim]; returns [tokens, heads, head_dim]"""
        output = torch.empty(query.shape, dtype=query.dtype)
        for block in self._blocks:
            count = block.high - block.low
            padded = query.new_zeros((QUERIES, *query.shape[1:]))
            padded[block.shift : block.shift + count] = query[block.low : block.high]
            keys, values = key_cache[block.slots], value_cache[block.slots]
            attended = _attend(padded, keys, values, block.hidden)
            output[block.low : block.high] = attended[block.shift : block.shift + count]
        return output


def _attend(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """softmax(q k / sqrt(head_dim)) v in float32; heads that share a key head are rows of one product."""
    queries, heads, head_dim = query.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    folded = query.float().view(queries, kv_heads, group, head_dim).permute(1, 2, 0, 3).reshape(kv_heads, -1, head_dim)
    scores = torch.matmul(folded, keys.float().permute(1, 2, 0)).view(kv_heads, group, queries, -1) * head_dim**-0.5
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    # a place without any query may see nothing; what it gets is not looked at
    attended = torch.matmul(weights.view(kv_heads, group * queries, -1), values.float().transpose(0, 1))
    return attended.view(kv_heads, group, queries, head_dim).permute(2, 0, 1, 3).reshape(query.shape).to(query.dtype)


def _blocks(row: AttentionRow, window: int | None) -> list[_Block]:
    end = row.start + row.length
    found: list[_Block] = []
    for first in range(row.start // QUERIES * QUERIES, end, QUERIES):
        low, high = max(first, row.start), min(first + QUERIES, end)
        begin = 0 if window is None else max(0, first + 1 - window) // KEYS * KEYS
        stop = -(-(first + QUERIES) // KEYS) * KEYS
        positions = np.arange(begin, stop)
        # filled up from the row's own slots: another sequence's may hold NaN, which no mask hides
        slots = row.slots[np.where(positions < high, positions, 0)]
        behind = torch.arange(first, first + QUERIES).unsqueeze(1) - torch.arange(begin, stop)
        hidden = behind < 0
        if window is not None:
            hidden |= behind >= window
        offset = row.offset - row.start
        found.append(_Block(low + offset, high + offset, low - first, torch.from_numpy(slots), hidden))
    return found
