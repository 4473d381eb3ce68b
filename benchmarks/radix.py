"""The planning half's own cost: eviction, matching, and planning a decode step. No model, no torch.

`python -m benchmarks.radix`
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import subprocess
import time
from array import array
from collections.abc import Callable

import numpy as np

from stolon.lang.types import SamplingParams
from stolon.runtime.config import SchedulerConfig
from stolon.runtime.radix import RadixTree
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import RowResult, Sequence

RUNS = 7


def evict_64(leaves: int) -> float:
    """Microseconds to evict 64 tokens from so many leaves of 2 tokens."""
    tree = RadixTree()
    order = list(range(leaves))
    random.Random(0).shuffle(order)
    for i in order:
        tree.insert(tree.root, array("i", [i, 0]), 2, np.array([2 * i, 2 * i + 1], np.int32))
    start = time.process_time()
    tree.evict(64)
    return (time.process_time() - start) * 1e6


def match(length: int) -> float:
    """Microseconds to find a cached prompt of so many tokens."""
    tree = RadixTree()
    tokens = array("i", range(length))
    tree.insert(tree.root, tokens, length, np.arange(length, dtype=np.int32))
    start = time.process_time()
    for _ in range(20):
        tree.match(tokens, length)
    return (time.process_time() - start) * 1e6 / 20


def decode_step(rows: int, common: int = 800) -> float:
    """Microseconds that `schedule`, `commit` and `reap` take together for so many decode rows; median of 300 steps."""
    scheduler = Scheduler(SchedulerConfig(token_budget=8192), 200_000, 5_000)
    for i in range(rows):
        tokens = array("i", [*range(common), *([common + i] * 40)])
        params = SamplingParams(max_tokens=400)
        scheduler.submit(Sequence(id=i, tokens=tokens, num_prompt=len(tokens), params=params, seed=0))
    spent: list[float] = []
    for _ in range(330):
        start = time.process_time()
        plan = scheduler.schedule()
        planned = time.process_time()
        assert plan is not None
        results = [RowResult(token=5 if row.samples else None) for row in plan.rows]
        drawn = time.process_time()
        scheduler.commit(plan, results)
        scheduler.reap()
        spent.append((planned - start + time.process_time() - drawn) * 1e6)
    return statistics.median(spent[30:])


CASES: dict[str, Callable[[], float]] = {
    "evict 64 of 1,000 leaves": lambda: evict_64(1_000),
    "evict 64 of 100,000 leaves": lambda: evict_64(100_000),
    "match 1,000 tokens": lambda: match(1_000),
    "match 64,000 tokens": lambda: match(64_000),
    "plan and commit 8 decode rows": lambda: decode_step(8),
    "plan and commit 32 decode rows": lambda: decode_step(32),
    "plan and commit 128 decode rows": lambda: decode_step(128),
}


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    found: dict[str, dict[str, float]] = {}
    for name, case in CASES.items():
        values = sorted(case() for _ in range(RUNS))
        found[name] = {"median_us": values[RUNS // 2], "min_us": values[0], "max_us": values[-1]}
        print(f"{name:34s} {values[RUNS // 2]:10.1f} us   ({values[0]:.1f} to {values[-1]:.1f})")
    machine = {"cpu": platform.machine(), "python": platform.python_version()}
    rounded = {name: {key: round(value, 1) for key, value in row.items()} for name, row in found.items()}
    print(json.dumps({"benchmark": "radix", "commit": commit(), "machine": machine, "runs": RUNS, "results": rounded}))


if __name__ == "__main__":
    main()
