"""The engine without text: scheduler, pipeline and runner, driven turn by turn, so that single steps can be timed."""

from __future__ import annotations

import random
import time
from array import array
from pathlib import Path
from typing import Any

from stolon.lang.types import SamplingParams
from stolon.runtime.accelerator import Accelerator, HostAccelerator
from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.pipeline import Pipeline
from stolon.runtime.runner import ModelRunner, resolve
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import Plan, Sequence, Step

DRY_SCHEDULER: dict[str, Any] = {"token_budget": 64, "max_running_requests": 8}
DRY_ENGINE: dict[str, Any] = {"kv_tokens": 4096, "context_length": 1024}


def accelerator(*, dry: bool) -> Accelerator | None:
    """None is what the settings say; a dry run takes the same path on the CPU."""
    return HostAccelerator() if dry else None


def settings(folder: Path, *, dry: bool, scheduler: dict[str, Any] | None = None, **more: Any) -> EngineConfig:
    config = EngineConfig(
        model_path=str(folder),
        load_format="dummy",
        device="cpu" if dry else "cuda",
        dtype="float32" if dry else "bfloat16",
        scheduler=SchedulerConfig(**(DRY_SCHEDULER if dry else {}), **(scheduler or {})),
        **{**(DRY_ENGINE if dry else {}), **more},
    )
    return resolve(config)


class Stack:
    """shares: whether prefixes that rows share may be read once for all of them; may be switched between turns"""

    def __init__(self, config: EngineConfig, *, dry: bool) -> None:
        self._runner = ModelRunner(config, accelerator=accelerator(dry=dry))
        self.report = self._runner.memory_report
        self.model = self._runner.model_config
        self.shares = True
        self._scheduler = Scheduler(
            config.scheduler, self._runner.num_slots, self._runner.context_length, time.monotonic, frozenset()
        )
        self._pipeline = Pipeline(self._scheduler, self, overlap=self._runner.is_asynchronous)
        self._rng = random.Random(0)
        self._count = 0

    def launch(self, plan: Plan) -> Step:
        if not self.shares:
            plan.shared = []
        return self._runner.launch(plan)

    def fresh(self, length: int) -> list[int]:
        """Tokens that nobody has seen."""
        return [self._rng.randrange(2, self.model.vocab_size) for _ in range(length)]

    def submit(self, prompt: list[int], max_tokens: int) -> Sequence:
        self._count += 1
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        sequence = Sequence(self._count, array("i", prompt), len(prompt), params, seed=0)
        self._scheduler.submit(sequence)
        return sequence

    def turn(self) -> int:
        """One step; returns how many tokens were drawn in the one that landed."""
        landed = self._pipeline.turn()
        for sequence in self._scheduler.reap():
            if sequence.error is not None:
                raise sequence.error
        return sum(result.token is not None for done in landed for result in done.results)

    def finish(self) -> None:
        while self._scheduler.has_work or self._pipeline.in_flight:
            self.turn()

    def answer(self, prompt: list[int], max_tokens: int = 1) -> float:
        """Seconds for one request alone."""
        began = time.perf_counter()
        self.submit(prompt, max_tokens)
        self.finish()
        return time.perf_counter() - began

    def start_decoding(self, prompts: list[list[int]], steps: int) -> None:
        """Compute the prompts; afterwards at least `steps` turns draw a token for each of them."""
        sequences = [self.submit(prompt, steps + len(prompts) + 64) for prompt in prompts]
        while any(sequence.num_output < 2 for sequence in sequences):
            self.turn()

    def decode_seconds(self, rows: int, steps: int) -> float:
        """Of one step, over `steps` of them, each of which draws `rows` tokens."""
        began = time.perf_counter()
        drawn = [self.turn() for _ in range(steps)]
        seconds = (time.perf_counter() - began) / steps
        assert drawn == [rows] * steps, f"steps drew {drawn}, not {rows} tokens each"
        return seconds
