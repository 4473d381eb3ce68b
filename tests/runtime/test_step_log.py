"""The line that is logged every so many steps: counts and rates, and no word of what anybody said."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from stolon.lang.types import SamplingParams
from stolon.runtime.metrics import Counters, SchedulerStats
from stolon.runtime.step_log import StepLog
from tests.runtime.answers import answer, engine_of

LOGGER = "stolon.runtime.step_log"


def test_a_line_has_the_counts_of_now_and_the_rate_since_the_line_before(caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters(prompt=8, cached=2)
    now = SchedulerStats(
        running=3, waiting=1, total=100, free=50, cached=30, pinned=0, evictable=10, evicted=0, counters=counters
    )
    asked = 0

    def stats() -> SchedulerStats:
        nonlocal asked
        asked += 1
        return now

    log = StepLog(4, stats)
    with caplog.at_level(logging.INFO, LOGGER):
        for step in range(1, 12):
            counters.steps, counters.generated = step, 5 * step
            log(0.5)
    assert caplog.messages == [
        "step 4: 3 running, 1 waiting, 40 of 100 KV tokens in use, hit rate 0.25, 10.0 tokens/s",
        "step 8: 3 running, 1 waiting, 40 of 100 KV tokens in use, hit rate 0.25, 10.0 tokens/s",
    ]
    assert asked == 2  # nobody looks in between


def test_short_steps_make_no_more_than_a_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    now = SchedulerStats(
        running=1, waiting=0, total=1, free=1, cached=0, pinned=0, evictable=0, evicted=0, counters=Counters()
    )
    log = StepLog(4, lambda: now)
    with caplog.at_level(logging.INFO, LOGGER):
        for _ in range(60):
            log(0.0625)
    assert len(caplog.messages) == 3


@pytest.mark.parametrize(("every", "lines"), [(0, 0), (4, 5), (19, 1), (21, 0)])
async def test_an_engine_logs_every_so_many_steps(
    tiny_checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    lines: int,
) -> None:
    monkeypatch.setattr("stolon.runtime.step_log.LEAST_SECONDS", 0)
    engine = engine_of(tiny_checkpoint, decode_log_interval=every)
    with caplog.at_level(logging.INFO, LOGGER):
        found = await answer(engine, [5, 17, 99], SamplingParams(max_tokens=20, temperature=0, ignore_eos=True))
        await engine.close()
    said = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(found.tokens) == 20
    assert len(said) == lines
    for line in said:
        assert re.fullmatch(
            r"step \d+: [01] running, 0 waiting, \d+ of 4096 KV tokens in use, hit rate 0\.00, \d+\.\d tokens/s", line
        )
