"""Steps of nobody: to measure what the largest takes, and to have every kernel compiled before anybody waits for it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..lang.types import SamplingParams
from .device_steps import DeviceSteps
from .loading import Setup
from .sequence import ANYTHING, Masks, Plan, Row, Sequence, SharedPrefix

# Everything that changes which kernels a draw needs.
PLAIN = SamplingParams(temperature=0.0)
FILTERED = SamplingParams(temperature=1.0, top_k=40, top_p=0.9, min_p=0.05)
PENALIZED = SamplingParams(temperature=1.0, repetition_penalty=1.1, frequency_penalty=0.1, presence_penalty=0.1)
BIASED = SamplingParams(temperature=1.0, logit_bias=((0, 1.0),))
TOLD = SamplingParams(temperature=1.0, logprobs=5, logprob_token_ids=(0,))
LOOKED_AT = SamplingParams(prompt_logprobs=5, logprob_token_ids=(0,))
EVERYTHING = SamplingParams(
    temperature=1.0,
    top_k=40,
    top_p=0.9,
    min_p=0.05,
    repetition_penalty=1.1,
    logit_bias=((0, 1.0),),
    logprobs=20,
    logprob_token_ids=(0,),
)


@dataclass(slots=True)
class Trial:
    """A plan. constrained: a mask, which allows everything, is there for the first row"""

    plan: Plan
    constrained: bool = False


def run(steps: DeviceSteps, trial: Trial) -> None:
    step = steps.launch(trial.plan)
    masks = None
    if trial.constrained:
        masks = Masks([0], steps.masks.open(1))
        masks.bits[:] = ANYTHING
    step.sample(masks)
    step.results()


def largest_trial(setup: Setup) -> Trial:
    """As many tokens as a step may have, in as many rows, all of which draw with everything that can be asked for."""
    scheduler = setup.config.scheduler
    tokens = min(scheduler.step_tokens, setup.context_length * scheduler.most_rows)
    singles = min(scheduler.most_rows, tokens) - 1
    lengths = [1] * singles
    left = tokens - singles
    # the rows that are left for prompts hold what is left of the tokens
    while left:
        lengths.append(min(left, setup.context_length))
        left -= lengths[-1]
    rows = [_row(i, 0, length, EVERYTHING) for i, length in enumerate(lengths[-scheduler.most_rows :])]
    return Trial(Plan(rows))


def decode_trial(rows: int, start: int = 0, params: SamplingParams = EVERYTHING, shared: int = 0) -> Trial:
    """start: positions before each row's token; shared: how many of them all rows have in common"""
    plan = Plan([_row(i, start, 1, params) for i in range(rows)])
    if shared:
        plan.shared = [SharedPrefix(list(range(rows)), shared)]
    return Trial(plan)


def warm_trials(setup: Setup, num_slots: int) -> Iterator[Trial]:
    """One of every kind of step: by rows and tokens, what draws need, shared prefixes, masks, looks at prompts."""
    scheduler = setup.config.scheduler
    most_rows = min(scheduler.most_rows, scheduler.step_tokens)
    longest = min(setup.context_length, num_slots, scheduler.step_tokens)
    for rows in _sizes(most_rows):
        yield decode_trial(rows)
    for rows in sorted({min(rows, most_rows) for rows in (1, 2, 16, 17)}):
        yield decode_trial(rows, start=min(setup.context_length, num_slots) - 1)
    for params in (PLAIN, FILTERED, PENALIZED, BIASED, TOLD, EVERYTHING):
        yield decode_trial(min(2, most_rows), params=params)
        yield Trial(decode_trial(1, params=params).plan, constrained=True)
    shared = min(setup.context_length, num_slots) - 1
    for rows in sorted({min(rows, most_rows) for rows in (2, 16, 64)}):
        if rows > 1 and shared > 0:
            yield decode_trial(rows, start=shared, shared=shared)
    for length in _sizes(longest):
        yield Trial(Plan([_row(0, 0, length, LOOKED_AT)]))
        if most_rows > 1 and length < scheduler.step_tokens:
            yield Trial(Plan([_row(0, 0, 1, PLAIN), _row(1, 0, length, PLAIN)]))


def _sizes(most: int) -> list[int]:
    """Few, some and many, up to `most`: products of different numbers of rows are cut into different tiles, and whether
    a number is a multiple of 16 makes a kernel of its own."""
    powers = [1 << power for power in range(most.bit_length())]
    return sorted({min(size, most) for power in powers for size in (power, power + 1)} | {most})


def _row(id: int, start: int, length: int, params: SamplingParams) -> Row:
    """Of a sequence of its own, negative id, so that it is nobody's. All lie in the same slots: what they hold is
    overwritten before anybody reads it."""
    end = start + length
    sequence = Sequence(
        id=-1 - id,
        tokens=array("i", bytes(4 * end)),
        num_prompt=end,
        params=params,
        seed=0,
        slots=np.arange(end, dtype=np.int32),
    )
    return Row(sequence, start, length, samples=True)
