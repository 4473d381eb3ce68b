"""RMS norm, alone or after adding to the residual stream; one program a row."""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import row_tile


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x**2) + epsilon) * weight over the last dimension, in float32, rounded once.

    x: [rows, width], last dimension contiguous; weight: [width], contiguous; returns [rows, width], contiguous
    Source: arXiv:1910.07467. Plain form: reference.
    """
    rows, width = x.shape
    output = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    if rows:
        tile = row_tile(width)
        _rms_norm[(rows,)](
            x, x, weight, output, epsilon, x.stride(0), 0, WIDTH=width, ADD=False, BLOCK=tile.keys, **tile.options
        )
    return output


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The normalised sum, and the sum, which is rounded before it is normalised.

    x, residual: [rows, width], of one type, last dimension contiguous; `residual` becomes the sum; weight: [width]
    Plain form: reference.
    """
    rows, width = x.shape
    output = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    if rows:
        tile = row_tile(width)
        strides = x.stride(0), residual.stride(0)
        _rms_norm[(rows,)](
            x, residual, weight, output, epsilon, *strides, WIDTH=width, ADD=True, BLOCK=tile.keys, **tile.options
        )
    return output, residual


@triton.jit
def _rms_norm(
    x,
    residual,
    weight,
    output,
    epsilon,
    stride,
    residual_stride,
    WIDTH: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # int64: row * width passes 2**31 in a long prefill
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        place = residual + row * residual_stride + column
        value += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(residual.dtype.element_ty)
        tl.store(place, rounded, mask=inside)
        value = rounded.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / WIDTH + epsilon)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + row * WIDTH + column, (value * scale * factor).to(output.dtype.element_ty), mask=inside)
