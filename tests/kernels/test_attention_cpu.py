"""The fast forms of attention against the plain one, over ragged rows, windows and shared prefixes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from stolon.kernels import attention_cpu
from stolon.kernels.attention_cpu import AttentionRow, CpuAttention, SharedRows
from stolon.kernels.reference import paged_attention

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


@dataclass
class Case:
    rows: list[AttentionRow]
    query: Tensor
    keys: Tensor
    values: Tensor

    def fast(self, window: int | None = None, shared: list[SharedRows] | None = None) -> Tensor:
        attention = CpuAttention(
            self.rows, shared or [], window=window, key_bytes=self.keys[0].nbytes, dtype=self.keys.dtype
        )
        return attention(self.query, self.keys, self.values)

    def plain(self, window: int | None = None) -> Tensor:
        parts: list[Tensor] = []
        for row in self.rows:
            slots = torch.from_numpy(row.slots[: row.start + row.length]).long()
            own = self.query[row.offset : row.offset + row.length]
            parts.append(paged_attention(own, self.keys, self.values, slots, window))
        return torch.cat(parts)


def make_case(
    shapes: list[tuple[int, int]],
    *,
    heads: tuple[int, int] = (6, 2),
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
    prefix: int = 0,
) -> Case:
    """shapes: start and length of each row; the first `prefix` slots are common to all"""
    generator = torch.Generator().manual_seed(len(shapes))
    num_slots = prefix + sum(start + length for start, length in shapes) + 7
    free = np.random.default_rng(0).permutation(num_slots).astype(np.int32)
    common, free = free[:prefix], free[prefix:]
    rows: list[AttentionRow] = []
    offset = 0
    for start, length in shapes:
        own, free = np.split(free, [start + length - prefix])
        # longer than what is computed, as the scheduler's arrays may be
        rows.append(AttentionRow(offset, start, length, np.concatenate((common, own, own[:1]))))
        offset += length

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    caches = random(num_slots, heads[1], head_dim), random(num_slots, heads[1], head_dim)
    return Case(rows, random(offset, heads[0], head_dim), *caches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [None, 1, 5, 64, 1000])
@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (7, 1)])
def test_ragged_rows_attend_as_in_the_plain_form(
    heads: tuple[int, int], window: int | None, dtype: torch.dtype
) -> None:
    shapes = [(0, 1), (0, 130), (3, 1), (50, 1), (55, 1), (60, 1), (200, 1), (17, 40), (300, 65), (0, 2)]
    case = make_case(shapes, heads=heads, dtype=dtype)
    torch.testing.assert_close(case.fast(window), case.plain(window), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [None, 1, 3, 64])
@pytest.mark.parametrize("heads", [(6, 2), (4, 4)])
def test_rows_of_a_few_tokens_attend_as_in_the_plain_form(
    heads: tuple[int, int], window: int | None, dtype: torch.dtype
) -> None:
    shapes = [(0, 2), (1, 3), (90, 8), (100, 1), (101, 2), (95, 5), (99, 3), (0, 8), (300, 7), (40, 9)]
    case = make_case(shapes, heads=heads, dtype=dtype)
    torch.testing.assert_close(case.fast(window), case.plain(window), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("room", [1, 64, 100_000])
def test_any_grouping_of_single_rows_gives_the_same(
    room: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case([(start, 1) for start in (40, 9, 40, 33, 12, 40, 39, 38, 90)], dtype=dtype)
    monkeypatch.setattr(attention_cpu, "GROUP_BYTES", room * case.keys[0].nbytes)
    torch.testing.assert_close(case.fast(), case.plain(), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [None, 130, 320, 391, 2000])
def test_a_prefix_read_once_gives_what_reading_it_for_each_row_gives(window: int | None, dtype: torch.dtype) -> None:
    shapes = [(300, 1), (305, 1), (300, 1), (390, 1), (320, 30), (310, 1)]
    case = make_case(shapes, dtype=dtype, prefix=300)
    shared = [SharedRows([0, 1, 2, 3, 5], 300)]
    torch.testing.assert_close(case.fast(window, shared), case.plain(window), rtol=0, atol=TOLERANCE[dtype])


def test_a_shared_prefix_is_read_once_where_that_saves_work(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case([(300, 1)] * 4, prefix=300)
    read: list[int] = []
    gather = attention_cpu._gather

    def counting(cache: Tensor, slots: Tensor, batch: int = 1) -> Tensor:
        read.append(len(slots))
        return gather(cache, slots, batch)

    monkeypatch.setattr(attention_cpu, "_gather", counting)
    case.fast(shared=[SharedRows([0, 1, 2, 3], 300)])
    assert sum(read) == 2 * (300 + 4)
    read.clear()
    case.fast(window=301, shared=[SharedRows([0, 1, 2, 3], 300)])
    assert sum(read) == 2 * (300 + 4)
    read.clear()
    # a window that cuts the prefix
    case.fast(window=300, shared=[SharedRows([0, 1, 2, 3], 300)])
    assert sum(read) == 2 * 4 * 300
    read.clear()
    # two rows and a short prefix: nothing to gain
    case.fast(shared=[SharedRows([0, 1], 300)])
    assert sum(read) == 2 * 4 * 301


def test_a_row_never_sees_what_another_sequence_left() -> None:
    case = make_case([(40, 1), (30, 1), (35, 1), (31, 1), (0, 20)])
    expected = case.fast()
    hers = torch.from_numpy(case.rows[2].slots[:36]).long()
    case.keys[hers] = torch.nan
    case.values[hers] = torch.nan
    got = case.fast()
    kept = [0, 1, *range(3, 24)]
    assert torch.equal(got[kept], expected[kept])
    assert got[2].isnan().all()
