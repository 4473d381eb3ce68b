"""What the runtime reaches on a GPU, beside what the GPU itself can do, and beside `transformers` in the same run.

    python -m benchmarks.gpu                         # one H200; takes half an hour
    python -m benchmarks.gpu --parts decode,prefill
    python -m benchmarks.gpu --dry                   # the same code with small shapes on a CPU; numbers mean nothing

Random weights in the shapes of Llama-3.1-8B, Qwen3-0.6B and Qwen3-14B, bfloat16, lengths forced. Each part runs in a
process of its own. Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_measures import PARTS, Task


@dataclass(frozen=True)
class Target:
    """What a figure should reach. part, name: where it is found; least: True if more is better"""

    what: str
    part: str
    name: str
    bound: float
    least: bool = True


TARGETS = (
    Target("decode, batch 1, 8B, context 1k: share of weight bytes / bandwidth", "decode", "share", 0.85),
    Target("decode attention, batch 64, context 32k: share of bandwidth", "attention", "share", 0.80),
    Target("prefill, 8B, 8k tokens: share of the matrix rate", "prefill", "share", 0.60),
    Target("64 forks of a 16k prefix, decode: times without sharing", "forks", "times", 5.0),
    Target("GPU idle between steps, 0.6B, batch 64", "idle", "share", 0.05, least=False),
    Target("256 requests, 0.6B: times transformers", "throughput-0.6b", "times", 5.0),
    Target("256 requests, 14B: times transformers", "throughput-14b", "times", 5.0),
    Target("constrained against free decoding, batch 64", "constrained", "share", 0.97),
)


def run_part(part: str, task: Task) -> dict[str, Any]:
    return PARTS[part](task)


def in_a_process(part: str, task: Task) -> dict[str, Any]:
    """A part that fails says so in its own place; the others go on."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", part, "--folder", str(task.folder)]
    command += ["--runs", str(task.runs), *(["--dry"] if task.dry else [])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"failed": f"exit status {done.returncode}; see standard error"}
    return json.loads(done.stdout.splitlines()[-1])


def median(value: list[float] | float | None) -> float | None:
    return statistics.median(value) if isinstance(value, list) else value


def report(found: dict[str, dict[str, Any]]) -> None:
    print(f"{'':75}{'target':>9}{'found':>9}")
    for target in TARGETS:
        if target.part not in found:
            continue
        value = median(found[target.part].get(target.name))
        sign = "≥" if target.least else "<"
        shown = "failed" if "failed" in found[target.part] else "-" if value is None else f"{value:.3g}"
        print(f"{target.what:75}{f'{sign} {target.bound:g}':>9}{shown:>9}")


def machine(*, dry: bool) -> dict[str, str]:
    import torch

    facts = {"python": platform.python_version(), "torch": torch.__version__}
    if dry:
        return {"machine": platform.processor() or platform.machine(), **facts}
    return {"machine": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda), **facts}


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="small shapes on a CPU, in one process")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.part:
        print(json.dumps(run_part(asked.part, Task(asked.folder, asked.runs, asked.dry))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(Path(scratch), asked.runs, asked.dry)
        run = run_part if asked.dry else in_a_process
        found = {part: run(part, task) for part in asked.parts.split(",")}
    report(found)
    facts = {"commit": commit(), **machine(dry=asked.dry), "dry": asked.dry, "runs": asked.runs}
    print(json.dumps({**facts, "parts": found}))


if __name__ == "__main__":
    main()
