"""Attention over a slot KV cache on a CPU, built from torch's fused attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# Queries of one block attend to keys up to its last query only, so about half of a long prompt's scores are skipped.
QUERY_BLOCK = 256


@dataclass(frozen=True, slots=True)
class AttentionRow:
    """`length` consecutive tokens of one sequence.

    offset: index of the first of them in the batch; start: its position in the sequence
    slots: int32, where keys and values lie, for at least the positions below start + length
    """

    offset: int
    start: int
    length: int
    slots: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries [low, high) of the batch attend to keys [first, last) of the gathered ones."""

    low: int
    high: int
    first: int
    last: int
    hidden: Tensor


@dataclass(frozen=True, slots=True)
class _Prompt:
    slots: Tensor
    blocks: list[_Block]


class CpuAttention:
    """What every layer with the same window does for one batch; made once a step.

    rows: all tokens of the batch, in order; window: positions seen, itself included, None for all
    """

    def __init__(self, rows: list[AttentionRow], window: int | None) -> None:
        self._decodes: list[tuple[int, Tensor]] = []
        self._prompts: list[_Prompt] = []
        for row in rows:
            if row.length == 1:
                low = 0 if window is None else max(0, row.start + 1 - window)
                self._decodes.append((row.offset, torch.from_numpy(row.slots[low : row.start + 1])))
            else:
                self._prompts.append(_prompt(row, window))

    def __call__(self, query: Tensor, key_cache: Tensor, value_cache: Tensor) -> Tensor:
        """query: [tokens, heads, head_dim]; caches: [slots, kv_heads, head_dim]; returns [tokens, heads, head_dim]"""
        output = torch.empty(query.shape, dtype=query.dtype)
        for offset, slots in self._decodes:
            _decode(query[offset], key_cache, value_cache, slots, output[offset])
        for prompt in self._prompts:
            _attend_prompt(query, key_cache, value_cache, prompt, output)
        return output


def _decode(query: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor, output: Tensor) -> None:
    kv_heads, head_dim = key_cache.shape[1:]
    # query heads that share a key head become query rows, so that keys are read once and no mask is needed
    folded = query.view(1, kv_heads, -1, head_dim)
    keys = key_cache.index_select(0, slots).transpose(0, 1).unsqueeze(0)
    values = value_cache.index_select(0, slots).transpose(0, 1).unsqueeze(0)
    attended = F.scaled_dot_product_attention(folded, keys, values)
    output.view(folded.shape).copy_(attended)


def _prompt(row: AttentionRow, window: int | None) -> _Prompt:
    end = row.start + row.length
    base = 0 if window is None else max(0, row.start + 1 - window)
    blocks: list[_Block] = []
    for low in range(row.start, end, QUERY_BLOCK):
        high = min(low + QUERY_BLOCK, end)
        first = 0 if window is None else max(0, low + 1 - window)
        behind = torch.arange(low, high).unsqueeze(1) - torch.arange(first, high)
        visible = behind >= 0
        if window is not None:
            visible &= behind < window
        shift = row.offset - row.start
        blocks.append(_Block(low + shift, high + shift, first - base, high - base, visible))
    return _Prompt(torch.from_numpy(row.slots[base:end]), blocks)


def _attend_prompt(query: Tensor, key_cache: Tensor, value_cache: Tensor, prompt: _Prompt, output: Tensor) -> None:
    keys = key_cache.index_select(0, prompt.slots).transpose(0, 1).unsqueeze(0)
    values = value_cache.index_select(0, prompt.slots).transpose(0, 1).unsqueeze(0)
    for block in prompt.blocks:
        attended = F.scaled_dot_product_attention(
            query[block.low : block.high].transpose(0, 1).unsqueeze(0),
            keys[:, :, block.first : block.last],
            values[:, :, block.first : block.last],
            attn_mask=block.hidden,
            enable_gqa=True,
        )
        output[block.low : block.high] = attended[0].transpose(0, 1)
