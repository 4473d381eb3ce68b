"""The sampler against plain references and `transformers`' processors."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from stolon.lang.errors import EngineError, InvalidRequest
from stolon.lang.types import SamplingParams
from stolon.runtime import sampler
from stolon.runtime.sampler import filter_floors, sample
from stolon.runtime.sequence import Row, Sequence

EOS = frozenset({2})
NO_IDS: Any = torch.zeros(0)  # the warpers do not look at them


def make_row(prompt: list[int], output: list[int] | None = None, *, seed: int = 0, **params: Any) -> Row:
    """Of the last token of a sequence."""
    tokens = array("i", prompt + (output or []))
    sequence = Sequence(id=0, tokens=tokens, num_prompt=len(prompt), params=SamplingParams(**params), seed=seed)
    return Row(sequence, len(tokens) - 1, 1, samples=True)


def random_logits(rows: int, vocab: int = 200, seed: int = 0, spread: float = 3.0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def edited(logits: Tensor, drawing: Row) -> Tensor:
    """One row after penalties, bias and the minimum length."""
    row = logits.clone()
    sampler._edit(row, drawing, EOS)
    return row


def test_temperature_zero_takes_the_largest_and_of_equals_the_lowest_id() -> None:
    logits = random_logits(3)
    logits[1, [7, 30]] = 99.0
    results = sample(logits.clone(), [make_row([5], temperature=0.0) for _ in range(3)], EOS)
    assert [r.token for r in results] == [int(logits[0].argmax()), 7, int(logits[2].argmax())]


@pytest.mark.parametrize("penalty", [0.5, 1.3, 2.0])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    (logits,) = random_logits(1)
    row = make_row([3, 4, 4, 9], [11, 11, 3], repetition_penalty=penalty)
    ids = torch.LongTensor([list(row.sequence.tokens)])
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[None].clone())[0]
    assert torch.equal(edited(logits, row), expected)


def test_frequency_and_presence_penalties_count_the_output_only() -> None:
    (logits,) = random_logits(1)
    row = make_row([3, 4, 4, 9], [11, 11, 3], frequency_penalty=0.5, presence_penalty=0.25)
    expected = logits.clone()
    expected[11] -= 0.5 * 2 + 0.25
    expected[3] -= 0.5 + 0.25
    torch.testing.assert_close(edited(logits, row), expected)
    assert torch.equal(edited(logits, make_row([3, 4], frequency_penalty=2.0)), logits)


def test_bias_is_added_and_every_edit_composes_in_the_documented_order() -> None:
    (logits,) = random_logits(1)
    row = make_row(
        [7], [7, 8], repetition_penalty=1.5, presence_penalty=0.5, logit_bias=((7, 2.0), (9, -100.0), (7, 1.0))
    )
    expected = logits.clone()
    for token in (7, 8):
        expected[token] = expected[token] * 1.5 if expected[token] < 0 else expected[token] / 1.5
        expected[token] -= 0.5
    expected[7] += 3.0
    expected[9] -= 100.0
    torch.testing.assert_close(edited(logits, row), expected)


def test_min_tokens_hides_what_would_end_the_answer_until_it_is_long_enough() -> None:
    (logits,) = random_logits(1)
    asked = {"min_tokens": 2, "stop_token_ids": (5, 6)}
    short, long = make_row([1], [3], **asked), make_row([1], [3, 4], **asked)
    assert edited(logits, short).isneginf().nonzero().flatten().tolist() == [2, 5, 6]
    assert torch.equal(edited(logits, long), logits)
    deaf = make_row([1], [3], ignore_eos=True, **asked)
    assert edited(logits, deaf).isneginf().nonzero().flatten().tolist() == [5, 6]


def kept(logits: Tensor, **params: Any) -> Tensor:
    asked = SamplingParams(**params)
    scaled = logits / asked.temperature
    return scaled >= filter_floors(scaled, [asked] * len(scaled)).unsqueeze(1)


@pytest.mark.parametrize("top_k", [1, 2, 50, 199, 200, 5000])
def test_top_k_keeps_what_transformers_keeps(top_k: int) -> None:
    logits = random_logits(20)
    logits[:, 1::2] = logits[:, ::2]  # ties stay together in both
    expected = TopKLogitsWarper(top_k)(NO_IDS, logits.clone()).isfinite()
    assert torch.equal(kept(logits, top_k=top_k), expected)


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_top_p_keeps_what_transformers_keeps(top_p: float, spread: float) -> None:
    logits = random_logits(20, spread=spread)
    expected = TopPLogitsWarper(top_p)(NO_IDS, logits.clone()).isfinite()
    assert torch.equal(kept(logits, top_p=top_p), expected)


@pytest.mark.parametrize("min_p", [0.001, 0.1, 1.0])
def test_min_p_keeps_what_transformers_keeps(min_p: float) -> None:
    logits = random_logits(20)
    expected = MinPLogitsWarper(min_p)(NO_IDS, logits.clone()).isfinite()
    assert torch.equal(kept(logits, min_p=min_p), expected)


def test_filters_apply_one_after_the_other_after_the_temperature() -> None:
    logits = random_logits(50, spread=2.0)
    expected = logits / 0.7
    for warper in (TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.2)):
        expected = warper(NO_IDS, expected)
    got = kept(logits, temperature=0.7, top_k=20, top_p=0.8, min_p=0.2)
    assert torch.equal(got, expected.isfinite())


def test_tokens_as_likely_as_the_last_one_kept_stay_too() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0, 0.0, -1.0]])
    assert kept(logits, top_k=2)[0].tolist() == [True, True, True, True, False]
    assert kept(logits, top_p=0.5)[0].tolist() == [True, True, True, True, False]


def test_a_row_draws_the_same_alone_and_in_any_company() -> None:
    logits = random_logits(40, vocab=3000)
    rows = [
        make_row([1] * (i + 1), seed=i * 7, temperature=0.5 + i / 20, top_p=0.9 if i % 2 else 1.0, top_k=i % 5 * 9)
        for i in range(40)
    ]
    together = [r.token for r in sample(logits.clone(), rows, EOS)]
    alone = [sample(logits[i : i + 1].clone(), [rows[i]], EOS)[0].token for i in range(40)]
    assert together == alone
    assert len(set(together)) > 20


def test_the_next_position_and_another_seed_draw_anew() -> None:
    logits = torch.zeros(1, 1000)
    drawn = {
        sample(logits.clone(), [make_row([1] * length, seed=seed)], EOS)[0].token
        for length in range(1, 30)
        for seed in range(3)
    }
    assert len(drawn) > 70


def test_a_row_that_is_not_numbers_fails_alone() -> None:
    logits = random_logits(4)
    logits[1, 5] = math.nan
    logits[2, 5] = math.inf
    results = sample(logits.clone(), [make_row([1], temperature=i % 2, logprobs=1) for i in range(4)], EOS)
    for i in (1, 2):
        error = results[i].error
        assert isinstance(error, EngineError)
        assert error.code == "nan_logits"
        assert results[i].token is None
    healthy = sample(logits[[0, 3]].clone(), [make_row([1], temperature=i) for i in (0, 1)], EOS)
    assert [results[0].token, results[3].token] == [r.token for r in healthy]
    assert results[0].error is None
    assert results[0].logprob is not None


HUGE = 1e-300, 1e-40, 1e-38, 1e38, 1e39, 1e300


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 5, "min_p": 0.1}])
def test_no_temperature_and_no_penalty_is_too_large_or_small_to_draw_with(filters: dict[str, Any]) -> None:
    """Neither for its own row nor for those beside it."""
    logits = random_logits(1).expand(2 * len(HUGE) + 1, -1)
    likeliest, *seen = logits[0].topk(4).indices.tolist()
    rows = [make_row([1], [9], temperature=value, min_tokens=5, **filters) for value in HUGE]
    rows += [make_row(seen, temperature=1e-300, repetition_penalty=value, **filters) for value in HUGE]
    rows.append(make_row(seen, temperature=0.0))
    results = sample(logits.clone(), rows, EOS)
    assert [r.error for r in results] == [None] * len(rows)
    tokens = [r.token for r in results]
    assert tokens[:3] == [likeliest] * 3
    assert tokens[-1] == likeliest
    assert EOS.isdisjoint(set(tokens[: len(HUGE)]))
    # a reward lifts what was seen above all else
    assert tokens[len(HUGE) : len(HUGE) + 3] == [seen[0]] * 3


def test_a_row_of_which_no_token_may_come_before_min_tokens_fails_alone() -> None:
    rows = [make_row([1], min_tokens=1, stop_token_ids=tuple(range(200)), top_p=0.9), make_row([1])]
    stuck, free = sample(random_logits(2), rows, EOS)
    assert isinstance(stuck.error, EngineError)
    assert stuck.error.code == "no_token_allowed"
    assert (stuck.token, free.error) == (None, None)


@pytest.mark.parametrize("params", [{"logit_bias": ((200, 1.0),)}, {"logprob_token_ids": (-1,)}])
def test_a_token_outside_the_vocabulary_fails_its_row_alone(params: dict[str, Any]) -> None:
    bad, good = sample(random_logits(2), [make_row([1], **params), make_row([1])], EOS)
    assert isinstance(bad.error, InvalidRequest)
    assert "[0, 200)" in str(bad.error)
    assert good.token is not None


def test_logprobs_are_of_the_models_own_logits() -> None:
    logits = random_logits(2)
    expected = logits.double().log_softmax(-1)
    edits = {"temperature": 0.3, "top_k": 3, "logit_bias": ((17, 50.0),), "repetition_penalty": 1.7}
    asked = make_row([1, 2], logprobs=4, logprob_token_ids=(9, 0), **edits)
    first, second = sample(logits.clone(), [asked, make_row([1], temperature=0.0, logprobs=0)], EOS)
    assert first.token == 17
    assert first.logprob is not None
    assert first.logprob.token == 17
    assert first.logprob.logprob == pytest.approx(expected[0, 17].item(), abs=1e-5)
    best = expected[0].topk(4)
    assert [token for token, _ in first.logprob.top] == best.indices.tolist()
    assert [value for _, value in first.logprob.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert dict(first.logprob.extra) == pytest.approx({9: expected[0, 9].item(), 0: expected[0, 0].item()}, abs=1e-5)
    assert second.logprob is not None
    assert second.logprob.top == ()
    assert second.logprob.logprob == pytest.approx(expected[1].max().item(), abs=1e-5)


# -- constraints


def bits_of(tokens: list[int], vocab: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    bits = np.zeros(-(-vocab // 32), np.uint32)
    for token in tokens:
        bits[token // 32] |= np.uint32(1 << token % 32)
    return bits.view(np.int32)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constrained_row_draws_what_is_allowed_and_others_what_they_would(temperature: float) -> None:
    logits = random_logits(3)
    rows = [make_row([1], seed=i, temperature=temperature) for i in range(3)]
    free = [r.token for r in sample(logits.clone(), rows, EOS)]
    allowed = [31, 63, 64, 199]
    masked = [r.token for r in sample(logits.clone(), rows, EOS, {1: bits_of(allowed, 200)})]
    left = torch.full((200,), -1e6)
    left[allowed] = logits[1, allowed]
    alone = sample(left[None], [rows[1]], EOS)[0].token if temperature else int(left.argmax())
    assert masked == [free[0], alone, free[2]]


def test_no_bias_brings_back_what_is_not_allowed_or_beyond_the_mask() -> None:
    biased = make_row([1], temperature=0.0, logit_bias=((5, 100.0), (150, 90.0)), repetition_penalty=0.1)
    (result,) = sample(random_logits(1), [biased], EOS, {0: bits_of([7, 9], 64)})
    assert result.token in (7, 9)


def test_a_row_that_may_draw_nothing_fails_alone() -> None:
    rows = [make_row([1], min_tokens=3), make_row([1])]
    stuck, free = sample(random_logits(2), rows, EOS, {0: bits_of([2], 200)})
    assert isinstance(stuck.error, EngineError)
    assert stuck.error.code == "no_token_allowed"
    assert (stuck.token, free.error) == (None, None)


def test_log_probabilities_of_a_constrained_row_are_the_model_s_own() -> None:
    logits = random_logits(1)
    (result,) = sample(logits.clone(), [make_row([1], logprobs=2)], EOS, {0: bits_of([3], 200)})
    assert result.logprob is not None
    assert (result.token, result.logprob.logprob) == (3, pytest.approx(float(logits[0].log_softmax(0)[3])))
