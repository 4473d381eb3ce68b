"""The pool that keeps keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.paged import PagedKV
from .models.config import ModelConfig


class KVCache:
    """For each layer, keys and values of all slots: [slots, kv_heads, head_dim].

    Slots are handed out by the scheduler. The memory is zeroed, which costs nothing on a CPU until a slot is used (the
    system gives pages on first touch) and keeps padding that attention reads and masks free of NaN.
    """

    def __init__(
        self, config: ModelConfig, num_slots: int, dtype: torch.dtype, device: torch.device | None = None
    ) -> None:
        self.num_slots = num_slots
        shape = (num_slots, config.num_kv_heads, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]

    def paged(self, layer: int, table: Tensor) -> PagedKV:
        """table: int32 [lines, positions], slots of sequences"""
        return PagedKV(self.keys[layer], self.values[layer], table)
