"""A model whose every operator is Triton's, in the interpreter, says what the plain forms say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stolon.kernels.choose import operators
from stolon.runtime import device_runner
from stolon.runtime.accelerator import HostAccelerator
from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.device_warmup import decode_trial
from stolon.runtime.runner import ModelRunner
from tests.runtime.families import VOCAB, Driver, make_family, random_prompts

NEW = 3


def make(folder: Path, rows: int, **settings: Any) -> ModelRunner:
    config = EngineConfig(
        model_path=str(folder),
        kv_tokens=512,
        scheduler=SchedulerConfig(token_budget=32, max_running_requests=rows),
        context_length=128,
        cuda_graph=False,
        **settings,
    )
    return ModelRunner(config, accelerator=HostAccelerator())


def text_of(folder: Path, **settings: Any) -> list[list[int]]:
    driver = Driver(make(folder, 3, **settings))
    prompts = random_prompts([1, 30, 9])
    params: list[dict[str, Any]] = [
        {},
        {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
        {"temperature": 1.1, "min_p": 0.02, "logit_bias": ((5, 3.0), (7, -100.0))},
    ]
    rows = [
        driver.sequence(prompt, room=NEW, seed=i, **asked)
        for i, (prompt, asked) in enumerate(zip(prompts, params, strict=True))
    ]
    return driver.generate(rows, NEW, chunk=25)


@pytest.fixture
def with_triton(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def choose(_device: str, **settings: Any) -> Any:
        return operators("cuda", **settings)

    # steps of nobody, which measure memory, and compile all kernels before anybody waits: of no use in the interpreter
    monkeypatch.setattr(device_runner, "largest_trial", lambda _: decode_trial(1))
    monkeypatch.setattr(device_runner, "warm_trials", lambda *_: ())
    return lambda: monkeypatch.setattr(device_runner, "operators", choose)


# padding of a batch may hold anything, and the interpreter computes with numpy, which tells of what overflows
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_text_is_that_of_the_plain_forms(
    deterministic: bool, tmp_path: Path, with_triton: Callable[[], None]
) -> None:
    # heads of their own norms, a window in the second layer
    make_family("qwen3", tmp_path)
    expected = text_of(tmp_path)
    with_triton()
    assert text_of(tmp_path, deterministic=deterministic) == expected


EVERY: dict[str, Any] = {"logprobs": 0, "logprob_token_ids": tuple(range(VOCAB)), "temperature": 1.0, "seed": 3}


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_deterministic_logits_have_the_same_bits_alone_and_among_seven_cold_and_warm(
    tmp_path: Path, with_triton: Callable[[], None]
) -> None:
    """Among 64 as well, but that takes minutes here: tests of single kernels, and those on a GPU, look at it."""
    make_family("qwen3", tmp_path, num_hidden_layers=1, layer_types=["full_attention"])
    with_triton()
    driver = Driver(make(tmp_path, 7, dtype="bfloat16", deterministic=True))
    (prompt,) = random_prompts([9])
    alone = driver.sequence(prompt, room=1, **EVERY)
    expected = bits_of(driver, [alone])
    for shared in (0, 8):  # tokens of the prompt that were computed before
        others = [driver.sequence([row], room=1) for row in range(3, 9)]
        again = driver.sequence(prompt, room=1, prefix=alone, shared=shared, **EVERY)
        assert bits_of(driver, [*others[:3], again, *others[3:]]) == expected


def bits_of(driver: Driver, rows: list[Any]) -> list[float]:
    """Log-probabilities of all tokens at the next draw of the one that asks for them."""
    (told,) = [result.logprob for result in driver.step(rows) if result.logprob is not None]
    return [value for _, value in told.extra]
