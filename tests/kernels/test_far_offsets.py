"""What lies more than 2**31 numbers into a tensor is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stolon.kernels.attention_decode import decode_attention
from stolon.kernels.attention_extend import extend_attention
from stolon.kernels.attention_plan import DecodePlanner, Shared
from stolon.kernels.likeliest import top_logprobs
from stolon.kernels.linear_gpu import linear
from stolon.kernels.norm import add_rms_norm, rms_norm
from stolon.kernels.paged import PagedKV
from stolon.kernels.reference import Places, rotations
from stolon.kernels.reference_linear import Weight
from stolon.kernels.rotary import rotary_write
from stolon.kernels.sample import sample
from stolon.kernels.silu_mul import silu_mul
from tests.kernels.attention_cases import SLOW, Case, decode_work, make_case
from tests.kernels.drawing_cases import make_allowed, make_draws, make_penalties

FAR = 2**31

MoveFar = Callable[[Tensor], Tensor]


@pytest.fixture
def moved_far(tmp_path: Path) -> MoveFar:
    """Gives the same rows at the end of a tensor of more than FAR numbers, whose memory is a file with a hole."""

    def move(near: Tensor) -> Tensor:
        width = near[0].numel()
        rows = FAR // width + 2 + len(near)
        path = tmp_path / f"far{len(list(tmp_path.iterdir()))}"
        with path.open("wb") as file:
            file.truncate(rows * width * near.itemsize)
        far = torch.from_file(str(path), shared=True, size=rows * width, dtype=near.dtype)
        far = far.view(rows, *near.shape[1:])
        far[-len(near) :] = near
        return far

    return move


@pytest.fixture
def far_apart(moved_far: MoveFar) -> MoveFar:
    """Gives the same rows, the last of which begins more than FAR numbers after the first."""

    def move(near: Tensor) -> Tensor:
        step = -(-(FAR // (len(near) - 1) + 1) // 16) * 16
        flat = moved_far(torch.zeros(8, *near.shape[1:], dtype=near.dtype)).reshape(-1)
        far = flat.as_strided(near.shape, (step, *near.stride()[1:]))
        far.copy_(near)
        return far

    return move


@pytest.mark.parametrize("name", ["extend", "decode", "shared"])
def test_slots(name: str, moved_far: MoveFar) -> None:
    case = make_case(rows_of(name), dtype=torch.float16, prefix=300 if name == "shared" else 0)
    keys, values = moved_far(case.cache.keys), moved_far(case.cache.values)
    table = case.cache.table + (len(keys) - len(case.cache.keys))
    far = replace_cache(case, PagedKV(keys, values, table))
    torch.testing.assert_close(attend(far, name), attend(case, name), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["extend", "decode", "shared"])
def test_lines_of_the_table(name: str, moved_far: MoveFar) -> None:
    case = make_case(rows_of(name), prefix=300 if name == "shared" else 0)
    table = moved_far(case.cache.table)
    far = replace_cache(case, replace(case.cache, table=table))
    far.lines += len(table) - len(case.cache.table)
    torch.testing.assert_close(attend(far, name), attend(case, name), rtol=0, atol=0)


def rows_of(name: str) -> list[tuple[int, int]]:
    return [(1, 310), (1, 305)] if name == "shared" else [(1, 40)]


def replace_cache(case: Case, cache: PagedKV) -> Case:
    return Case(case.rows, case.heads, case.query, cache, case.lines.clone())


def attend(case: Case, name: str) -> Tensor:
    if name == "extend":
        return extend_attention(case.query, case.cache, case.extend_work())
    contexts = np.array([context for _, context in case.rows], np.int32)
    shared = [Shared([0, 1], 300)] if name == "shared" else []
    plan = DecodePlanner(len(contexts), case.heads, SLOW).plan(contexts, shared)
    assert (plan.prefixes is not None) == bool(shared)
    return decode_attention(case.query, case.cache, decode_work(plan, case.lines))


# -- rows that lie far apart

X = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).half()
DRAWS = make_draws(filters=[(1.0, 5, 0.9, 0.0), (0.0, 0, 1.0, 0.0), (0.7, 0, 1.0, 0.02)])
ROWS: dict[str, Callable[[Tensor], object]] = {
    "norm": lambda x: rms_norm(x, torch.ones(64).half(), 1e-5),
    "sum": lambda x: add_rms_norm(x, X.clone(), torch.ones(64).half(), 1e-5),
    "gate": silu_mul,
    "product": lambda x: linear(x, Weight(X)),
    "weights": lambda x: linear(X, Weight(x)),
    "likeliest": lambda x: top_logprobs(x, torch.zeros(3), 5),
    "sample": lambda x: sample(x, DRAWS).tokens,
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str, far_apart: MoveFar) -> None:
    far = far_apart(X)
    assert far.stride(0) * 2 > FAR
    torch.testing.assert_close(ROWS[name](far), ROWS[name](X), rtol=0, atol=0)


def test_what_a_residual_becomes(far_apart: MoveFar) -> None:
    far, near = far_apart(X), X.clone()
    for residual in (far, near):
        add_rms_norm(X, residual, torch.ones(64).half(), 1e-5)
    assert torch.equal(far, near)


@pytest.mark.parametrize("name", ["extend", "decode"])
def test_queries(name: str, far_apart: MoveFar) -> None:
    case = make_case([(1, 40), (1, 7), (1, 90)], dtype=torch.float16)
    far = Case(case.rows, case.heads, far_apart(case.query), case.cache, case.lines)
    torch.testing.assert_close(attend(far, name), attend(case, name), rtol=0, atol=0)


def test_where_keys_and_values_are_written(moved_far: MoveFar, far_apart: MoveFar) -> None:
    qkv, turns = X.view(3, 4, 16).contiguous(), rotations(torch.ones(8), 5)
    near = [torch.zeros(5, 1, 16, dtype=torch.float16) for _ in range(2)]
    far = [moved_far(cache) for cache in near]
    table, places = torch.zeros(0, 0, dtype=torch.int32), Places(torch.tensor([4, 0, 2]), torch.tensor([3, 1, 0]))
    expected = rotary_write(qkv, turns, places, PagedKV(near[0], near[1], table))
    moved = Places(places.positions, places.slots + len(far[0]) - 5)
    found = rotary_write(far_apart(qkv), turns, moved, PagedKV(far[0], far[1], table))
    assert torch.equal(found, expected)
    for one, other in zip(near, far, strict=True):
        assert torch.equal(one, other[-5:])


def test_lines_of_counts_and_of_masks(moved_far: MoveFar) -> None:
    logits, penalties, allowed = X.float(), make_penalties(3, 64), make_allowed(3, 64)
    counts, bits = moved_far(penalties.counts), moved_far(allowed.bits)
    lines = torch.where(penalties.lines < 0, -1, penalties.lines + len(counts) - len(penalties.counts)).int()
    far_lines = torch.where(allowed.lines < 0, -1, allowed.lines + len(bits) - len(allowed.bits)).int()
    draw = partial(replace, DRAWS)
    far = sample(
        logits,
        draw(
            penalties=replace(penalties, counts=counts, lines=lines),
            allowed=replace(allowed, bits=bits, lines=far_lines),
        ),
    )
    near = sample(logits, draw(penalties=penalties, allowed=allowed))
    assert far.tokens.tolist() == near.tokens.tolist()
    assert torch.equal(counts[-len(penalties.counts) :], penalties.counts)
