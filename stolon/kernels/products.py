"""Matrix products inside Triton kernels."""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def add_product(left, right, total):
    """total + left @ right, added up in float32; float32 as three products of tf32, which is nearly exact.

    left: [m, k]; right: [k, n]; of one type; total: float32 [m, n]
    """
    if INTERPRETED:
        # Triton's interpreter takes bfloat16 numbers in a product for whole numbers
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="tf32x3")
