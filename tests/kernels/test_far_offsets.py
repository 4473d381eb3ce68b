"""What lies more than 2**31 numbers into a tensor is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stolon.kernels.attention_decode import decode_attention
from stolon.kernels.attention_extend import extend_attention
from stolon.kernels.attention_plan import DecodePlanner
from stolon.kernels.paged import PagedKV
from tests.kernels.attention_cases import SLOW, Case, decode_work, make_case

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


@pytest.mark.parametrize("name", ["extend", "decode"])
def test_slots(name: str, moved_far: MoveFar) -> None:
    case = make_case([(1, 40)], dtype=torch.float16)
    keys, values = moved_far(case.cache.keys), moved_far(case.cache.values)
    table = case.cache.table + (len(keys) - len(case.cache.keys))
    far = replace_cache(case, PagedKV(keys, values, table))
    torch.testing.assert_close(attend(far, name), attend(case, name), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["extend", "decode"])
def test_lines_of_the_table(name: str, moved_far: MoveFar) -> None:
    case = make_case([(1, 40)])
    table = moved_far(case.cache.table)
    far = replace_cache(case, replace(case.cache, table=table))
    far.lines += len(table) - len(case.cache.table)
    torch.testing.assert_close(attend(far, name), attend(case, name), rtol=0, atol=0)


def replace_cache(case: Case, cache: PagedKV) -> Case:
    return Case(case.rows, case.heads, case.query, cache, case.lines.clone())


def attend(case: Case, name: str) -> Tensor:
    if name == "extend":
        return extend_attention(case.query, case.cache, case.extend_work())
    contexts = np.array([context for _, context in case.rows], np.int32)
    plan = DecodePlanner(len(contexts), case.heads, SLOW).plan(contexts)
    return decode_attention(case.query, case.cache, decode_work(plan, case.lines))
