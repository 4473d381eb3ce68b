"""A plan's rows as tensors."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from array import array
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..kernels.attention_cpu import AttentionRow, CpuAttention, SharedRows
from ..kernels.attention_fixed import FixedAttention
from ..kernels.reference import kv_write
from .kv import KVCache
from .sequence import Plan, Row


@dataclass(slots=True)
class Batch:
    """All tokens of one step, rows one after another.

    ids, positions, slots: int64 [tokens]
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    rows: list[AttentionRow]
    shared: list[SharedRows]


def make_batch(plan: Plan, drawn: Sequence_[int] = ()) -> Batch:
    """drawn: by row of the step before, the id that it drew"""
    total = plan.num_tokens
    staged = np.empty((3, total), np.int64)
    rows: list[AttentionRow] = []
    offset = 0
    for row in plan.rows:
        end, slots = offset + row.length, row.sequence.slots
        staged[0, offset:end] = _ids(row, drawn)
        staged[1, offset:end] = np.arange(row.start, row.end)
        staged[2, offset:end] = slots[row.start : row.end]
        rows.append(AttentionRow(offset, row.start, row.length, slots))
        offset = end
    ids, positions, slots = torch.from_numpy(staged)
    shared = [SharedRows(group.rows, group.length) for group in plan.shared]
    return Batch(ids, positions, slots, rows, shared)


def _ids(row: Row, drawn: Sequence_[int]) -> int | array[int]:
    if row.guess is not None:
        return row.guess
    return row.sequence.tokens[row.start : row.end] if row.source is None else drawn[row.source]


class PagedAttention:
    """Attention of one batch over the pool; made once a step, called once a layer.

    fixed: with bits that do not depend on the batch
    """

    def __init__(self, batch: Batch, cache: KVCache, windows: tuple[int | None, ...], *, fixed: bool = False) -> None:
        self._cache = cache
        self._slots = batch.slots
        self._windows = windows
        self._plans = {window: _plan(batch, cache, window, fixed=fixed) for window in set(windows)}

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        # before any row attends: a row may attend to what another row of this step writes
        kv_write(keys, values, self._slots, key.to(keys.dtype), value.to(keys.dtype))
        attended = self._plans[self._windows[layer]](query.to(keys.dtype), keys, values)
        return attended.to(query.dtype).flatten(1)


def _plan(batch: Batch, cache: KVCache, window: int | None, *, fixed: bool) -> CpuAttention | FixedAttention:
    if fixed:
        return FixedAttention(batch.rows, window=window)
    keys = cache.keys[0]
    return CpuAttention(batch.rows, batch.shared, window=window, key_bytes=keys[0].nbytes, dtype=keys.dtype)
