"""Matrix products with fixed weights, each form as fast as this CPU allows.

Weights in oneDNN's blocked layout save the re-packing that `functional.linear` does on every call, and give each row
the same sum whatever the number of rows (benchmarks/cpu.py). How a single row is fastest differs between CPUs that have
AVX512-bf16, so that is measured: see `SingleRow`.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

# What oneDNN lays the blocks out for; the layout also serves other row counts.
PACKED_FOR_ROWS = 16


class Linear(Protocol):
    """x: [rows, in] -> [rows, out]"""

    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class LinearOptions:
    """How to hold weights.

    packed: in oneDNN's layout; plain_copy: bfloat16 also as it is, for single rows (twice the memory), see `SingleRow`
    int8: 8-bit integers, one scale per output
    """

    packed: bool
    plain_copy: bool = False
    int8: bool = False


class PlainLinear:
    """What works everywhere."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class PackedLinear:
    """oneDNN product with weights packed once.

    A few rows are padded to `least_rows`: for float32 a single row would take another kernel with another order of
    summation (a row's result must not depend on its company), for bfloat16 see `SingleRow`. Many rows are padded to a
    round number, see `round_rows`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, plain_copy: bool) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR_ROWS)
        self.bias = bias
        self.plain = weight if plain_copy else None
        self.least_rows = SingleRow.measured().packed_rows if weight.dtype == torch.bfloat16 else 2

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows == 1 and self.plain is not None:
            product = torch.mv(self.plain, x[0])
            if self.bias is not None:
                product += self.bias  # torch.addmv would do both, eight times slower than the product alone
            return product.unsqueeze(0)
        more = max(round_rows(rows), self.least_rows) - rows
        if not more:
            return _packed_product(x, self.packed, self.bias)
        return _packed_product(functional.pad(x, (0, 0, 0, more)), self.packed, self.bias)[:rows]


def round_rows(rows: int) -> int:
    """`rows`, or a few more, so that few different numbers occur: oneDNN compiles a product for each number of rows and
    keeps it, with 100 kB and more of memory, 1,024 times over before it forgets one."""
    if rows <= 64:
        return rows
    step = 8 if rows <= 256 else 32
    return -(-rows // step) * step


def _packed_product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


@dataclass(frozen=True, slots=True)
class SingleRow:
    """What a product of one row with bfloat16 weights costs on this CPU; all that counts is how fast they are read.

    packed_rows: 1, or 4 where a packed product of four rows takes less time than one of a single row
    plain_gain: how many times faster `torch.mv` reads weights that are not packed
    """

    packed_rows: int
    plain_gain: float

    @staticmethod
    @cache
    def measured() -> SingleRow:
        """Takes about 0.1 s; the weights are more than fits in most caches, as a model's are."""
        weight = torch.full((32768, 1024), 0.01, dtype=torch.bfloat16)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)
        x = torch.ones(4, 1024, dtype=torch.bfloat16)
        one = _least_s(lambda: _packed_product(x[:1], packed, None))
        four = _least_s(lambda: _packed_product(x, packed, None))
        with native_gemv():
            plain = _least_s(lambda: torch.mv(weight, x[0]))
        return SingleRow(packed_rows=4 if four < one else 1, plain_gain=min(one, four) / plain)


def _least_s(product: Callable[[], object], repeats: int = 5) -> float:
    def once() -> float:
        began = time.perf_counter()
        product()
        return time.perf_counter() - began

    return min(once() for _ in range(repeats))


class Int8Linear:
    """8-bit integer product: one scale for each output of the weights, and for each row of x as it comes.

    torch's operator scales a whole batch by its extremes. Rows are divided by their largest value first, and one row
    that spans [-1, 1] is added: so every row is quantised finely, and alike whatever its company (integer sums are
    exact). x: float32
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = _pack_int8(weight.float())
        self.bias = None if bias is None else bias.float()
        self.halve = not _int8_sums_are_exact()

    def __call__(self, x: Tensor) -> Tensor:
        rows, width = x.shape
        largest = x.abs().amax(1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
        scaled = torch.empty(rows + 1, width)
        torch.div(x, largest, out=scaled[:rows])
        scaled[rows] = 1.0
        scaled[rows, : width // 2] = -1.0
        product = torch.ops.quantized.linear_dynamic(scaled, self.packed, self.halve)[:rows]
        product *= largest
        return product if self.bias is None else product.add_(self.bias)


def _pack_int8(weight: Tensor) -> Any:
    scales = weight.abs().amax(1).clamp_min_(torch.finfo(torch.float32).tiny) / 127
    zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
    with warnings.catch_warnings():
        # torch means to drop its quantised tensor types some day; `int8_works` will tell
        warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning)
        quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(quantized, None)


@cache
def _int8_sums_are_exact() -> bool:
    """Whether products of full 8-bit range add up right: without VNNI they saturate, and x must keep to 7 bits."""
    product = torch.ops.quantized.linear_dynamic(torch.ones(1, 64), _pack_int8(torch.ones(16, 64)), False)
    return bool((product - 64).abs().max() < 1)


@cache
def int8_works() -> bool:
    """Whether this build of torch still has the operators, and a backend for them."""
    try:
        _int8_sums_are_exact()
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True


def make_linear(weight: Tensor, bias: Tensor | None, options: LinearOptions) -> Linear:
    """weight: [out, in], bias: [out] or None; both are kept, so the caller gives them away."""
    if options.int8:
        return Int8Linear(weight, bias)
    if options.packed:
        return PackedLinear(weight, bias, plain_copy=options.plain_copy and weight.dtype == torch.bfloat16)
    return PlainLinear(weight, bias)


def packing_works(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the private packing operators and they agree with `functional.linear`."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 32, generator=generator).to(dtype)
    x = torch.randn(5, 32, generator=generator).to(dtype)
    try:
        got = PackedLinear(weight, None, plain_copy=False)(x)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return bool(torch.allclose(got.float(), functional.linear(x.float(), weight.float()), rtol=2e-2, atol=2e-2))


def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 without taking it apart first."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError, NotImplementedError):  # a build without oneDNN
        return False


@contextmanager
def native_gemv() -> Generator[None]:
    """While it runs, a bfloat16 matrix-vector product takes torch's own kernel, which reads weights a third faster
    than oneDNN's; packed products call oneDNN by name and are not affected."""
    before: bool = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)
