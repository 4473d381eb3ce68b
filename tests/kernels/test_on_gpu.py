"""The kernels on a GPU, at the sizes of models, against the plain forms there: `pytest -m gpu tests/kernels`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stolon.kernels import reference, reference_linear, reference_sample
from stolon.kernels.attention_plan import DecodePlanner, Shared
from stolon.kernels.choose import Operators, operators
from stolon.kernels.paged import PagedKV
from stolon.kernels.reference import HeadNorm, Places, rotations
from stolon.kernels.reference_linear import Weight, to_float8, to_int8
from tests.kernels.attention_cases import H200, TOLERANCE, Case, decode_work, make_case
from tests.kernels.drawing_cases import FILTERS, make_allowed, make_bias, make_draws, make_logits, make_penalties

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poisoned")]

every_type = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(scope="module")
def triton() -> Operators:
    return operators("cuda")


def moved(thing: Any) -> Any:
    """The same on the GPU: a tensor, or a dataclass of them."""
    if isinstance(thing, torch.Tensor):
        return thing.cuda()
    if hasattr(thing, "__dataclass_fields__"):
        return replace(thing, **{name: moved(getattr(thing, name)) for name in thing.__dataclass_fields__})
    return thing


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, of the whole."""
    assert got.isfinite().all()
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert error(got, expected) < {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[got.dtype]


ROWS = [(1, 1), (500, 500), (0, 7), (64, 3000), (1, 4097), (333, 900)]


@every_type
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("heads", [(8, 2), (14, 2), (3, 3)])
@pytest.mark.parametrize("window", [None, 700])
def test_extend(
    triton: Operators, dtype: torch.dtype, head_dim: int, heads: tuple[int, int], window: int | None
) -> None:
    case = make_case(ROWS, heads=heads, head_dim=head_dim, dtype=dtype)
    work, query, cache = moved(case.extend_work()), case.query.cuda(), moved(case.cache)
    close(triton.extend_attention(query, cache, work, window=window).cpu(), case.expected(window))


def decode(triton: Operators, case: Case, shared: list[Shared], window: int | None = None) -> torch.Tensor:
    contexts = np.array([context for _, context in case.rows], np.int32)
    plan = DecodePlanner(len(contexts), case.heads, replace(H200, bandwidth=1e9)).plan(contexts, shared, window)
    assert (plan.prefixes is not None) == bool(shared)
    return triton.decode_attention(case.query.cuda(), moved(case.cache), moved(decode_work(plan, case.lines))).cpu()


@every_type
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("heads", [(8, 2), (14, 2), (3, 3)])
@pytest.mark.parametrize("float8", [False, True])
def test_decode_and_shared_prefixes(
    triton: Operators, dtype: torch.dtype, head_dim: int, heads: tuple[int, int], float8: bool
) -> None:
    rows = [(1, context) for context in (9000, 4097, 5000, 4100, 4099, 0)]
    case = make_case(rows, heads=heads, head_dim=head_dim, dtype=dtype, float8=float8, prefix=4096)
    expected = case.expected()
    close(decode(triton, case, []), expected)
    close(decode(triton, case, [Shared([0, 1, 2, 3, 4], 4096)]), expected)
    close(decode(triton, case, [], window=1000), case.expected(1000))


def test_a_captured_graph_decodes_other_lengths(triton: Operators) -> None:
    case = make_case([(1, 5000), (1, 300)], heads=(8, 2), head_dim=128, dtype=torch.bfloat16)
    planner = DecodePlanner(2, case.heads, H200)
    query, cache = case.query.cuda(), moved(case.cache)
    work = moved(decode_work(planner.plan(np.array([1, 1], np.int32)), case.lines))
    triton.decode_attention(query, cache, work)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = triton.decode_attention(query, cache, work)
    real = moved(decode_work(planner.plan(np.array([5000, 300], np.int32)), case.lines))
    for name in ("items", "firsts", "members"):
        getattr(work, name).copy_(getattr(real, name))
    graph.replay()
    close(output.cpu(), case.expected())


def test_deterministic_operators_give_a_row_the_same_bits_in_any_company() -> None:
    fixed = operators("cuda", deterministic=True)
    weight = Weight(torch.randn(4096, 4096).bfloat16().cuda())
    x = torch.randn(64, 4096).bfloat16().cuda()
    whole = fixed.linear(x, weight)
    for rows in (slice(0, 1), slice(3, 10), slice(63, 64)):
        assert torch.equal(fixed.linear(x[rows], weight), whole[rows])
    case = make_case([(700, 700)], heads=(8, 2), head_dim=128, dtype=torch.bfloat16)
    whole = fixed.extend_attention(case.query.cuda(), moved(case.cache), moved(case.extend_work()))
    for start, end in ((0, 1), (1, 300), (300, 699), (699, 700)):
        part = make_case([(end - start, end)], heads=(8, 2), head_dim=128, dtype=torch.bfloat16)
        got = fixed.extend_attention(case.query[start:end].cuda(), moved(case.cache), moved(part.extend_work()))
        assert torch.equal(got, whole[start:end])


@every_type
@pytest.mark.parametrize("rows", [1, 16, 17, 64, 300])
def test_linear(triton: Operators, rows: int, dtype: torch.dtype) -> None:
    x, matrix = (torch.randn(rows, 4096) / 64).to(dtype).cuda(), torch.randn(1030, 4096).to(dtype).cuda()
    bias = torch.randn(1030).to(dtype).cuda()
    for weight in (Weight(matrix, None, bias), to_int8(matrix, bias), to_float8(matrix, bias)):
        close(triton.linear(x, weight), reference_linear.linear(x.double(), moved_to_double(weight)))


def moved_to_double(weight: Weight) -> Weight:
    values = weight.values.float() * (1 if weight.scales is None else weight.scales.unsqueeze(1))
    return Weight(values, None, weight.bias)


@every_type
def test_norms_gate_and_rotary(triton: Operators, dtype: torch.dtype) -> None:
    x, residual, weight = (torch.randn(*shape).to(dtype).cuda() for shape in ((700, 5120), (700, 5120), (5120,)))
    close(triton.rms_norm(x, weight, 1e-6), reference.rms_norm(x.double(), weight.double(), 1e-6))
    total = x.double() + residual.double()
    normed, kept = triton.add_rms_norm(x, residual, weight, 1e-6)
    close(kept, total)
    close(normed, reference.rms_norm(kept.double(), weight.double(), 1e-6))
    close(triton.silu_mul(x), reference.silu_mul(x.double()))
    qkv = torch.randn(700, 40 + 16, 128).to(dtype).cuda()
    norm = HeadNorm(torch.randn(48, 128).to(dtype).cuda(), 1e-6)
    places = Places(torch.arange(700).cuda() * 50, torch.randperm(900)[:700].cuda())
    turns = rotations(1e6 ** (-torch.arange(64) / 64), 35_000).cuda()
    found: list[list[torch.Tensor]] = []
    for write in (triton.rotary_write, reference.rotary_write):
        keys, values = (torch.zeros(900, 8, 128, dtype=dtype).cuda() for _ in range(2))
        query = write(qkv, turns, places, PagedKV(keys, values, torch.zeros(0, 0, dtype=torch.int32).cuda()), norm)
        found.append([query, keys, values])
    for got, expected in zip(*found, strict=True):
        close(got, expected)


@every_type
@pytest.mark.parametrize("count", [1, 5, 20, 40])
def test_the_likeliest_are_those_of_the_plain_form(triton: Operators, dtype: torch.dtype, count: int) -> None:
    logits = make_logits(9, 151_936, dtype)
    normalizers = logits.float().logsumexp(1)
    values, ids = triton.top_logprobs(logits.cuda(), normalizers.cuda(), count)
    expected, places = reference_sample.top_logprobs(logits, normalizers, count)
    assert torch.equal(ids.cpu(), places)
    assert torch.equal(values.cpu(), expected)


@pytest.mark.parametrize("vocab", [128_256, 151_936])
def test_sample_draws_the_tokens_of_the_plain_form(triton: Operators, vocab: int) -> None:
    rows = len(FILTERS)
    logits = make_logits(rows, vocab)
    edits = {"bias": make_bias(rows, vocab), "allowed": make_allowed(rows, vocab)}
    for draws in (make_draws(), replace(make_draws(), penalties=make_penalties(rows, vocab), **edits)):
        got, expected = triton.sample(logits.cuda(), moved(draws)), reference_sample.sample(logits, draws)
        assert got.tokens.tolist() == expected.tokens.tolist()
        torch.testing.assert_close(got.logprobs.cpu(), expected.logprobs, rtol=1e-4, atol=1e-4)
