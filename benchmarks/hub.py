"""What the language itself costs: many programs at once on a scripted backend with 0.1 s latency.

Each program generates, forks into four branches that generate, joins them, and generates again. CPU seconds are
those of the whole process, backend included; every figure is the median of five runs.

Usage: python benchmarks/hub.py [--small]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from stolon import Scripted, function, gen, set_default_backend

LATENCY_S = 0.1
RUNS = 5


@function
def appending(s, topic):
    """Says everything and reads nothing: no thread has to wait for it."""
    s += "About " + topic + ": " + gen("first", max_tokens=8)
    branches = s.fork(4)
    branches += gen("detail", max_tokens=8)
    branches.join()
    s += " In short: " + gen("last", max_tokens=8)


@function
def reading(s, topic):
    """Reads in the middle and at the end, so a thread waits for it."""
    s += "About " + topic + ": " + gen("first", max_tokens=8)
    branches = s.fork(4)
    for branch in branches:
        branch += gen("detail", max_tokens=8)
    branches.join()
    s += f" {len(s['detail'])} details. In short: " + gen("last", max_tokens=8)
    return s["last"]


@function
async def awaiting(s, topic):
    s += "About " + topic + ": " + gen("first", max_tokens=8)
    branches = s.fork(4)
    for branch in branches:
        branch += gen("detail", max_tokens=8)
    branches.join()
    details = await s.get("detail")
    s += f" {len(details)} details. In short: " + gen("last", max_tokens=8)
    return await s.get("last")


async def bare_stream() -> AsyncIterator[str]:
    await asyncio.sleep(LATENCY_S)
    yield "some words"


async def bare_generation() -> list[str]:
    return [text async for text in bare_stream()]


async def bare_program() -> None:
    await bare_generation()
    for task in [asyncio.create_task(bare_generation()) for _ in range(4)]:
        await task
    await bare_generation()


async def bare_programs(count: int) -> None:
    await asyncio.gather(*(bare_program() for _ in range(count)))


def run_bare(count: int) -> None:
    """The same sleeps in the same shape and nothing else: what asyncio itself costs on this machine, at this moment."""
    asyncio.run(bare_programs(count))


def run_programs(program: Any, count: int) -> None:
    backend = Scripted("some words", latency_s=LATENCY_S, record=False)
    set_default_backend(backend)
    batch = program.map([f"topic {i}" for i in range(count)], num_threads=count)
    assert backend.asked == 6 * count
    assert len(batch) == count


def measure(run: Callable[[int], None], count: int) -> dict[str, float]:
    """Medians of CPU milliseconds per program and wall seconds; the most threads seen in any run."""
    cpu_ms: list[float] = []
    wall_s: list[float] = []
    threads = 0
    for _ in range(RUNS):
        most = MostThreads()
        cpu, wall = time.process_time(), time.perf_counter()
        run(count)
        cpu_ms.append((time.process_time() - cpu) / count * 1000)
        wall_s.append(time.perf_counter() - wall)
        threads = max(threads, most.stop())
    return {
        "programs": count,
        "cpu_ms_per_program": round(statistics.median(cpu_ms), 3),
        "cpu_ms_min": round(min(cpu_ms), 3),
        "cpu_ms_max": round(max(cpu_ms), 3),
        "wall_s": round(statistics.median(wall_s), 3),
        "threads": threads,
    }


class MostThreads:
    """Looks every 20 ms how many threads there are, itself not counted."""

    def __init__(self) -> None:
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self._most = max(self._most, threading.active_count() - 1)

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._most


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tenth of the programs")
    share = 10 if parser.parse_args().small else 1
    cases: dict[str, tuple[Callable[[int], None], int]] = {
        "sync, appending": (partial(run_programs, appending), 2_000 // share),
        "sync, reading": (partial(run_programs, reading), 2_000 // share),
        "async": (partial(run_programs, awaiting), 10_000 // share),
        "asyncio alone": (run_bare, 10_000 // share),
    }
    run_programs(appending, 50)  # imports, first threads
    results: dict[str, dict[str, float]] = {}
    print(f"{'programs':24}{'count':>8}{'CPU ms each':>14}{'(min, max)':>18}{'wall s':>9}{'threads':>9}")
    for name, (run, count) in cases.items():
        time.sleep(2.5)  # idle threads of the case before end
        one = results[name] = measure(run, count)
        spread = f"({one['cpu_ms_min']:.3f}, {one['cpu_ms_max']:.3f})"
        print(f"{name:24}{count:8}{one['cpu_ms_per_program']:14.3f}{spread:>18}{one['wall_s']:9.2f}{one['threads']:9}")
    machine = {"machine": platform.machine(), "python": platform.python_version(), "runs": RUNS, "commit": commit()}
    print(json.dumps({"benchmark": "hub", "latency_s": LATENCY_S, **machine, "results": results}))


if __name__ == "__main__":
    main()
