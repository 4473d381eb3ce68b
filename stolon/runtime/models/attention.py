"""What a model asks of whoever keeps keys and values."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ...kernels.reference import HeadNorm


class Attention(Protocol):
    """Attends, after keeping keys and values of all tokens where they are to be kept; bound to one batch.

    query: [tokens, heads, head_dim]; key, value: [tokens, kv_heads, head_dim]; returns [tokens, heads * head_dim]
    """

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


class RotaryAttention(Protocol):
    """Attends, after norms and turns of queries and keys.

    qkv: [tokens, heads + 2 * kv_heads, head_dim]; norm: of queries and keys; returns [tokens, heads * head_dim]
    """

    def __call__(self, layer: int, qkv: Tensor, norm: HeadNorm | None) -> Tensor: ...
