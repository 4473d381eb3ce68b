"""Products with fixed weights, which may be 8-bit: for the few rows of decode, and for sums that no batch changes."""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .products import add_product
from .reference_linear import Weight
from .tiles import ELEMENTS, PRODUCT_PROGRAMS, ProductTile, product_tile


def linear(x: Tensor, weight: Weight, *, uniform: bool = False) -> Tensor:
    """x times the weights, transposed, each output times its scale, plus its bias; summed in float32, rounded once.

    x: [rows, in], float32, float16 or bfloat16, last dimension contiguous; returns [rows, out], of x's type
    uniform: the same tiles and order of sums whatever the number of rows, so that a row's bits do not depend on it
    8-bit weights are turned into x's type as they are read. Where outputs alone do not fill the chip, the inputs are
    split among programs, and a second kernel adds up their sums in order; never if `uniform`.
    Plain form: reference_linear.
    """
    rows, inputs = x.shape
    outputs = weight.values.shape[0]
    output = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    if not rows:
        return output
    tile = product_tile(None if uniform else rows, weight.values.dtype.itemsize, x.dtype.itemsize)
    splits = 1 if uniform else _splits(rows, outputs, inputs, tile)
    sums = output
    if splits > 1:
        sums = torch.empty((splits, rows, outputs), dtype=torch.float32, device=x.device)
    scales = output if weight.scales is None else weight.scales
    bias = output if weight.bias is None else weight.bias
    flags = {"SCALES": weight.scales is not None, "BIAS": weight.bias is not None}
    row_tiles, output_tiles = triton.cdiv(rows, tile.rows), triton.cdiv(outputs, tile.outputs)
    _product[(row_tiles * output_tiles * splits,)](
        x,
        weight.values,
        scales,
        bias,
        sums,
        rows,
        x.stride(0),
        weight.values.stride(0),
        OUTPUTS=outputs,
        INPUTS=inputs,
        ROW_TILE=tile.rows,
        OUTPUT_TILE=tile.outputs,
        INPUT_TILE=tile.inputs,
        SPLITS=splits,
        **flags,
        **tile.options,
    )
    if splits > 1:
        blocks = triton.cdiv(rows * outputs, ELEMENTS.keys)
        _add_splits[(blocks,)](
            sums,
            scales,
            bias,
            output,
            rows * outputs,
            OUTPUTS=outputs,
            SPLITS=splits,
            BLOCK=ELEMENTS.keys,
            **flags,
            **ELEMENTS.options,
        )
    return output


def _splits(rows: int, outputs: int, inputs: int, tile: ProductTile) -> int:
    """A power of two, so that programs come near PRODUCT_PROGRAMS while each still has four steps."""
    programs = triton.cdiv(rows, tile.rows) * triton.cdiv(outputs, tile.outputs)
    splits = 1
    while programs * splits * 2 <= PRODUCT_PROGRAMS * 1.5 and inputs >= splits * 2 * tile.inputs * 4:
        splits *= 2
    return splits


@triton.jit
def _product(
    x,
    weight,
    scales,
    bias,
    sums,
    rows,
    x_stride,
    weight_stride,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    ROW_TILE: tl.constexpr,
    OUTPUT_TILE: tl.constexpr,
    INPUT_TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    SCALES: tl.constexpr,
    BIAS: tl.constexpr,
):
    """One tile of outputs, or one split of it. Row tiles change fastest: programs that run together read the same
    weights, which then come from the second-level cache."""
    row_tiles = tl.cdiv(rows, ROW_TILE)
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    row = tile % row_tiles * ROW_TILE + tl.arange(0, ROW_TILE)
    output = tile // row_tiles * OUTPUT_TILE + tl.arange(0, OUTPUT_TILE)
    real = row < rows
    wanted = output < OUTPUTS
    # int64: an output times the inputs passes 2**31 in the largest vocabularies' heads
    x_rows = x + row.to(tl.int64)[:, None] * x_stride
    weight_rows = weight + output.to(tl.int64)[:, None] * weight_stride
    total = tl.zeros((ROW_TILE, OUTPUT_TILE), tl.float32)
    share = tl.cdiv(INPUTS, SPLITS * INPUT_TILE) * INPUT_TILE
    for start in range(split * share, tl.minimum((split + 1) * share, INPUTS), INPUT_TILE):
        column = start + tl.arange(0, INPUT_TILE)
        if INPUTS % INPUT_TILE == 0:
            left = tl.load(x_rows + column[None, :], mask=real[:, None], other=0.0)
            right = tl.load(weight_rows + column[None, :], mask=wanted[:, None], other=0.0)
        else:
            inside = column[None, :] < INPUTS
            left = tl.load(x_rows + column[None, :], mask=real[:, None] & inside, other=0.0)
            right = tl.load(weight_rows + column[None, :], mask=wanted[:, None] & inside, other=0.0)
        if right.dtype == tl.int8:
            # Triton's interpreter cannot make bfloat16 of whole numbers
            right = right.to(tl.float32)
        total = add_product(left, tl.trans(right.to(x.dtype.element_ty)), total)
    if SPLITS == 1:
        if SCALES:
            total *= tl.load(scales + output, mask=wanted, other=0.0)[None, :]
        if BIAS:
            total += tl.load(bias + output, mask=wanted, other=0.0).to(tl.float32)[None, :]
    place = (split.to(tl.int64) * rows + row)[:, None] * OUTPUTS + output[None, :]
    tl.store(sums + place, total.to(sums.dtype.element_ty), mask=real[:, None] & wanted[None, :])


@triton.jit
def _add_splits(
    sums,
    scales,
    bias,
    output,
    count,
    OUTPUTS: tl.constexpr,
    SPLITS: tl.constexpr,
    SCALES: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """count: rows * OUTPUTS"""
    item = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = item < count
    total = tl.zeros((BLOCK,), tl.float32)
    for split in range(SPLITS):
        total += tl.load(sums + tl.cast(count, tl.int64) * split + item, mask=inside, other=0.0)
    if SCALES:
        total *= tl.load(scales + item % OUTPUTS, mask=inside, other=0.0)
    if BIAS:
        total += tl.load(bias + item % OUTPUTS, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + item, total.to(output.dtype.element_ty), mask=inside)
