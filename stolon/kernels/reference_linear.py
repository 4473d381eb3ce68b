"""Products with fixed weights in plain PyTorch, and how weights are made small; see `linear_gpu` for the fast form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .reference import LARGEST_FLOAT8


@dataclass(frozen=True, slots=True)
class Weight:
    """What x is multiplied with.

    values: [out, in], contiguous, of x's type, or int8, or float8_e4m3fn
    scales: float32 [out] for the latter two, what each output's values are multiplied with; bias: [out], of x's type
    """

    values: Tensor
    scales: Tensor | None = None
    bias: Tensor | None = None


def to_int8(weight: Tensor, bias: Tensor | None = None) -> Weight:
    """Round each output's weights to 127ths of the largest. weight: [out, in]"""
    scales = _largest(weight) / 127
    values = (weight.float() / scales.unsqueeze(1)).round().clamp(-127, 127)
    return Weight(values.to(torch.int8), scales, bias)


def to_float8(weight: Tensor, bias: Tensor | None = None) -> Weight:
    """Scale each output's weights so that the largest is float8_e4m3fn's. weight: [out, in]"""
    scales = _largest(weight) / LARGEST_FLOAT8
    values = (weight.float() / scales.unsqueeze(1)).clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8)
    return Weight(values.to(torch.float8_e4m3fn), scales, bias)


def _largest(weight: Tensor) -> Tensor:
    return weight.float().abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * LARGEST_FLOAT8)


def linear(x: Tensor, weight: Weight) -> Tensor:
    """x times the weights, transposed, each output times its scale, plus its bias; in float32, rounded once.

    x: [rows, in]; returns [rows, out], of x's type
    """
    product = functional.linear(x.float(), weight.values.float())
    if weight.scales is not None:
        product *= weight.scales
    if weight.bias is not None:
        product += weight.bias.float()
    return product.to(x.dtype)
