"""Nothing is compiled after "ready": the warm-up launches every variant of every kernel that a step can ask for.

There is no GPU here, and none is needed: launches of Triton's kernels are noted instead of done, by what makes Triton
compile one anew, and the plain forms compute in their place.
"""

from __future__ import annotations

import dataclasses
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from stolon.kernels.choose import Operators, operators
from stolon.runtime import device_runner
from stolon.runtime.accelerator import HostAccelerator
from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.runner import ModelRunner
from stolon.runtime.sequence import ANYTHING, Masks, Plan, Row, Sequence, SharedPrefix
from tests.runtime.families import Driver, make_family, random_prompts

interpreter = pytest.importorskip("triton.runtime.interpreter", reason="needs Triton, of the extra `gpu`")

Variant = tuple[str, tuple[Any, ...]]


def kind(value: Any) -> Any:
    """What Triton looks at when it decides whether it has compiled for an argument like this."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.data_ptr() % 16 == 0
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return type(value)
    if isinstance(value, int):
        return "1" if value == 1 else ("int", value % 16 == 0, abs(value) >= 1 << 31)
    return value


@contextmanager
def noted(variants: set[Variant]) -> Iterator[None]:
    """Instead of launching kernels, add which variant of them would run."""

    def note(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        parameters = inspect.signature(self.fn).parameters
        named = dict(zip(parameters, args, strict=False)) | kwargs
        for name in self.kwargs["do_not_specialize"] or ():
            named[name] = type(named[name])
        facts = [
            (name, value if name not in parameters or "constexpr" in str(parameters[name].annotation) else kind(value))
            for name, value in sorted(named.items())
        ]
        variants.add((self.fn.__name__, tuple(facts)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "run", note)
        yield


def with_notes(deterministic: bool) -> Operators:
    """Triton's operators, of which only the launches happen, then the plain ones."""

    def both(triton: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
        def operate(*args: Any, **kwargs: Any) -> Any:
            triton(*args, **kwargs)
            return plain(*args, **kwargs)

        return operate

    fast, plain = operators("cuda", deterministic=deterministic), operators("cpu")
    names = [field.name for field in dataclasses.fields(Operators)]
    return Operators(**{name: both(getattr(fast, name), getattr(plain, name)) for name in names})


SCHEDULER = SchedulerConfig(token_budget=80, max_running_requests=20)
PARAMS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 40},
    {"temperature": 1.1, "min_p": 0.02},
    {"temperature": 1.0, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
    {"presence_penalty": 0.3},
    {"logit_bias": ((5, 3.0), (7, -100.0))},
    {"min_tokens": 9, "stop_token_ids": (9,)},
    {"logprobs": 3, "logprob_token_ids": (3, 4)},
    {"logprobs": 0},
    {"logprobs": 1},
    {"logprobs": 16},
    {"prompt_logprobs": 2},
]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"deterministic": True},
        {"dtype": "bfloat16", "quantization": "fp8", "kv_cache_dtype": "fp8_e4m3"},
    ],
    ids=str,
)
def test_no_step_needs_a_kernel_that_the_warm_up_did_not(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    make_family("qwen3", tmp_path, head_dim=32)

    def choose(_device: str, *, deterministic: bool = False) -> Operators:
        return with_notes(deterministic)

    monkeypatch.setattr(device_runner, "operators", choose)
    config = EngineConfig(model_path=str(tmp_path), kv_tokens=4096, scheduler=SCHEDULER, **settings)
    variants: set[Variant] = set()
    with noted(variants):
        runner = ModelRunner(config, accelerator=HostAccelerator())
    assert len({name for name, _ in variants}) >= 8
    later: set[Variant] = set()
    with noted(later):
        work(runner)
    assert later
    fresh = sorted(f"{name} {facts}" for name, facts in later - variants)
    assert fresh == []


def work(runner: ModelRunner) -> None:
    """Steps of every kind, at random: of many and few rows, with prompts in pieces, wishes, masks, shared prefixes."""
    rng = random.Random(0)
    for _ in range(8):
        driver = Driver(runner, seed=rng.randrange(100))
        count = rng.choice([1, 2, 3, 5, 16, 17, 20])
        prompts = random_prompts(
            [rng.choice([1, 2, 9, 16, 31, 64, 100]) for _ in range(count)], seed=rng.randrange(100)
        )
        rows = [driver.sequence(p, room=9, seed=i, **rng.choice(PARAMS)) for i, p in enumerate(prompts)]
        masked = rng.random() < 0.4
        for _ in range(9):
            step(runner, [s for s in rows if s.num_output < 8], rng, masked=masked)
    driver = Driver(runner)
    (prefix,) = random_prompts([500])
    first = driver.sequence(prefix, room=4)
    driver.step([first], chunk=80)
    while first.num_output < 1:
        driver.step([first], chunk=80)
    forks = [driver.sequence([*prefix, i], room=4, prefix=first, shared=500) for i in range(10)]
    driver.step(forks)
    for _ in range(3):
        driver.step(forks, shared=[SharedPrefix(list(range(10)), 500)])


def step(runner: ModelRunner, sequences: list[Sequence], rng: random.Random, *, masked: bool) -> None:
    """Within the budget of tokens, which the rows share as they come."""
    plan, left = Plan([]), 80
    for s in sequences:
        length = min(len(s.tokens) - s.computed, rng.choice([1, 7, 32, 64]), left)
        if length:
            plan.rows.append(Row(s, s.computed, length, s.computed + length == len(s.tokens)))
            left -= length
    launched = runner.launch(plan)
    masks = None
    sampling = [i for i, row in enumerate(plan.rows) if row.samples]
    if masked and sampling:
        chosen = sampling[:: rng.choice([1, 2])]
        masks = Masks(chosen, runner.mask_bits(len(chosen)))
        masks.bits[:] = ANYTHING
    launched.sample(masks)
    for row, result in zip(plan.rows, launched.results(), strict=True):
        row.sequence.computed += row.length
        if result.token is not None:
            row.sequence.tokens.append(result.token)
