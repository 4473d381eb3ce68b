"""Triton's attention against each token alone in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stolon.kernels.attention_decode import decode_attention
from stolon.kernels.attention_extend import extend_attention
from stolon.kernels.attention_plan import DecodePlanner, Shared
from tests.kernels.attention_cases import SLOW, TOLERANCE, Case, decode_work, make_case

RAGGED = [(1, 1), (40, 40), (0, 7), (5, 33), (0, 0), (64, 130), (1, 90), (17, 17), (1, 64), (1, 65)]

pytestmark = pytest.mark.usefixtures("poisoned")


def check(got: Tensor, case: Case, window: int | None = None, scale: float | None = None) -> None:
    torch.testing.assert_close(got.double(), case.expected(window, scale), rtol=0, atol=TOLERANCE[got.dtype])


@pytest.mark.parametrize("window", [None, 1, 50, 500])
@pytest.mark.parametrize("uniform", [False, True])
def test_new_tokens_attend_causally_to_their_own_sequence(window: int | None, uniform: bool) -> None:
    case = make_case(RAGGED)
    got = extend_attention(case.query, case.cache, case.extend_work(), window=window, uniform=uniform, scale=0.2)
    check(got, case, window, 0.2)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_every_head_size_and_type_extends(head_dim: int, dtype: torch.dtype) -> None:
    case = make_case([(3, 130), (33, 40)], head_dim=head_dim, dtype=dtype, heads=(4, 1))
    check(extend_attention(case.query, case.cache, case.extend_work()), case)


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (7, 1), (14, 2), (33, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_number_of_heads_may_share_a_key_head(heads: tuple[int, int], dtype: torch.dtype) -> None:
    case = make_case([(9, 30), (1, 140)], heads=heads, dtype=dtype)
    check(extend_attention(case.query, case.cache, case.extend_work()), case)
    case = make_case([(1, 140), (1, 5)], heads=heads, dtype=dtype)
    check(decode(case), case)


def decode(case: Case, shared: list[Shared] | None = None, window: int | None = None) -> Tensor:
    contexts = np.array([context for _, context in case.rows], np.int32)
    plan = DecodePlanner(len(contexts), case.heads, SLOW).plan(contexts, shared or [], window)
    assert (plan.prefixes is not None) == bool(shared)
    return decode_attention(case.query, case.cache, decode_work(plan, case.lines))


@pytest.mark.parametrize("window", [None, 1, 127, 128, 300])
def test_decoding_in_pieces_gives_what_one_pass_gives(window: int | None) -> None:
    case = make_case([(1, context) for context in (1, 1000, 2, 129, 0, 400, 128, 5)])
    check(decode(case, window=window), case, window)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_every_head_size_and_type_decodes(head_dim: int, dtype: torch.dtype) -> None:
    case = make_case([(1, 600), (1, 33)], head_dim=head_dim, dtype=dtype, heads=(4, 1))
    check(decode(case), case)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_float8_cache_is_read_with_its_scales(dtype: torch.dtype) -> None:
    case = make_case([(5, 70), (20, 20)], dtype=dtype, float8=True)
    check(extend_attention(case.query, case.cache, case.extend_work()), case)
    case = make_case([(1, 520), (1, 502)], dtype=dtype, float8=True, prefix=500)
    check(decode(case), case)
    check(decode(case, [Shared([0, 1], 500)]), case)


@pytest.mark.parametrize(("dtype", "window"), [(torch.float32, 1300), (torch.bfloat16, None)], ids=str)
def test_a_shared_prefix_is_read_once_and_changes_nothing(dtype: torch.dtype, window: int | None) -> None:
    contexts = [700 + extra for extra in (1, 200, 7, 1, 64)]
    case = make_case([(1, context) for context in contexts], prefix=700, dtype=dtype)
    check(decode(case, [Shared([0, 1, 2, 4], 700)], window), case, window)


def test_more_rows_than_a_tile_has_may_share_a_prefix() -> None:
    case = make_case([(1, 402 + row % 3) for row in range(20)], prefix=400, heads=(4, 1))
    assert len(case.rows) - 1 > case.heads.tokens_per_tile
    check(decode(case, [Shared([*range(9), *range(10, 20)], 400)]), case)


def test_groups_of_their_own_prefixes_decode_together() -> None:
    case = make_case([(1, 700), (1, 650), (1, 3), (1, 640), (1, 601)], prefix=600)
    check(decode(case, [Shared([0, 4], 600), Shared([1, 3], 577)]), case)


def test_nothing_is_launched_for_no_tokens() -> None:
    case = make_case([(0, 5)])
    assert extend_attention(case.query, case.cache, case.extend_work()).shape == case.query.shape


def test_a_row_has_the_same_bits_among_1_7_and_64_where_that_is_asked_for() -> None:
    contexts = [1 + 7 * row % 30 for row in range(64)]
    contexts[5] = 140
    case = make_case([(1, context) for context in contexts], dtype=torch.bfloat16, heads=(2, 1))
    found: list[Tensor] = []
    for rows in ([5], [1, 9, 3, 5, 40, 2, 63], range(64)):
        chosen = list(rows)
        some = Case([case.rows[row] for row in chosen], case.heads, case.query[chosen], case.cache, case.lines[chosen])
        got = extend_attention(some.query, some.cache, some.extend_work(), uniform=True)
        found.append(got[chosen.index(5)])
    assert all(torch.equal(bits, found[0]) for bits in found)
    torch.testing.assert_close(found[0].double(), case.expected()[5], rtol=0, atol=TOLERANCE[torch.bfloat16])


def test_a_chunk_gives_the_bits_that_the_whole_prompt_gives_where_that_is_asked_for() -> None:
    case = make_case([(200, 200)], dtype=torch.bfloat16, heads=(4, 2))
    whole = extend_attention(case.query, case.cache, case.extend_work(), uniform=True)
    for start, end in ((0, 1), (1, 150), (150, 200)):
        part = make_case([(end - start, end)], dtype=torch.bfloat16, heads=(4, 2))
        got = extend_attention(case.query[start:end], case.cache, part.extend_work(), uniform=True)
        assert torch.equal(got, whole[start:end])
