"""`deterministic`: the same bits for a request alone, among others, in chunks, with its prompt cached or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stolon.lang.errors import InvalidRequest
from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.models.linear import packing_works
from stolon.runtime.runner import ModelRunner
from stolon.runtime.sequence import Sequence
from tests.runtime.families import VOCAB, Driver, make_family, random_prompts

Bits = list[list[float]]
NEW = 5
SCHEDULER = SchedulerConfig(token_budget=700, max_running_requests=64)


def make(folder: Path, **settings: Any) -> ModelRunner:
    config = EngineConfig(
        model_path=str(folder),
        **{"kv_tokens": 16384, "deterministic": True, "device": "cpu", "scheduler": SCHEDULER, **settings},
    )
    return ModelRunner(config)


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen3"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    folder = tmp_path_factory.mktemp(request.param)
    make_family(request.param, folder)
    return make(folder)


EVERY: dict[str, Any] = {"logprobs": 0, "logprob_token_ids": tuple(range(VOCAB)), "temperature": 1.0, "seed": 3}


def follow(driver: Driver, watched: Sequence, others: list[Sequence], *, chunk: int = 1 << 30) -> Bits:
    """Log-probabilities of all tokens at every draw of `watched`; the others compute beside it, before and behind."""
    found: Bits = []
    while watched.num_output < NEW:
        rows = [*others[: len(others) // 2], watched, *others[len(others) // 2 :]]
        result = driver.step(rows, chunk=chunk)[len(others) // 2]
        if result.logprob is not None:
            found.append([value for _, value in result.logprob.extra])
    return found


def alone(runner: ModelRunner, prompt: list[int]) -> tuple[Driver, Sequence, Bits]:
    driver = Driver(runner)
    watched = driver.sequence(prompt, room=NEW, **EVERY)
    return driver, watched, follow(driver, watched, [])


@pytest.mark.parametrize("length", [1, 70, 333])
@pytest.mark.parametrize("batch", [7, 64])
def test_the_batch_changes_no_bit(runner: ModelRunner, batch: int, length: int) -> None:
    (prompt,) = random_prompts([length], seed=length)
    _, _, expected = alone(runner, prompt)
    driver = Driver(runner, seed=1)
    watched = driver.sequence(prompt, room=NEW, **EVERY)
    # the others' rooms are small: what they need is slots for the few steps that there are
    others = [driver.sequence(p, room=NEW + 2) for p in random_prompts([1 + 7 * i % 9 for i in range(batch - 1)], 5)]
    assert follow(driver, watched, others) == expected


@pytest.mark.parametrize("chunk", [1, 13, 64])
def test_how_a_prompt_is_cut_changes_no_bit(runner: ModelRunner, chunk: int) -> None:
    (prompt,) = random_prompts([150], seed=4)
    _, _, expected = alone(runner, prompt)
    driver = Driver(runner, seed=2)
    assert follow(driver, driver.sequence(prompt, room=NEW, **EVERY), [], chunk=chunk) == expected


@pytest.mark.parametrize("cached", [1, 17, 64, 149])
def test_a_warm_cache_changes_no_bit(runner: ModelRunner, cached: int) -> None:
    (prompt,) = random_prompts([150], seed=4)
    driver, first, expected = alone(runner, prompt)
    again = driver.sequence(prompt, room=NEW, prefix=first, shared=cached, **EVERY)
    assert follow(driver, again, []) == expected


def test_what_was_generated_is_as_good_as_what_was_read(runner: ModelRunner) -> None:
    """A next turn finds the answer's keys and values in the cache, where each was computed by itself."""
    (prompt,) = random_prompts([40], seed=6)
    driver, first, _ = alone(runner, prompt)
    turn = list(first.tokens) + random_prompts([20], seed=7)[0]
    warm = driver.sequence(turn, room=NEW, prefix=first, shared=len(first.tokens) - 1, **EVERY)
    assert follow(driver, warm, []) == alone(runner, turn)[2]


def test_it_is_refused_where_it_would_not_hold(tmp_path: Path) -> None:
    make_family("llama", tmp_path)
    with pytest.raises(InvalidRequest, match="one thread"):
        make(tmp_path, threads=2)
    with pytest.raises(InvalidRequest, match="fp8 needs a GPU"):
        make(tmp_path, quantization="fp8")
    with pytest.raises(InvalidRequest, match="fp8_e4m3 needs a GPU"):
        make(tmp_path, kv_cache_dtype="fp8_e4m3")


def test_bfloat16_and_int8_hold_as_well(tmp_path: Path) -> None:
    make_family("llama", tmp_path)
    (prompt, *others) = random_prompts([50, 3, 9, 4, 7, 1, 2])
    kinds: list[dict[str, Any]] = [{"dtype": "bfloat16"}] if packing_works(torch.bfloat16) else []
    for settings in (*kinds, {"dtype": "bfloat16", "quantization": "int8"}):
        runner = make(tmp_path, **settings)
        _, _, expected = alone(runner, prompt)
        driver = Driver(runner)
        watched = driver.sequence(prompt, room=NEW, **EVERY)
        assert follow(driver, watched, [driver.sequence(p, room=12) for p in others], chunk=13) == expected
