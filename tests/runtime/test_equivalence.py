"""Sharing and scheduling change speed, never text: E1 to E6, E8, E10 and E11 on a real, if tiny, model."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from stolon.lang.types import SamplingParams
from stolon.runtime.engine import derive_seed
from tests.runtime.answers import (
    GREEDY,
    SEEDED,
    Answer,
    answer,
    answer_all,
    answers,
    engine_of,
    family_prompts,
    token_texts,
)

PROMPTS = family_prompts(12)


def jobs(seed: int = 0) -> list[tuple[list[int], SamplingParams]]:
    """Half of them greedy; the others each with a seed of their own."""
    return [
        (prompt, GREEDY if index % 2 else replace(SEEDED, seed=1000 * seed + index))
        for index, prompt in enumerate(PROMPTS)
    ]


async def run(checkpoint: Path, **settings: object) -> list[Answer]:
    """All jobs at the same time, on an engine of their own."""
    engine = engine_of(checkpoint, **settings)
    try:
        return await answer_all(engine, jobs())
    finally:
        await engine.close()


@pytest.fixture(scope="module")
def alone(tiny_checkpoint: Path) -> list[Answer]:
    """Each job by itself, cache off: what every other way must give."""

    async def one_by_one() -> list[Answer]:
        engine = engine_of(tiny_checkpoint, radix_cache=False)
        try:
            return [await answer(engine, prompt, params) for prompt, params in jobs()]
        finally:
            await engine.close()

    return asyncio.run(one_by_one())


def test_the_reference_answers_are_worth_comparing(alone: list[Answer]) -> None:
    assert len({tuple(found.tokens) for found in alone}) == len(alone)
    assert all(len(set(found.tokens)) > 5 for found in alone if len(found.tokens) > 10)


async def test_e1_a_warm_cache_gives_the_answers_of_no_cache(tiny_checkpoint: Path, alone: list[Answer]) -> None:
    engine = engine_of(tiny_checkpoint)
    cold = [await answer(engine, prompt, params) for prompt, params in jobs()]
    warm = [await answer(engine, prompt, params) for prompt, params in jobs()]
    await engine.close()
    assert token_texts(cold) == token_texts(alone)
    assert token_texts(warm) == token_texts(alone)
    assert [found.cached_tokens for found in warm] == [len(prompt) - 1 for prompt in PROMPTS]


@pytest.mark.parametrize("order", range(3))
async def test_e2_alone_or_in_any_batch_in_any_order_of_arrival(
    tiny_checkpoint: Path, alone: list[Answer], order: int
) -> None:
    rng = random.Random(order)
    shuffled = list(range(len(PROMPTS)))
    rng.shuffle(shuffled)
    engine = engine_of(tiny_checkpoint)
    asked = jobs()

    async def later(index: int) -> tuple[int, Answer]:
        await asyncio.sleep(rng.random() * 0.05)
        return index, await answer(engine, *asked[index])

    found = dict(await asyncio.gather(*(later(index) for index in shuffled)))
    await engine.close()
    assert token_texts([found[index] for index in range(len(PROMPTS))]) == token_texts(alone)


@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 100_000])
async def test_e3_the_size_of_chunks(tiny_checkpoint: Path, alone: list[Answer], chunk: int) -> None:
    assert token_texts(await run(tiny_checkpoint, token_budget=chunk)) == token_texts(alone)


async def test_e4_preemption_neither_changes_nor_repeats_text(tiny_checkpoint: Path, alone: list[Answer]) -> None:
    longest = max(len(prompt) + params.max_tokens for prompt, params in jobs())
    engine = engine_of(tiny_checkpoint, kv_tokens=longest * 3 // 2)
    found = await answer_all(engine, jobs())
    stats = engine.stats()
    await engine.close()
    assert token_texts(found) == token_texts(alone)
    assert stats["preemptions"] > 0  # type: ignore[operator]


async def test_e5_eviction_between_requests(tiny_checkpoint: Path, alone: list[Answer]) -> None:
    longest = max(len(prompt) + params.max_tokens for prompt, params in jobs())
    engine = engine_of(tiny_checkpoint, kv_tokens=longest + 10)
    found = [await answer(engine, prompt, params) for prompt, params in [*jobs(), *jobs()]]
    await engine.close()
    assert token_texts(found) == token_texts(alone) * 2


async def test_e8_three_answers_are_three_requests_with_derived_seeds(tiny_checkpoint: Path) -> None:
    engine = engine_of(tiny_checkpoint)
    for prompt in PROMPTS[:4]:
        together = await answers(engine, prompt, replace(SEEDED, n=3))
        apart = [await answer(engine, prompt, replace(SEEDED, seed=derive_seed(1234, index))) for index in range(3)]
        assert token_texts(together) == token_texts(apart)
        assert len({tuple(found.tokens) for found in together}) == 3
    await engine.close()


async def test_e10_a_restart_between_requests(tiny_checkpoint: Path, alone: list[Answer]) -> None:
    found: list[Answer] = []
    for prompt, params in jobs()[:4]:
        engine = engine_of(tiny_checkpoint)
        found.append(await answer(engine, prompt, params))
        await engine.close()
    assert token_texts(found) == token_texts(alone[:4])


@pytest.mark.parametrize("page_size", [1, 16])
async def test_e11_the_size_of_pages(tiny_checkpoint: Path, alone: list[Answer], page_size: int) -> None:
    assert token_texts(await run(tiny_checkpoint, page_size=page_size)) == token_texts(alone)


async def test_the_order_of_waiting_requests(tiny_checkpoint: Path, alone: list[Answer]) -> None:
    found = await run(tiny_checkpoint, schedule_policy="fcfs", max_running_requests=3)
    assert token_texts(found) == token_texts(alone)
