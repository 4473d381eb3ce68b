"""Programs that share prefixes, run on the local runtime.

    python -m benchmarks.workloads --size smoke                     all workloads, all ablations, seconds
    python -m benchmarks.workloads --size cpu --only chat --only full --runs 5

For each workload the full system runs first; that gives the best possible hit rate (of an unlimited cache that computes
each distinct prefix once) and the distinct work, by which the small caches of the ablations are sized. Greedy outputs
must be equal in all of them. The model has random weights (`cpu`) or is the built-in one (`smoke`): the figures say
nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stolon import Runtime
from stolon.runtime.tiny import MODEL_DIR

from .best import Best, best_possible
from .cases import CASES, Case, Size
from .metered import Metered, Record

# name -> (settings of the runtime, cache as a share of the distinct work; None: all there is)
ABLATIONS: dict[str, tuple[dict[str, Any], float | None]] = {
    "full": ({}, None),
    "half-cache": ({}, 0.5),
    "half-cache-fcfs": ({"schedule_policy": "fcfs"}, 0.5),
    "fcfs": ({"schedule_policy": "fcfs"}, None),
    "no-cache": ({"radix_cache": False}, None),
    "chunk-64": ({"token_budget": 64}, None),
    "page-16": ({"page_size": 16}, None),
}


@dataclass
class Outcome:
    """One workload under one ablation; times are medians over the runs, counters those of the last run.

    share_of_best: hit rate as a share of the best possible
    """

    workload: str
    ablation: str
    programs: int
    requests: int
    cache_tokens: int
    programs_per_s: float
    programs_per_cpu_s: float
    ttft_ms_p50: float
    ttft_ms_p99: float
    tpot_ms_p50: float
    prompt_tokens: int
    saved_tokens: int
    hit_rate: float
    share_of_best: float
    forward_passes: int
    computed_tokens: int
    preemptions: int
    runs: int


def random_model(folder: Path) -> Path:
    """A 27 M-parameter Llama with random weights, spread wide enough for varied greedy text, and the tokenizer of the
    built-in model."""
    torch.manual_seed(0)
    vocabulary = json.loads((MODEL_DIR / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=vocabulary, max_position_embeddings=8192, initializer_range=0.1, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        if (MODEL_DIR / name).exists():
            shutil.copy(MODEL_DIR / name, folder)
    return folder


@contextmanager
def model_of(size: Size) -> Iterator[str]:
    if size == "smoke":
        yield "tiny"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(random_model(Path(folder)))


def run_once(case: Case, backend: Metered) -> tuple[list[str], float, float]:
    """The texts of all programs, wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    batch = case.program.map(case.items, backend=backend, temperature=0)
    return [state.text() for state in batch], time.perf_counter() - wall, time.process_time() - cpu


def counters(runtime: Runtime) -> dict[str, int]:
    return asdict(runtime.stats().counters)


def measure(case: Case, ablation: str, model: str, known: Best | None, runs: int) -> tuple[Outcome, list[str], Best]:
    settings, share = ABLATIONS[ablation]
    if share is not None:
        assert known is not None, "the full run comes first and tells how much distinct work there is"
        settings = {**settings, "kv_tokens": max(int(share * known.distinct_tokens), known.longest + 16)}
    with Runtime(model, dtype="float32", **settings) as runtime:
        backend = Metered(runtime)
        walls: list[float] = []
        cpus: list[float] = []
        texts: list[str] = []
        before = counters(runtime)
        for _ in range(runs):
            runtime.flush()
            backend.record, before = Record(), counters(runtime)
            texts, wall, cpu = run_once(case, backend)
            walls.append(wall)
            cpus.append(cpu)
        now = counters(runtime)
        spent = {name: now[name] - before[name] for name in now}
        total = runtime.stats().total
    best = known or best_possible(backend.record.requests)
    firsts = [t.first_s for t in backend.record.timings]
    eachs = [t.each_s for t in backend.record.timings if t.each_s is not None]
    hit_rate = spent["cached"] / max(spent["prompt"], 1)
    outcome = Outcome(
        workload=case.name,
        ablation=ablation,
        programs=len(case.items),
        requests=len(backend.record.requests),
        cache_tokens=total,
        programs_per_s=len(case.items) / statistics.median(walls),
        programs_per_cpu_s=len(case.items) / statistics.median(cpus),
        ttft_ms_p50=1e3 * quantile(firsts, 0.5),
        ttft_ms_p99=1e3 * quantile(firsts, 0.99),
        tpot_ms_p50=1e3 * quantile(eachs, 0.5),
        prompt_tokens=spent["prompt"],
        saved_tokens=spent["cached"],
        hit_rate=hit_rate,
        share_of_best=hit_rate / best.hit_rate if best.hit_rate else 1.0,
        forward_passes=spent["steps"],
        computed_tokens=spent["computed"],
        preemptions=spent["preemptions"],
        runs=runs,
    )
    return outcome, texts, best


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def compare(case: Case, ablations: list[str], model: str, runs: int) -> tuple[list[Outcome], list[str]]:
    """All outcomes of one workload, and the ablations whose texts differ from those of the full system."""
    outcomes: list[Outcome] = []
    different: list[str] = []
    reference: list[str] | None = None
    best: Best | None = None
    for ablation in ["full", *(a for a in ablations if a != "full")]:
        outcome, texts, best = measure(case, ablation, model, best, runs)
        print(row(outcome), flush=True)
        outcomes.append(outcome)
        reference = reference or texts
        if texts != reference:
            different.append(f"{case.name}/{ablation}")
    return outcomes, different


HEADER = (
    f"{'workload':16}{'ablation':16}{'programs/s':>11}{'TTFT p50':>10}{'p99 ms':>9}{'TPOT ms':>9}"
    f"{'hit rate':>10}{'of best':>9}{'saved':>9}{'passes':>8}{'computed':>10}{'preempted':>10}"
)


def row(o: Outcome) -> str:
    return (
        f"{o.workload:16}{o.ablation:16}{o.programs_per_s:11.2f}"
        f"{o.ttft_ms_p50:10.1f}{o.ttft_ms_p99:9.1f}{o.tpot_ms_p50:9.2f}"
        f"{o.hit_rate:10.3f}{o.share_of_best:9.3f}{o.saved_tokens:9d}"
        f"{o.forward_passes:8d}{o.computed_tokens:10d}{o.preemptions:10d}"
    )


def commit() -> str:
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return asked.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["smoke", "cpu"], default="smoke")
    parser.add_argument("--only", action="append", choices=[*CASES], help="a workload; all by default")
    parser.add_argument("--ablation", action="append", choices=[*ABLATIONS], help="beside `full`; all by default")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    print(HEADER)
    outcomes: list[Outcome] = []
    different: list[str] = []
    with model_of(args.size) as model:
        for name in args.only or CASES:
            found, unequal = compare(CASES[name](args.size), args.ablation or [*ABLATIONS], model, args.runs)
            outcomes += found
            different += unequal
    print("greedy outputs are equal" if not different else f"OUTPUTS DIFFER: {', '.join(different)}")
    machine = {"machine": platform.machine(), "python": platform.python_version(), "commit": commit()}
    print(json.dumps({"benchmark": "workloads", "size": args.size, **machine, "outputs_equal": not different,
                      "outcomes": [asdict(o) for o in outcomes]}))  # fmt: skip
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
