"""Triton's products against the plain one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stolon.kernels import linear_gpu, reference_linear
from stolon.kernels.reference_linear import Weight, to_float8, to_int8

pytestmark = pytest.mark.usefixtures("poisoned")

# of sums of about 1; the products' operands are the same numbers in both forms
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def make_x(rows: int, inputs: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return (torch.randn(rows, inputs + 16, generator=generator) / inputs**0.5).to(dtype)[:, :inputs]


def make_weight(outputs: int, inputs: int) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs))


def plain(weight: Tensor, bias: Tensor | None = None) -> Weight:
    return Weight(weight, None, bias)


def check(x: Tensor, weight: Weight, uniform: bool = False) -> None:
    got, expected = linear_gpu.linear(x, weight, uniform=uniform), reference_linear.linear(x.float(), weight)
    assert got.dtype == x.dtype
    torch.testing.assert_close(got.float(), expected, rtol=TOLERANCE[x.dtype], atol=TOLERANCE[x.dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("make", [plain, to_int8, to_float8])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 64, 256), (3, 100, 150), (17, 70, 64), (65, 130, 100)])
def test_any_size_and_form_of_weights(
    rows: int, outputs: int, inputs: int, make: Callable[..., Weight], dtype: torch.dtype
) -> None:
    weight, bias = make_weight(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype)
    check(make_x(rows, inputs, dtype), make(weight, bias))


@pytest.mark.parametrize("make", [plain, to_int8])
def test_the_inputs_are_split_where_outputs_are_few(make: Callable[..., Weight]) -> None:
    tile = linear_gpu.product_tile(2, 4, 4)
    assert linear_gpu._splits(2, 96, 3000, tile) == 8
    check(make_x(2, 3000, torch.float32), make(make_weight(96, 3000), torch.randn(96)))
    check(make_x(2, 3000, torch.float32), make(make_weight(96, 3000)))


def test_large_outputs_are_not_split() -> None:
    tile = linear_gpu.product_tile(1, 2, 2)
    assert linear_gpu._splits(1, 28672, 4096, tile) == 1
    assert linear_gpu._splits(1, 4096, 4096, tile) == 4


def test_a_row_has_the_same_bits_in_any_company_where_that_is_asked_for() -> None:
    # in float32 numpy's own products, of which the interpreter makes them, depend on a row's place
    weight = plain(make_weight(70, 300).bfloat16())
    x = make_x(70, 300, torch.bfloat16)
    whole = linear_gpu.linear(x, weight, uniform=True)
    check(x, weight, uniform=True)
    for rows in (slice(0, 1), slice(3, 10), slice(69, 70), slice(5, 69)):
        assert torch.equal(linear_gpu.linear(x[rows], weight, uniform=True), whole[rows])


def test_no_rows_are_no_work() -> None:
    assert linear_gpu.linear(torch.empty(0, 8), plain(make_weight(5, 8))).shape == (0, 5)
