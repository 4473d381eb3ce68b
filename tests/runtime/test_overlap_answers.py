"""A real model, its steps begun before the one before has ended or in ever smaller pieces: the answers are the same."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import random
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stolon.lang.constraint import Constraint
from stolon.lang.errors import BackendTimeout, EngineError
from stolon.lang.types import SamplingParams
from stolon.runtime.accelerator import HostAccelerator
from stolon.runtime.core import EngineCore
from stolon.runtime.engine import Engine
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import MaskingRunner
from stolon.runtime.tokenizer import Tokenizer
from tests.runtime.answers import GREEDY, SEEDED, Answer, answer, answers, engine_of, random_prompt


def schema(text: str) -> Constraint:
    return Constraint("json_schema", text)


PERSON = schema('{"type":"object","properties":{"name":{"type":"string","maxLength":5},"age":{"type":"integer"}},'
                '"required":["name","age"],"additionalProperties":false}')  # fmt: skip
RNG = random.Random(5)
STEM = random_prompt(RNG, 40)
KINDS: dict[str, tuple[SamplingParams, Constraint | None]] = {
    "greedy": (GREEDY, None),
    "seeded": (SEEDED, None),
    "penalties": (replace(SEEDED, repetition_penalty=1.3, frequency_penalty=0.5, min_tokens=8), None),
    "stop string": (replace(SEEDED, stop=("e", "th")), None),
    "stop token": (replace(SEEDED, stop_token_ids=tuple(range(3, 60))), None),
    "logprobs": (replace(GREEDY, logprobs=2, prompt_logprobs=1), None),
    "fork": (replace(SEEDED, n=3, max_tokens=12), None),
    "json": (replace(SEEDED, max_tokens=60), PERSON),
    "json, stepwise": (replace(GREEDY, max_tokens=60, logprobs=0), PERSON),
    "json, penalties": (replace(SEEDED, max_tokens=60, repetition_penalty=1.2, presence_penalty=0.4), PERSON),
    "bias": (replace(GREEDY, logit_bias=((70, 4.0), (71, -100.0)), logprobs=2), None),
    "allowed tokens": (replace(SEEDED, allowed_token_ids=tuple(range(40, 70)), logprobs=1), None),
    "regex": (GREEDY, Constraint("regex", r"(yes|no), because of [a-z]{3,9}")),
}


@dataclass
class Told:
    tokens: list[int]
    text: str
    finish: str | None
    matched: str | int | None
    logprobs: list[float]


def told(found: Answer) -> Told:
    logprobs = [round(entry.logprob, 3) for entry in found.logprobs]
    return Told(found.tokens, found.text, found.finish, found.matched, logprobs)


async def all_kinds(checkpoint: Path, **settings: Any) -> list[list[Told]]:
    engine = engine_of(checkpoint, **settings)
    rng = random.Random(1)
    jobs = [
        answers(engine, STEM[: rng.randrange(5, 41)] + random_prompt(rng, 6), params, constraint=constraint)
        for params, constraint in [*KINDS.values(), *KINDS.values()]
    ]
    try:
        return [[told(one) for one in found] for found in await asyncio.gather(*jobs)]
    finally:
        await engine.close()
        assert engine.scheduler_stats().running == 0


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a GPU, on a CPU that plays its part."""
    monkeypatch.setattr("stolon.runtime.runner.wants_gpu", lambda config: True)
    monkeypatch.setattr("stolon.runtime.runner.cuda_accelerator", HostAccelerator)


def overlapping(scheduler: Scheduler, runner: MaskingRunner, tokenizer: Tokenizer, *, overlap: bool) -> EngineCore:
    """The CPU's own path, with steps begun before the ones before have landed."""
    assert not overlap
    return EngineCore(scheduler, runner, tokenizer, overlap=True)


