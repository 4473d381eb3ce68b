"""The plain sampler against rules written out for one row, and against the CPU's own sampler."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from stolon.kernels.drawing import Allowed, Bias, Draws, Penalties
from stolon.kernels.reference_sample import filter_floors, sample, scale_logits, top_logprobs
from stolon.lang.types import SamplingParams
from stolon.runtime import sampler
from tests.kernels.drawing_cases import FILTERS, make_allowed, make_bias, make_draws, make_logits, make_penalties

VOCAB = 500


@pytest.mark.parametrize("seed", range(5))
def test_floors_are_those_of_the_cpu_sampler(seed: int) -> None:
    draws = make_draws()
    scaled = make_logits(len(FILTERS), VOCAB, seed=seed)
    params = [SamplingParams(temperature=t, top_k=k, top_p=p, min_p=m) for t, k, p, m in FILTERS]
    torch.testing.assert_close(filter_floors(scaled, draws), sampler.filter_floors(scaled, params))


def test_edits_come_in_order_penalties_bias_mask_temperature() -> None:
    raw = torch.tensor([[2.0, -2.0, 1.0, 0.5, 3.0]])
    draws = Draws(
        temperature=torch.tensor([0.5]),
        top_k=torch.zeros(1, dtype=torch.int32),
        top_p=torch.ones(1),
        min_p=torch.zeros(1),
        keys=torch.zeros(1, 2, dtype=torch.int32),
        penalties=Penalties(
            repetition=torch.tensor([2.0]),
            frequency=torch.tensor([0.25]),
            presence=torch.tensor([0.5]),
            # once in the prompt, three times in the output, both, neither
            counts=torch.tensor([[1, 6, 3, 0, 0]], dtype=torch.int32),
            lines=torch.zeros(1, dtype=torch.int32),
        ),
        bias=Bias(
            firsts=torch.tensor([0, 3], dtype=torch.int32),
            tokens=torch.tensor([3, 0, 3], dtype=torch.int32),
            values=torch.tensor([1.0, 4.0, 0.5]),
        ),
        allowed=Allowed(torch.tensor([[0b01111]], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)),
    )
    expected = [2.0 / 2 + 4, -2.0 * 2 - 3 * 0.25 - 0.5, 1.0 / 2 - 0.25 - 0.5, 0.5 + 1.5, -math.inf]
    assert scale_logits(raw, draws).tolist() == [[value / 0.5 for value in expected]]


def test_what_is_drawn_is_allowed_counted_and_told_by_the_logits_as_they_came() -> None:
    rows = len(FILTERS)
    logits = make_logits(rows, VOCAB)
    penalties, allowed = make_penalties(rows, VOCAB), make_allowed(rows, VOCAB)
    draws = replace(make_draws(), penalties=penalties, bias=make_bias(rows, VOCAB), allowed=allowed)
    before = penalties.counts.clone()
    drawn = sample(logits, draws)
    expected = logits.double().log_softmax(1).gather(1, drawn.tokens.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(drawn.logprobs.double(), expected, rtol=0, atol=1e-5)
    for row, token in enumerate(drawn.tokens.tolist()):
        line = int(allowed.lines[row])
        assert line < 0 or int(allowed.bits[line, token // 32]) >> (token % 32) & 1
        if penalties.lines[row] >= 0:
            before[penalties.lines[row], token] += 2
    assert torch.equal(penalties.counts, before)
    values, ids = top_logprobs(logits, drawn.normalizers, 5)
    assert torch.equal(ids[:, 0], logits.argmax(1))
    assert torch.equal(values, values.sort(1, descending=True).values)


def test_a_bad_row_gets_no_token_and_harms_no_other() -> None:
    logits = make_logits(len(FILTERS), VOCAB)
    draws = make_draws()
    good = sample(logits, draws)
    logits = logits.clone()
    logits[0, 7] = math.nan
    logits[3, 2] = math.inf
    lines = torch.full((len(FILTERS),), -1, dtype=torch.int32)
    lines[5] = 0
    nothing = Allowed(torch.zeros(1, -(-VOCAB // 32), dtype=torch.int32), lines)
    bad = sample(logits, replace(draws, allowed=nothing))
    fine = [1, 2, 4, 6, 7, 8, 9]
    assert bad.tokens[[0, 3, 5]].tolist() == [-1, -1, -1]
    assert bad.tokens[fine].tolist() == good.tokens[fine].tolist()
    assert bad.normalizers.isfinite().tolist() == [row not in (0, 3) for row in range(len(FILTERS))]
