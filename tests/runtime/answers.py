"""Engines on a tiny checkpoint, and whole answers collected from their increments."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from stolon.lang.types import SamplingParams, TokenLogprob, Usage
from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.engine import Engine

SCHEDULER_FIELDS = {field.name for field in dataclasses.fields(SchedulerConfig)}


def config_of(checkpoint: Path, **settings: Any) -> EngineConfig:
    """A small float32 engine on one thread that checks every invariant after every step."""
    scheduler = {"check": True, **{name: settings.pop(name) for name in list(settings) if name in SCHEDULER_FIELDS}}
    chosen = {"dtype": "float32", "device": "cpu", "kv_tokens": 4096, "threads": 1, **settings}
    return EngineConfig(model_path=str(checkpoint), scheduler=SchedulerConfig(**scheduler), **chosen)


def engine_of(checkpoint: Path, **settings: Any) -> Engine:
    return Engine(config_of(checkpoint, **settings))


@dataclasses.dataclass
class Answer:
    """What one answer's increments add up to."""

    text: str = ""
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[TokenLogprob] = dataclasses.field(default_factory=list)
    finish: str | None = None
    matched: str | int | None = None
    usage: Usage | None = None

    @property
    def cached_tokens(self) -> int:
        assert self.usage is not None
        return self.usage.cached_tokens


async def answers(engine: Engine, prompt: Sequence[int], params: SamplingParams, **options: Any) -> list[Answer]:
    """All `n` answers, with what must hold of every stream checked on the way."""
    found = [Answer() for _ in range(params.n)]
    async with aclosing(engine.generate(prompt, params, **options)) as deltas:
        async for delta in deltas:
            answer = found[delta.index]
            assert answer.finish is None, "nothing may follow the last increment"
            answer.text += delta.text
            answer.tokens += delta.tokens
            answer.logprobs += delta.logprobs or []
            answer.finish, answer.matched = delta.finish, delta.matched
            answer.usage = delta.usage or answer.usage
    assert all(answer.finish is not None for answer in found)
    usages = [answer.usage for answer in found if answer.usage is not None]
    assert len(usages) == 1
    assert usages[0].completion_tokens == sum(len(answer.tokens) for answer in found)
    return found


async def answer(engine: Engine, prompt: Sequence[int], params: SamplingParams, **options: Any) -> Answer:
    return (await answers(engine, prompt, params, **options))[0]


async def answer_all(engine: Engine, asked: Sequence[tuple[Sequence[int], SamplingParams]]) -> list[Answer]:
    """One answer to each, all at the same time."""
    return list(await asyncio.gather(*(answer(engine, prompt, params) for prompt, params in asked)))


def token_texts(found: Sequence[Answer]) -> list[tuple[tuple[int, ...], str, str | None]]:
    """What must be equal when only speed may differ."""
    return [(tuple(a.tokens), a.text, a.finish) for a in found]


def random_prompt(rng: random.Random, length: int, vocab_size: int = 480) -> list[int]:
    """Ordinary tokens: none of the checkpoint's three control tokens."""
    return [rng.randrange(3, vocab_size) for _ in range(length)]


def family_prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Prompts of several families that share beginnings of different lengths, and some that share nothing."""
    rng = random.Random(seed)
    stems = [random_prompt(rng, length) for length in (40, 25, 60)]
    prompts: list[list[int]] = []
    for index in range(count):
        stem = stems[index % 4][: rng.randrange(20, 61)] if index % 4 < 3 else []
        prompts.append(stem + random_prompt(rng, rng.randrange(1, 30)))
    return prompts


GREEDY = SamplingParams(max_tokens=24, temperature=0)
SEEDED = SamplingParams(max_tokens=24, temperature=0.9, top_p=0.95, top_k=50, seed=1234)
