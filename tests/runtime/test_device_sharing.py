"""Who shares a prefix reads it once where that pays on the device at hand, unasked; and nowhere else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stolon.kernels.attention_plan import Chip
from stolon.lang.types import SamplingParams
from stolon.runtime.accelerator import HostAccelerator
from stolon.runtime.device_attention import AttentionPlans
from stolon.runtime.engine import Engine
from tests.runtime.answers import answers, config_of, random_prompt, token_texts

SLOW = Chip(units=4, bandwidth=1e8, cache_bytes=0)
FAST = Chip(units=132, bandwidth=4.3e12, cache_bytes=60_000_000)
PROMPT = random_prompt(random.Random(5), 200)


async def five(checkpoint: Path, chip: Chip, *, deterministic: bool = False) -> list[object]:
    settings = config_of(
        checkpoint, max_running_requests=5, token_budget=32, deterministic=deterministic, cuda_graph=False
    )
    engine = Engine(settings, accelerator=HostAccelerator(chip))
    params = SamplingParams(n=5, max_tokens=8, temperature=1.0, seed=3, ignore_eos=True)
    try:
        return list(token_texts(await answers(engine, PROMPT, params)))
    finally:
        await engine.close()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of the steps to come in which several rows could share something, whether they do."""
    found: list[bool] = []
    plan = AttentionPlans.plan

    def noted(self: AttentionPlans, arranged: object, *args: object, **options: object) -> object:
        arrays, shares = plan(self, arranged, *args, **options)  # type: ignore[arg-type]
        if not options and arranged.plan.shared and arranged.plan.rows[0].sequence.id >= 0:  # type: ignore[attr-defined]
            found.append(shares)
        return arrays, shares

    monkeypatch.setattr(AttentionPlans, "plan", noted)
    return found


async def test_answers_to_one_prompt_read_it_once_where_reading_is_slow(
    tiny_checkpoint: Path, shared: list[bool]
) -> None:
    expected = await five(tiny_checkpoint, FAST)
    assert len(shared) > 4
    assert not any(shared)
    shared.clear()
    assert await five(tiny_checkpoint, SLOW) == expected
    assert len(shared) > 4
    assert all(shared)
    shared.clear()
    await five(tiny_checkpoint, SLOW, deterministic=True)
    assert shared
    assert not any(shared)
