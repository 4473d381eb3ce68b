"""The gate of a multilayer perceptron."""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import ELEMENTS


def silu_mul(gate_up: Tensor) -> Tensor:
    """Gate the two halves of a projection: silu(gate) * up, in float32, rounded once.

    gate_up: [tokens, 2 * width], gate half first, last dimension contiguous; returns [tokens, width], contiguous
    Source: arXiv:2002.05202, section 2. Plain form: reference.
    """
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    output = torch.empty((tokens, width), dtype=gate_up.dtype, device=gate_up.device)
    blocks = triton.cdiv(width, ELEMENTS.keys)
    if tokens:
        _silu_mul[(tokens * blocks,)](
            gate_up, output, gate_up.stride(0), WIDTH=width, BLOCKS=blocks, BLOCK=ELEMENTS.keys, **ELEMENTS.options
        )
    return output


@triton.jit
def _silu_mul(gate_up, output, stride, WIDTH: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    # int64: token * width passes 2**31 in a long prefill
    token = (tl.program_id(0) // BLOCKS).to(tl.int64)
    column = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    gate = tl.load(gate_up + token * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + token * stride + WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    gated = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(output + token * WIDTH + column, gated.to(output.dtype.element_ty), mask=inside)
