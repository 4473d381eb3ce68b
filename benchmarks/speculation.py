"""What guesses save (`--speculative-algorithm ngram`), and what they cost where they do not come true.

    python -m benchmarks.speculation                       both parts
    python -m benchmarks.speculation --part tasks --runs 5

tasks: the built-in model reads a page about a city and writes its data as an object (`json_extract` of
`benchmarks.constrained`), freely and in its form, one answer at a time and four: forward passes and CPU seconds.

shape: one answer of random weights in the shape of Qwen2.5-0.5B. Greedy, they fall into a loop, so nearly all guesses
come true: the most that can be gained. Drawn at temperature 1, nothing comes twice, so there is nothing to guess: what
looking for it costs.

Both ways take turns in one process, and the answers must be the same (of random weights in bfloat16 the share that
is). Each part prints a table; last comes one line of JSON. One thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from stolon.lang.constraint import Constraint
from stolon.lang.types import SamplingParams
from stolon.runtime.config import EngineConfig, SchedulerConfig, Speculation
from stolon.runtime.engine import Engine

from .constrained import json_extract, made_up_model
from .cpu import commit

WAYS: tuple[Speculation, ...] = ("none", "ngram")
Prompts = Sequence[list[int]]


def engine_of(model: str, way: Speculation, kv_tokens: int) -> Engine:
    scheduler = SchedulerConfig(speculative_algorithm=way)
    return Engine(EngineConfig(model_path=model, threads=1, kv_tokens=kv_tokens, scheduler=scheduler))


async def answers(
    engine: Engine, prompts: Prompts, params: SamplingParams, form: Constraint | None, concurrent: int
) -> list[list[int]]:
    """The tokens of all answers, `concurrent` at a time."""
    places = asyncio.Semaphore(concurrent)

    async def one(prompt: list[int]) -> list[int]:
        tokens: list[int] = []
        async with places, aclosing(engine.generate(prompt, params, constraint=form)) as deltas:
            async for delta in deltas:
                tokens += delta.tokens
        return tokens

    return list(await asyncio.gather(*map(one, prompts)))


def compare(
    engines: dict[Speculation, Engine],
    prompts: Callable[[Engine], Prompts],
    params: SamplingParams,
    form: Constraint | None,
    concurrent: int,
    runs: int,
) -> dict[str, Any]:
    """Both ways in turns; the first run of each warms it up and is not counted."""
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    counts: dict[str, dict[str, int]] = {}
    told: dict[str, list[list[int]]] = {}
    loop = asyncio.new_event_loop()
    for run in range(runs + 1):
        for way, engine in engines.items():
            asked = prompts(engine)
            loop.run_until_complete(engine.flush_cache())
            before, begun = engine.stats(), time.process_time()
            told[way] = loop.run_until_complete(answers(engine, asked, params, form, concurrent))
            spent, now = time.process_time() - begun, engine.stats()
            names = ("steps", "generated", "guessed", "confirmed")
            counts[way] = {name: int(str(now[name])) - int(str(before[name])) for name in names}
            if run:
                cpu[way].append(spent)
    same = [one == other for one, other in zip(told["none"], told["ngram"], strict=True)]
    return {
        "tokens": counts["none"]["generated"],
        "steps": {way: counts[way]["steps"] for way in WAYS},
        "guessed": counts["ngram"]["guessed"],
        "confirmed": counts["ngram"]["confirmed"],
        "cpu_s": cpu,
        "speedup_cpu": statistics.median(cpu["none"]) / statistics.median(cpu["ngram"]),
        "same_answers": sum(same) / len(same),
    }


def measure_tasks(count: int, runs: int) -> list[dict[str, Any]]:
    jobs = json_extract(count)
    engines: dict[Speculation, Engine] = {way: engine_of("tiny", way, 32768) for way in WAYS}
    params = SamplingParams(temperature=0.0, max_tokens=200)

    def prompts(engine: Engine) -> Prompts:
        assert engine.chat is not None
        return [engine.chat.encode(job.messages) for job in jobs]

    found: list[dict[str, Any]] = []
    for name, form in (("free", None), ("in its form", jobs[0].form)):
        for concurrent in (1, 4):
            task = {"task": f"json_extract, {name}", "concurrent": concurrent}
            found.append(task | compare(engines, prompts, params, form, concurrent, runs))
    for engine in engines.values():
        engine.shutdown()
    return found


def measure_shape(size: str, tokens: int, runs: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        made_up_model(size, Path(folder))
        engines: dict[Speculation, Engine] = {way: engine_of(folder, way, 4096) for way in WAYS}
        rng = random.Random(0)
        prompt = [rng.randrange(300, 2000) for _ in range(64)]
        for name, temperature in (("greedy, in a loop", 0.0), ("drawn, nothing twice", 1.0)):
            params = SamplingParams(temperature=temperature, max_tokens=tokens, ignore_eos=True, seed=1)
            task = {"task": name, "concurrent": 1}
            found.append(task | compare(engines, lambda _: [prompt], params, None, 1, runs))
        for engine in engines.values():
            engine.shutdown()
    return found


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'task':28}{'at once':>8}{'tokens':>8}{'steps':>7}{'guessing':>9}{'true':>7}{'CPU':>8}{'same':>7}")
    for row in rows:
        true = row["confirmed"] / max(row["guessed"], 1)
        print(
            f"{row['task']:28}{row['concurrent']:8d}{row['tokens']:8d}{row['steps']['none']:7d}"
            f"{row['steps']['ngram']:9d}{true:7.0%}{row['speedup_cpu']:7.2f}x{row['same_answers']:7.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["tasks", "shape", "both"], default="both")
    parser.add_argument("--answers", type=int, default=30, help="of each task")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer of random weights")
    parser.add_argument("--size", choices=["qwen", "small"], default="qwen")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "speculation", "machine": platform.machine(), "commit": commit()}
    result |= {"python": platform.python_version(), "runs": args.runs}
    if args.part != "shape":
        result["tasks"] = measure_tasks(args.answers, args.runs)
        show(result["tasks"])
    if args.part != "tasks":
        result["shape"] = measure_shape(args.size, args.tokens, args.runs)
        show(result["shape"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
