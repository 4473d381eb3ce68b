"""How often a step copies to the device: once, and once more for what can only be known while it computes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from stolon.runtime import device_wishes
from stolon.runtime.accelerator import HostAccelerator
from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.runner import ModelRunner
from stolon.runtime.sequence import ANYTHING, Masks, Plan, Row, Sequence
from tests.runtime.families import VOCAB, Driver, make_family, random_prompts

SCHEDULER = SchedulerConfig(token_budget=64, max_running_requests=12)


class Watched(HostAccelerator):
    """Knows its host buffers again; none is freed, so that nothing else comes to lie in their place."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[torch.Tensor] = []

    def host_bytes(self, count: int) -> torch.Tensor:
        self._buffers.append(super().host_bytes(count))
        return self._buffers[-1]

    def holds(self, tensor: Any) -> bool:
        if not isinstance(tensor, torch.Tensor) or not tensor.numel():
            return False
        at = tensor.data_ptr()
        return any(b.data_ptr() <= at < b.data_ptr() + len(b) for b in self._buffers)


class Copies(TorchFunctionMode):
    """Counts what would be a copy on a GPU: into or out of host buffers, and tensors made of the runtime's lists."""

    def __init__(self, accelerator: Watched) -> None:
        super().__init__()
        self.to_device = self.to_host = 0
        self._accelerator = accelerator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_:
            self.to_device += self._accelerator.holds(args[1])
            self.to_host += self._accelerator.holds(args[0])
        return func(*args, **(kwargs or {}))

    def made(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            self.to_device += sys._getframe(1).f_globals["__name__"].startswith("stolon.runtime")
            return original(*args, **kwargs)

        return make


@contextmanager
def counted(accelerator: Watched) -> Iterator[Copies]:
    copies = Copies(accelerator)
    with pytest.MonkeyPatch.context() as patch, copies:
        for name in ("tensor", "as_tensor", "from_numpy"):
            patch.setattr(torch, name, copies.made(getattr(torch, name)))
        yield copies


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watched, ModelRunner]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("llama")
    make_family("llama", folder)
    accelerator = Watched()
    config = EngineConfig(model_path=str(folder), kv_tokens=4096, scheduler=SCHEDULER)
    return accelerator, ModelRunner(config, accelerator=accelerator)


def one_step(watched: tuple[Watched, ModelRunner], plan: Plan, constrained: list[int]) -> tuple[int, int]:
    """Copies of one step, to the device and back."""
    accelerator, runner = watched
    with counted(accelerator) as copies:
        step = runner.launch(plan)
        masks = None
        if constrained:
            masks = Masks(constrained, runner.mask_bits(len(constrained)))
            masks.bits[:] = ANYTHING
        step.sample(masks)
        results = step.results()
    assert all((result.token is not None) == row.samples for row, result in zip(plan.rows, results, strict=True))
    return copies.to_device, copies.to_host


def rows_of(driver: Driver, *params: dict[str, Any]) -> list[Sequence]:
    """Sequences of different lengths, the first one a prompt that is not computed."""
    prompts = random_prompts([20, 1, 9, 30][: len(params)])
    return [driver.sequence(prompt, room=4, **own) for prompt, own in zip(prompts, params, strict=True)]


BIAS: dict[str, Any] = {"logit_bias": ((5, 3.0), (7, -100.0)), "min_tokens": 9}
PENALTIES: dict[str, Any] = {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "temperature": 1.0}
TOLD: dict[str, Any] = {"logprobs": 4, "logprob_token_ids": (3, VOCAB - 1), "top_p": 0.9}
LOOKED_AT: dict[str, Any] = {"prompt_logprobs": 3, "logprob_token_ids": (8,)}


@pytest.mark.parametrize(
    "params",
    [({},), ({}, BIAS, PENALTIES, TOLD), (LOOKED_AT, PENALTIES | BIAS, LOOKED_AT | TOLD | BIAS)],
    ids=["plain", "bias, penalties, log-probabilities", "and those of prompts"],
)
@pytest.mark.parametrize(("constrained", "copies"), [([], 1), ([0], 2), ([2, 0], 2)], ids=str)
def test_a_step_is_one_copy_and_a_constrained_one_is_two(
    watched: tuple[Watched, ModelRunner],
    params: tuple[dict[str, Any], ...],
    constrained: list[int],
    copies: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The prompts, and then a step that a graph computes."""
    monkeypatch.setattr(device_wishes, "CHUNK_ITEMS", 7 * VOCAB)  # so that prompts are looked at in pieces
    sequences = rows_of(Driver(watched[1]), *params)
    constrained = [row for row in constrained if row < len(sequences)]
    for _ in range(2):
        plan = Plan([Row(s, s.computed, len(s.tokens) - s.computed, True) for s in sequences])
        assert one_step(watched, plan, constrained) == (copies, 1)
        for sequence in sequences:
            sequence.computed = len(sequence.tokens)
            sequence.tokens.append(9)


def test_a_step_whose_tokens_are_still_being_drawn_is_one_copy_too(watched: tuple[Watched, ModelRunner]) -> None:
    accelerator, runner = watched
    sequences = rows_of(Driver(runner), {}, BIAS, PENALTIES, TOLD | PENALTIES)
    plan = Plan([Row(s, 0, len(s.tokens), True) for s in sequences])
    step = runner.launch(plan)
    step.sample(None)
    following = Plan([Row(s, len(s.tokens), 1, True, source=i) for i, s in enumerate(sequences)])
    with counted(accelerator) as copies:
        after = runner.launch(following)
    for sequence, result in zip(sequences, step.results(), strict=True):
        assert result.token is not None
        sequence.tokens.append(result.token)
    with copies:
        after.sample(None)
    assert (copies.to_device, copies.to_host) == (1, 1)
    after.results()
