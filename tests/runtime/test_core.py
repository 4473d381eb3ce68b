"""The core by itself, step by step, on a real model: faults of a row, of a step, of the text, of the thread."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import weakref
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stolon.lang.errors import EngineError, InvalidRequest, OverloadedError
from stolon.lang.types import Delta, SamplingParams
from stolon.runtime.core import EngineCore, Output, Request
from stolon.runtime.engine import Engine
from stolon.runtime.loop import EngineThread
from stolon.runtime.runner import ModelRunner
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import MaskingRunner, Masks, Plan, RowResult, Step
from stolon.runtime.tokenizer import Tokenizer
from tests.runtime.answers import answer, config_of, engine_of, random_prompt, token_texts

PROMPTS = [random_prompt(random.Random(seed), 12) for seed in range(6)]
PARAMS = SamplingParams(max_tokens=10, temperature=0, ignore_eos=True)


@dataclass
class FaultyRunner:
    """A real runner and a fault that befalls it: `fault` may change the results of a step, or raise."""

    runner: MaskingRunner
    fault: Callable[[Plan, list[RowResult]], None]
    steps: int = 0

    def launch(self, plan: Plan) -> Step:
        self.steps += 1
        return FaultyStep(self, plan, self.runner.launch(plan))

    def mask_bits(self, rows: int) -> NDArray[np.int32]:
        return self.runner.mask_bits(rows)


@dataclass
class FaultyStep:
    runner: FaultyRunner
    plan: Plan
    step: Step

    def sample(self, masks: Masks | None) -> None:
        self.step.sample(masks)

    def results(self) -> list[RowResult]:
        results = self.step.results()
        self.runner.fault(self.plan, results)
        return results


@dataclass
class Bench:
    """A core and everything that came out of it."""

    core: EngineCore
    scheduler: Scheduler
    outputs: dict[int, list[Output]] = field(default_factory=dict)

    def submit(self, id: int, params: SamplingParams = PARAMS) -> None:
        self.core.submit(Request(id=id, tokens=array("i", PROMPTS[id]), params=params, seed=id))

    def step(self) -> list[Output]:
        found = self.core.step()
        for output in found:
            before = self.outputs.setdefault(output.id, [])
            assert not (before and before[-1].is_last), "nothing may follow the last output"
            before.append(output)
        return found

    def run(self) -> None:
        for _ in range(500):
            if not self.core.has_work:
                break
            self.step()
        assert not self.core.has_work
        assert not self.scheduler.has_work
        stats = self.scheduler.stats()
        assert stats.free + stats.evictable == stats.total

    def tokens(self, id: int) -> list[int]:
        return [t for output in self.outputs[id] if isinstance(output.event, Delta) for t in output.event.tokens]

    def error(self, id: int) -> Exception | None:
        last = self.outputs[id][-1]
        assert last.is_last
        return last.event if isinstance(last.event, Exception) else None


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> tuple[ModelRunner, Tokenizer]:
    return ModelRunner(config_of(tiny_checkpoint)), Tokenizer.load(tiny_checkpoint)


@pytest.fixture
def bench(model: tuple[ModelRunner, Tokenizer], tiny_checkpoint: Path) -> Callable[..., Bench]:
    def make(fault: Callable[[Plan, list[RowResult]], None] | None = None, **settings: object) -> Bench:
        runner, tokenizer = model
        scheduler = Scheduler(config_of(tiny_checkpoint, **settings).scheduler, runner.num_slots, runner.context_length)
        core = EngineCore(scheduler, FaultyRunner(runner, fault) if fault else runner, tokenizer)
        return Bench(core, scheduler)

    return make


@pytest.fixture(scope="module")
def expected(model: tuple[ModelRunner, Tokenizer], tiny_checkpoint: Path) -> list[list[int]]:
    """What each prompt gives when nothing goes wrong."""
    runner, tokenizer = model
    scheduler = Scheduler(config_of(tiny_checkpoint).scheduler, runner.num_slots, runner.context_length)
    bench = Bench(EngineCore(scheduler, runner, tokenizer), scheduler)
    for id in range(len(PROMPTS)):
        bench.submit(id)
    bench.run()
    return [bench.tokens(id) for id in range(len(PROMPTS))]


def test_a_row_that_is_not_numbers_ends_its_own_request_only(
    bench: Callable[..., Bench], expected: list[list[int]]
) -> None:
    def poison(plan: Plan, results: list[RowResult]) -> None:
        for row, result in zip(plan.rows, results, strict=True):
            if row.sequence.id == 2 and row.sequence.num_output == 4:
                result.token, result.error = None, EngineError("not numbers", code="nan_logits")

    table = bench(poison)
    for id in range(len(PROMPTS)):
        table.submit(id)
    table.run()
    error = table.error(2)
    assert isinstance(error, EngineError)
    assert error.code == "nan_logits"
    assert table.tokens(2) == expected[2][:4]
    assert [table.tokens(id) for id in (0, 1, 3, 4, 5)] == [expected[id] for id in (0, 1, 3, 4, 5)]


def test_a_prompt_that_makes_the_model_say_nan_harms_no_request_beside_or_after_it(
    tiny_checkpoint: Path, expected: list[list[int]]
) -> None:
    runner = ModelRunner(config_of(tiny_checkpoint, kv_tokens=64))
    poison = next(t for t in range(3, 480) if not any(t in p + e for p, e in zip(PROMPTS, expected, strict=True)))
    with torch.inference_mode():
        runner.decoder.embedding[poison] = float("nan")
    scheduler = Scheduler(config_of(tiny_checkpoint).scheduler, runner.num_slots, runner.context_length)
    table = Bench(EngineCore(scheduler, runner, Tokenizer.load(tiny_checkpoint)), scheduler)
    bad = Request(id=100, tokens=array("i", [*PROMPTS[0][:6], poison, 9, 9]), params=PARAMS, seed=0)
    table.submit(0)
    table.core.submit(bad)
    table.submit(1)
    table.run()
    error = table.error(100)
    assert isinstance(error, EngineError)
    assert error.code == "nan_logits"
    for id in range(2, len(PROMPTS)):  # in slots that held what is not numbers
        table.submit(id)
    table.run()
    assert [table.tokens(id) for id in range(len(PROMPTS))] == expected


@pytest.mark.parametrize("failing", range(1, 8))
def test_a_step_that_fails_ends_the_requests_in_it_and_no_others(
    bench: Callable[..., Bench], expected: list[list[int]], failing: int, caplog: pytest.LogCaptureFixture
) -> None:
    steps = 0

    def fail_once(plan: Plan, results: list[RowResult]) -> None:
        nonlocal steps
        steps += 1
        if steps == failing:
            raise RuntimeError("out of memory")

    caplog.set_level(logging.CRITICAL)
    table = bench(fail_once, max_running_requests=3, token_budget=20)
    for id in range(len(PROMPTS)):
        table.submit(id)
    table.run()
    failed = [id for id in range(len(PROMPTS)) if table.error(id) is not None]
    assert 1 <= len(failed) <= 3
    for id in range(len(PROMPTS)):
        if id in failed:
            assert isinstance(table.error(id), EngineError)
            assert "out of memory" in str(table.error(id))
            assert expected[id][: len(table.tokens(id))] == table.tokens(id)
        else:
            assert table.tokens(id) == expected[id]


def test_text_that_cannot_be_made_ends_its_own_request_only(
    bench: Callable[..., Bench], expected: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    def nonsense(plan: Plan, results: list[RowResult]) -> None:
        for row, result in zip(plan.rows, results, strict=True):
            if row.sequence.id == 1 and row.sequence.num_output == 3 and result.logprob is not None:
                result.logprob.top = ((0, 0.0, 0.0),)  # type: ignore[assignment]

    table = bench(nonsense)
    table.submit(0)
    table.submit(1, SamplingParams(max_tokens=10, temperature=0, ignore_eos=True, logprobs=2))
    table.submit(2)
    table.run()
    assert isinstance(table.error(1), EngineError)
    assert [table.tokens(0), table.tokens(2)] == [expected[0], expected[2]]


@pytest.mark.parametrize("after", range(12))
def test_a_request_can_be_aborted_after_any_step(
    bench: Callable[..., Bench], expected: list[list[int]], after: int
) -> None:
    table = bench(token_budget=16)  # so that prompts come in chunks
    for id in range(3):
        table.submit(id)
    for _ in range(after):
        table.step()
    table.core.abort(1)
    table.core.abort(1)
    table.core.abort(99)
    table.step()
    last = table.outputs[1][-1].event
    assert isinstance(last, Delta)
    assert last.finish in ("abort", "length")
    assert 1 not in table.core._answers
    table.run()
    assert table.tokens(0) == expected[0]
    assert table.tokens(2) == expected[2]


def test_nothing_keeps_an_ended_request_alive(bench: Callable[..., Bench]) -> None:
    table = bench()
    table.submit(0)
    table.step()
    sequence = weakref.ref(table.core._answers[0]._detokenizer)
    table.core.abort(0)
    table.step()
    gc.collect()
    assert sequence() is None


def test_what_the_scheduler_or_the_text_refuse_is_refused_at_submit(bench: Callable[..., Bench]) -> None:
    table = bench(max_queued_requests=1)
    table.submit(0)
    with pytest.raises(OverloadedError):
        table.submit(1)
    with pytest.raises(InvalidRequest):
        table.submit(2, SamplingParams(stop_regex=("(",)))
    table.run()
    assert set(table.outputs) == {0}


def test_increments_add_up_to_what_is_decoded_at_once(bench: Callable[..., Bench], expected: list[list[int]]) -> None:
    table = bench()
    for id in range(len(PROMPTS)):
        table.submit(id)
    table.run()
    tokenizer = table.core._tokenizer
    for id in range(len(PROMPTS)):
        text = "".join(o.event.text for o in table.outputs[id] if isinstance(o.event, Delta))
        whole = tokenizer.decode([*PROMPTS[id], *expected[id]])
        assert whole.endswith(text)
        assert len(text) > 0


# -- the thread


async def test_an_engine_thread_that_dies_ends_every_request_with_an_error(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    engine = engine_of(tiny_checkpoint)
    schedule, steps = engine._scheduler.schedule, 0

    def broken() -> Plan | None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise AssertionError("the books are wrong")
        return schedule()

    engine._scheduler.schedule = broken
    found = await asyncio.gather(*(answer(engine, prompt, PARAMS) for prompt in PROMPTS), return_exceptions=True)
    assert all(isinstance(error, EngineError) for error in found)
    assert all("the books are wrong" in str(error) for error in found)
    assert len({id(error) for error in found}) == len(found)
    assert not engine.heartbeat.alive
    with pytest.raises(EngineError, match="make a new one"):
        await answer(engine, PROMPTS[0], PARAMS)
    with pytest.raises(EngineError):
        await engine.flush_cache()
    await engine.close()


async def test_a_failed_step_leaves_the_thread_at_work(tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    engine = engine_of(tiny_checkpoint)
    clean = token_texts([await answer(engine, PROMPTS[0], PARAMS)])
    fails = iter([True])

    def fail_once(plan: Plan, results: list[RowResult]) -> None:
        if next(fails, False):
            raise MemoryError

    assert engine._core._pipeline is not None
    runner = engine._core._pipeline._runner
    assert isinstance(runner, ModelRunner)
    engine._core._pipeline._runner = FaultyRunner(runner, fail_once)
    with pytest.raises(EngineError, match="MemoryError"):
        await answer(engine, PROMPTS[1], PARAMS)
    assert token_texts([await answer(engine, PROMPTS[0], PARAMS)]) == clean
    assert engine.heartbeat.alive
    await engine.close()


async def test_outputs_of_a_step_cost_one_wake_up_of_the_loop(engine_thread: tuple[Engine, EngineThread]) -> None:
    engine, _ = engine_thread
    loop = asyncio.get_running_loop()
    wake_ups = 0
    original = loop.call_soon_threadsafe

    def counting(callback: Callable[..., object], *args: object, **options: object) -> asyncio.Handle:
        nonlocal wake_ups
        wake_ups += 1
        return original(callback, *args, **options)  # type: ignore[arg-type]

    loop.call_soon_threadsafe = counting
    try:
        before = engine.heartbeat.steps
        await asyncio.gather(*(answer(engine, prompt, PARAMS) for prompt in PROMPTS))
        assert wake_ups <= engine.heartbeat.steps - before + 1
        assert wake_ups < 10 * len(PROMPTS)
    finally:
        loop.call_soon_threadsafe = original


@pytest.fixture
async def engine_thread(tiny_checkpoint: Path):
    engine = engine_of(tiny_checkpoint)
    yield engine, engine._thread
    await engine.close()
