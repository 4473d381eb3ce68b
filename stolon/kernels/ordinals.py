"""Floats as whole numbers of the same order, inside Triton kernels."""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def to_ordinal(value):
    """Whole numbers in the order of the floats, int64 within the bounds of int32. -0 lies below 0."""
    bits = value.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def from_ordinal(ordinal):
    """The float32 of an ordinal."""
    bits = ordinal.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
