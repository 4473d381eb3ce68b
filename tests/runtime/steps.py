"""Steps from launch to results, without a core."""

from __future__ import annotations

from stolon.runtime.sequence import Masks, Plan, RowResult, Runner


def execute(runner: Runner, plan: Plan, masks: Masks | None = None) -> list[RowResult]:
    step = runner.launch(plan)
    step.sample(masks)
    return step.results()
