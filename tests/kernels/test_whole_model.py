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
from stolon.runtime.runner import ModelRunner
from tests.runtime.families import Driver, make_family, random_prompts

NEW = 3


def text_of(folder: Path, **settings: Any) -> list[list[int]]:
    scheduler = SchedulerConfig(token_budget=32, max_running_requests=3)
    config = EngineConfig(
        model_path=str(folder), kv_tokens=512, scheduler=scheduler, context_length=128, cuda_graph=False, **settings
    )
    driver = Driver(ModelRunner(config, accelerator=HostAccelerator()))
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

    # steps of nobody, which compile all kernels before anybody waits: the interpreter has nothing to compile
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