@pytest.mark.parametrize(
    "settings", [{}, {"token_budget": 16, "kv_tokens": 200}, {"page_size": 16, "radix_cache": False}], ids=str
)
async def test_answers_are_the_same_with_overlap_and_without(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    expected = await all_kinds(tiny_checkpoint, **settings)
    monkeypatch.setattr("stolon.runtime.engine.EngineCore", overlapping)
    assert await all_kinds(tiny_checkpoint, **settings) == expected


@pytest.mark.usefixtures("host")
async def test_answers_of_a_gpu_s_path_are_the_same_with_overlap_and_without(tiny_checkpoint: Path) -> None:
    expected = await all_kinds(tiny_checkpoint, overlap=False, max_running_requests=16, token_budget=64)
    assert await all_kinds(tiny_checkpoint, max_running_requests=16, token_budget=64) == expected


@pytest.mark.usefixtures("host")
async def test_nothing_is_held_while_the_engine_sleeps(tiny_checkpoint: Path) -> None:
    """The last answer ends by a stop; a step that was begun meanwhile must not keep its memory."""
    engine = engine_of(tiny_checkpoint, max_running_requests=4, token_budget=32)
    assert engine._core._pipeline is not None
    assert engine._core._pipeline.overlap
    params, _ = KINDS["stop token"]
    await answer(engine, random_prompt(RNG, 9), params)
    assert await engine.flush_cache()
    stats = engine.scheduler_stats()
    assert (stats.running, stats.free) == (0, stats.total)
    await engine.close()


async def test_a_fault_of_the_step_begun_meanwhile_hides_nothing_that_was_drawn_before(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of the steps fails in turn: what came before is told as it is without overlap, then the error."""
    caplog.set_level(logging.CRITICAL)
    prompt, told = random_prompt(RNG, 8), dict[bool, list[list[int]]]()
    for overlap in (False, True):
        engine = engine_of(tiny_checkpoint)
        assert engine._core._pipeline is not None
        engine._core._overlap = engine._core._pipeline.overlap = overlap
        told[overlap] = [await _told_before(engine, prompt, step) for step in range(1, 5)]
        await engine.close()
    assert told[True] == told[False]
    assert [len(tokens) for tokens in told[True]] == [0, 1, 2, 3]


async def _told_before(engine: Engine, prompt: list[int], failing: int) -> list[int]:
    """The tokens of an answer whose step number `failing` fails."""
    decoder: Any = engine._core._pipeline._runner.decoder  # type: ignore[union-attr, attr-defined]
    hidden, steps, found = decoder.hidden, itertools.count(1), list[int]()

    def fail(*tensors: Any) -> Any:
        if next(steps) == failing:
            raise ZeroDivisionError
        return hidden(*tensors)

    decoder.hidden = fail
    try:
        async with aclosing(engine.generate(prompt, GREEDY)) as deltas:
            async for delta in deltas:
                found += delta.tokens
    except EngineError:
        return found
    finally:
        decoder.hidden = hidden
    raise AssertionError("no step failed")


async def test_who_leaves_or_is_late_leaves_nothing_behind(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stolon.runtime.engine.EngineCore", overlapping)
    engine = engine_of(tiny_checkpoint, kv_tokens=200, token_budget=48, max_running_requests=8)
    rng = random.Random(7)
    ends: Counter[str] = Counter()

    async def one() -> None:
        await asyncio.sleep(rng.random() * 0.5)
        params, constraint = rng.choice(list(KINDS.values()))
        prompt, patience = STEM[: rng.randrange(5, 41)], rng.choice([None, None, 0, 1, 3])
        timeout_s = rng.choice([None, None, None, 0.05])
        stream = engine.generate(prompt, params, constraint=constraint, timeout_s=timeout_s)
        try:
            async with aclosing(stream) as deltas:
                seen = 0
                async for _ in deltas:
                    if seen == patience:
                        ends["left"] += 1
                        return
                    seen += 1
            ends["answered"] += 1
        except BackendTimeout:
            ends["late"] += 1

    await asyncio.gather(*(one() for _ in range(120)))
    await engine.close(drain_s=30)
    stats = engine.scheduler_stats()
    assert stats.free + stats.evictable == stats.total
    assert stats.counters.submitted == stats.counters.finished
    assert set(ends) == {"left", "answered", "late"}


# -- a device without memory


@dataclass
class Greedy:
    """Takes more memory than there is for more than `most` tokens, in earnest."""

    hidden: Callable[..., Any]
    most: int
    tensors: list[weakref.ref[torch.Tensor]] = field(default_factory=list[weakref.ref[torch.Tensor]])

    def __call__(self, ids: Any, *others: Any) -> Any:
        if len(ids) > self.most:
            held = torch.empty(1 << 20)
            self.tensors.append(weakref.ref(held))
            torch.empty(1 << 52)
        return self.hidden(ids, *others)


async def test_a_cpu_without_memory_computes_in_smaller_steps(
    tiny_checkpoint: Path, request: pytest.FixtureRequest
) -> None:
    gc.disable()
    request.addfinalizer(gc.enable)
    engine = engine_of(tiny_checkpoint)
    prompt = random_prompt(RNG, 40)
    expected = await answer(engine, prompt, GREEDY)
    await engine.flush_cache()
    assert engine._core._pipeline is not None
    decoder: Any = engine._core._pipeline._runner.decoder  # type: ignore[attr-defined]
    decoder.hidden = Greedy(decoder.hidden, 3)
    assert told(await answer(engine, prompt, GREEDY)) == told(expected)
    decoder.hidden.most = 0
    with pytest.raises(EngineError, match="no memory left") as caught:
        await answer(engine, prompt, GREEDY)
    assert caught.value.code == "out_of_memory"
    # what is short must not be held by a fault's traceback until a collection happens to come
    assert len(decoder.hidden.tensors) > 3
    assert not any(ref() is not None for ref in decoder.hidden.tensors)
    decoder.hidden.most = 1000
    assert told(await answer(engine, prompt, GREEDY)) == told(expected)
    await engine.close()
