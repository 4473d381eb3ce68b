"""On a real GPU: the device's path says what the CPU's says, compiles nothing late, and repeats itself to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.runner import ModelRunner
from stolon.runtime.sequence import Sequence, SharedPrefix
from tests.runtime.families import FAMILIES, VOCAB, Driver, make_family, make_runner, random_prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SCHEDULER = SchedulerConfig(token_budget=1024, max_running_requests=64)
NEW = 6


def make(folder: Path, **settings: Any) -> ModelRunner:
    config = EngineConfig(
        model_path=str(folder), device="cuda", **{"kv_tokens": 16384, "scheduler": SCHEDULER, **settings}
    )
    return ModelRunner(config)


def generate(runner: ModelRunner) -> list[list[int]]:
    driver = Driver(runner)
    prompts = random_prompts([1, 3, 40, 333, 12, 13])
    rows = [
        driver.sequence(prompt, room=20, seed=i, temperature=[0.0, 1.0][i % 2], top_p=0.9)
        for i, prompt in enumerate(prompts)
    ]
    return driver.generate(rows, 20, chunk=64)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_text_is_that_of_the_cpu_in_float32(tmp_path: Path, family: str) -> None:
    make_family(family, tmp_path)
    expected = generate(make_runner(tmp_path, device="cpu"))
    assert generate(make(tmp_path)) == expected
    assert generate(make(tmp_path, cuda_graph=False)) == expected


def test_nothing_is_compiled_after_ready(tmp_path: Path) -> None:
    from triton import knobs

    make_family("qwen3", tmp_path, head_dim=32)
    runner = make(tmp_path, dtype="bfloat16")
    compiled: list[str] = []

    def note(*, repr: str, **_: Any) -> None:
        compiled.append(repr)

    knobs.runtime.jit_post_compile_hook = note
    try:
        generate(runner)
        driver = Driver(runner)
        (prefix,) = random_prompts([900])
        first = driver.sequence(prefix, room=4)
        driver.step([first])
        forks = [driver.sequence([*prefix, i], room=4, prefix=first, shared=900) for i in range(30)]
        driver.step(forks)
        driver.step(forks, shared=[SharedPrefix(list(range(30)), 900)])
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert compiled == []


def test_a_step_is_one_copy_to_the_device(tmp_path: Path) -> None:
    """By CUDA's own trace; `test_device_copies` counts them where there is no GPU."""
    from torch.profiler import ProfilerActivity, profile

    make_family("qwen3", tmp_path, head_dim=32)
    driver = Driver(make(tmp_path, dtype="bfloat16"))
    wishes: list[dict[str, Any]] = [
        {},
        {"logit_bias": ((5, 3.0),), "min_tokens": 9},
        {"repetition_penalty": 1.2, "logprobs": 4, "logprob_token_ids": (7,)},
    ]
    prompts = random_prompts([20, 3, 40])
    rows = [driver.sequence(prompt, room=4, **asked) for prompt, asked in zip(prompts, wishes, strict=True)]
    driver.step(rows)
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        driver.step(rows)
        torch.cuda.synchronize()
    assert len([event for event in trace.events() or () if "HtoD" in event.name]) == 1


EVERY: dict[str, Any] = {"logprobs": 0, "logprob_token_ids": tuple(range(VOCAB)), "temperature": 1.0, "seed": 3}


def follow(driver: Driver, watched: Sequence, others: list[Sequence]) -> list[list[float]]:
    found: list[list[float]] = []
    while watched.num_output < NEW:
        result = driver.step([*others, watched])[-1]
        if result.logprob is not None:
            found.append([value for _, value in result.logprob.extra])
    return found


def test_deterministic_logits_have_the_same_bits_at_batch_1_7_and_64_cold_and_warm(tmp_path: Path) -> None:
    make_family("qwen3", tmp_path, head_dim=32)
    runner = make(tmp_path, dtype="bfloat16", deterministic=True)
    (prompt,) = random_prompts([300])
    found: list[list[list[float]]] = []
    for batch in (1, 7, 64):
        driver = Driver(runner, seed=batch)
        watched = driver.sequence(prompt, room=NEW, **EVERY)
        others = [
            driver.sequence(p, room=NEW + 2) for p in random_prompts([1 + 7 * i % 9 for i in range(batch - 1)], 5)
        ]
        found.append(follow(driver, watched, others))
        again = driver.sequence(prompt, room=NEW, prefix=watched, shared=299, **EVERY)
        found.append(follow(driver, again, []))
    assert all(bits == found[0] for bits in found)
