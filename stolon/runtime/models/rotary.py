"""The rotary position embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.reference import HeadNorm, rotate
from .attention import Attention
from .config import ModelConfig, RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """float32 [head_dim / 2]: by how many radians one position turns each pair.

    Source: arXiv:2104.09864 for the default; the llama3 scaling is that of Llama 3.1's model card: wavelengths
    beyond the original context are stretched by `factor`, short ones are kept, those between are blended.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "default":
        return frequencies
    wavelengths = 2 * math.pi / frequencies
    turns = rope.original_context / wavelengths
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * frequencies / rope.factor + blend * frequencies


def cos_sin(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of each position's angles, for `rotate`: [tokens, 1, head_dim]; the sine's first half is negated."""
    angles = positions.float().unsqueeze(1) * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), 1).unsqueeze(1).to(dtype), torch.cat((-sin, sin), 1).unsqueeze(1).to(dtype)


class TurnedAttention:
    """Turns queries and keys by their positions' angles before they attend; made once a step.

    cos, sin: of `cos_sin`, for the batch's positions
    """

    def __init__(self, config: ModelConfig, cos: Tensor, sin: Tensor, attend: Attention) -> None:
        self._cos, self._sin = cos, sin
        self._heads = config.num_heads
        self._turned = config.num_heads + config.num_kv_heads
        self._attend = attend

    def __call__(self, layer: int, qkv: Tensor, norm: HeadNorm | None) -> Tensor:
        query_key = qkv[:, : self._turned]
        if norm is not None:
            query_key = functional.rms_norm(query_key, query_key.shape[-1:], None, norm.epsilon) * norm.weight
        query_key = rotate(query_key, self._cos, self._sin)
        return self._attend(layer, query_key[:, : self._heads], query_key[:, self._heads :], qkv[:, self._turned :])
