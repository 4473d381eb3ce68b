"""The plain forms of paged attention against each token alone in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stolon.kernels.attention_plan import DecodePlanner, Shared
from stolon.kernels.reference_attention import decode_attention, extend_attention
from tests.kernels.attention_cases import H200, SLOW, TOLERANCE, decode_work, make_case

RAGGED = [(1, 1), (40, 40), (0, 7), (5, 33), (0, 0), (64, 200), (1, 90), (17, 17)]


@pytest.mark.parametrize("window", [None, 1, 16, 500])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_new_tokens_attend_causally_to_their_own_sequence(dtype: torch.dtype, window: int | None) -> None:
    case = make_case(RAGGED, dtype=dtype)
    got = extend_attention(case.query, case.cache, case.extend_work(), window=window, scale=0.2)
    torch.testing.assert_close(got.double(), case.expected(window, 0.2), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("window", [None, 1, 300])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_decoding_in_pieces_gives_what_one_pass_gives(dtype: torch.dtype, window: int | None) -> None:
    contexts = [1, 1000, 2, 129, 400, 128, 5]
    case = make_case([(1, context) for context in contexts], dtype=dtype)
    plan = DecodePlanner(len(contexts), case.heads, H200).plan(np.array(contexts, np.int32), window=window)
    assert (plan.items[:, 3] >= 0).any() or window == 1
    got = decode_attention(case.query, case.cache, decode_work(plan, case.lines))
    torch.testing.assert_close(got.double(), case.expected(window), rtol=0, atol=TOLERANCE[dtype])


def test_a_shared_prefix_is_read_once_and_changes_nothing() -> None:
    contexts = [1000 + extra for extra in (1, 200, 7, 1, 64, 3)]
    case = make_case([(1, context) for context in contexts], prefix=1000, float8=True)
    shared = [Shared([0, 1, 2, 4, 5], 1000)]
    plan = DecodePlanner(len(contexts), case.heads, SLOW).plan(np.array(contexts, np.int32), shared)
    assert plan.prefixes is not None
    got = decode_attention(case.query, case.cache, decode_work(plan, case.lines))
    torch.testing.assert_close(got.double(), case.expected(), rtol=0, atol=1e-5)


def test_a_row_without_positions_gets_zeros() -> None:
    case = make_case([(1, 10), (1, 0), (1, 3)])
    plan = DecodePlanner(3, case.heads, H200).plan(np.array([10, 0, 3], np.int32))
    got = decode_attention(case.query, case.cache, decode_work(plan, case.lines))
    assert not got[1].any()
    assert got[[0, 2]].isfinite().all()
