"""Guesses at next tokens: what is guessed, and that whatever is guessed changes no answer."""

from __future__ import annotations

import itertools
import random
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stolon.lang.types import SamplingParams
from stolon.runtime.config import SchedulerConfig
from stolon.runtime.ngram import LEAST_MATCH, MOST_MATCH, NgramGuesser
from stolon.runtime.sequence import Sequence
from tests.runtime.answers import GREEDY, answer, engine_of
from tests.runtime.test_overlap_answers import Told, all_kinds, host

__all__ = ["host"]  # a fixture


def sequence_of(tokens: list[int], **params: Any) -> Sequence:
    return Sequence(id=1, tokens=array("i", tokens), num_prompt=len(tokens), params=SamplingParams(**params), seed=0)


def guessed(tokens: list[int], most: int = 4, ends: frozenset[int] = frozenset(), **params: Any) -> list[int]:
    return NgramGuesser(ends).guess(sequence_of(tokens, **params), most)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], []),
        ([7], []),
        ([7, 7], []),
        ([1, 2, 3, 4, 2], []),  # one token says too little
        ([1, 2, 3, 4, 5, 6, 1, 2], [3, 4, 5, 6]),
        ([1, 2, 3, 9, 1, 2, 4, 9, 1, 2], [4, 9, 1, 2]),  # of equals the latest
        ([5, 1, 2, 3, 9, 1, 2, 4, 9, 5, 1, 2], [3, 9, 1, 2]),  # but a longer one first
        ([8, 8, 8, 8], [8]),
    ],
)
def test_a_guess_is_what_came_behind_the_same_tokens(tokens: list[int], expected: list[int]) -> None:
    assert guessed(tokens) == expected


def test_no_guess_ends_an_answer() -> None:
    tokens = [1, 2, 3, 4, 5, 1, 2]
    assert guessed(tokens, 4, frozenset({4})) == [3]
    assert guessed(tokens, 4, frozenset({3})) == []
    assert guessed(tokens, 4, stop_token_ids=(5,)) == [3, 4]


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 6))
def test_the_longest_end_that_was_there_before_decides_and_of_equals_the_latest(tokens: list[int], most: int) -> None:
    best = (0, 0)
    for place in range(1, len(tokens)):
        length = 0
        while length < min(place, MOST_MATCH) and tokens[place - 1 - length] == tokens[-1 - length]:
            length += 1
        best = max(best, (length, place))
    expected = tokens[best[1] : best[1] + most] if best[0] >= LEAST_MATCH else []
    assert guessed(tokens, most) == expected


def test_the_tokens_can_grow_behind_a_guess() -> None:
    sequence = sequence_of([1, 2, 3, 1, 2])
    NgramGuesser(frozenset()).guess(sequence, 2)
    sequence.tokens.append(3)  # an array cannot while anybody looks at its memory


class Witness:
    """Guesses nothing, and sees what answers become."""

    seen: list[Sequence]

    def __init__(self, ends: frozenset[int]) -> None:
        Witness.seen = []

    def guess(self, sequence: Sequence, most: int) -> list[int]:
        if sequence not in self.seen:
            self.seen.append(sequence)
        return []


class Oracle:
    """Guesses what a witness has seen, and one time in six something else."""

    truth: dict[tuple[bytes, int], list[int]]

    def __init__(self, ends: frozenset[int]) -> None:
        self._rng = random.Random(3)

    @staticmethod
    def learn() -> None:
        seen = Witness.seen
        Oracle.truth = {_who(sequence): sequence.tokens[sequence.num_prompt :].tolist() for sequence in seen}

    def guess(self, sequence: Sequence, most: int) -> list[int]:
        ahead = self.truth.get(_who(sequence), [])[sequence.num_output :][:most]
        return [self._rng.randrange(3, 250) if self._rng.random() < 1 / 6 else token for token in ahead]


def _who(sequence: Sequence) -> tuple[bytes, int]:
    return sequence.tokens[: sequence.num_prompt].tobytes(), sequence.seed


async def check_all_kinds(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    plain = await all_kinds(checkpoint, **settings)
    monkeypatch.setattr("stolon.runtime.engine.NgramGuesser", Witness)
    check_same(await all_kinds(checkpoint, speculative_algorithm="ngram", **settings), plain)
    Oracle.learn()
    monkeypatch.setattr("stolon.runtime.engine.NgramGuesser", Oracle)
    check_same(await all_kinds(checkpoint, speculative_algorithm="ngram", **settings), plain)


def check_same(found: list[list[Told]], expected: list[list[Told]]) -> None:
    """How many rows a step has changes the last bits of log-probabilities."""
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-3)
        assert replace(one, logprobs=[]) == replace(other, logprobs=[])


@pytest.mark.parametrize(
    "settings",
    [
        {"speculative_rows": 200},
        {"speculative_rows": 200, "jump_forward": False, "speculative_num_draft_tokens": 3},
        {"token_budget": 40, "kv_tokens": 200, "page_size": 4},
    ],
    ids=str,
)
async def test_answers_of_every_kind_are_the_same_with_guesses(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    await check_all_kinds(tiny_checkpoint, monkeypatch, **settings)


@pytest.mark.usefixtures("host")
async def test_answers_of_a_gpu_s_path_are_the_same_with_guesses(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check_all_kinds(tiny_checkpoint, monkeypatch, max_running_requests=16, token_budget=64)


async def test_text_that_repeats_itself_takes_fewer_steps(tiny_checkpoint: Path) -> None:
    prompt = [*range(20, 60), *range(20, 50)]
    told: dict[str, list[int]] = {}
    steps: dict[str, int] = {}
    for algorithm in ("none", "ngram"):
        engine = engine_of(tiny_checkpoint, speculative_algorithm=algorithm)
        params = SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True)
        told[algorithm] = (await answer(engine, prompt, params)).tokens
        counters = engine.scheduler_stats().counters
        steps[algorithm] = counters.steps
        assert counters.confirmed <= counters.guessed
        assert counters.generated == 200
        assert counters.steps == 200 - counters.confirmed
        await engine.close()
    assert told["none"] == told["ngram"]
    assert steps["none"] == 200
    assert steps["ngram"] < 180


async def test_few_guesses_where_they_do_not_come_true(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fool:
        def __init__(self, ends: frozenset[int]) -> None:
            pass

        def guess(self, sequence: Sequence, most: int) -> list[int]:
            return [5] * most

    monkeypatch.setattr("stolon.runtime.engine.NgramGuesser", Fool)
    engine = engine_of(tiny_checkpoint, speculative_algorithm="ngram")
    await answer(engine, [*range(20, 30)], GREEDY)
    counters = engine.scheduler_stats().counters
    assert counters.confirmed == 0
    assert counters.guessed < counters.steps
    await engine.close()


def test_a_step_has_a_row_for_each_request_and_each_guess() -> None:
    assert SchedulerConfig(max_running_requests=4).most_rows == 4
    assert SchedulerConfig(max_running_requests=4, speculative_algorithm="ngram").most_rows == 12
