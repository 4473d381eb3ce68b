"""Runs everything and writes docs/reliability.md: `python -m tests.reliability [--quick] [--only TEXT ...]`.

Each figure stands with the command that made it, its seed, date and result; nothing is written by hand.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"


@dataclass(frozen=True)
class Row:
    """promise: what is held to; command: behind `python -m`; quick: the same in a minute or less"""

    promise: str
    command: str
    quick: str


ROWS = (
    Row(
        "Simulated steps of the scheduler, every invariant checked after each",
        "tests.sim --steps 1000000 --jobs 2 --seed 1",
        "tests.sim --steps 20000 --seed 1",
    ),
    Row(
        "Requests made from the OpenAPI document: no 5xx, every answer as described, wrong ones refused",
        "tests.fuzz_openapi --examples 60",
        "tests.fuzz_openapi --examples 4",
    ),
    Row(
        "What may come over a socket, each with a defined end",
        "pytest -q tests/server/test_raw_corpus.py",
        "pytest -q tests/server/test_raw_corpus.py",
    ),
    Row(
        "Published vulnerabilities of servers of this kind",
        "pytest -q tests/server/test_v_rows.py",
        "pytest -q tests/server/test_v_rows.py",
    ),
    Row(
        "Bad inputs and bounds, each refused by name",
        "pytest -q tests/server/test_bad_input.py tests/server/test_limits.py tests/server/test_command.py",
        "pytest -q tests/server/test_bad_input.py tests/server/test_command.py",
    ),
    Row(
        "Processes killed, stopped, without output or descriptors",
        "pytest -q tests/server/test_faults.py tests/server/test_stopping.py",
        "pytest -q tests/server/test_stopping.py",
    ),
    Row(
        "Overload x10: 90 % of the peak kept, refusals within 50 ms (p99) and with Retry-After, normal after 5 s",
        "tests.reliability.overload --seconds 60",
        "tests.reliability.overload --seconds 6",
    ),
    Row(
        "Idle streams: 300 MB for 10,000, /health within 100 ms (p99)",
        "tests.reliability.idle --streams 10000",
        "tests.reliability.idle --streams 1000",
    ),
    Row(
        "Hostile constraints: each with its error or an answer, other streams unchanged, /health within 100 ms (p99)",
        "tests.reliability.hostile",
        "tests.reliability.hostile",
    ),
    Row(
        "Soak over a fake engine: nothing leaks, 1 MB for 10,000 requests",
        "tests.reliability.soak --engine paced --minutes 10",
        "tests.reliability.soak --engine paced --seconds 15",
    ),
    Row(
        "Soak over the built-in model, invariants checked after every step: nothing leaks",
        "tests.reliability.soak --engine tiny --minutes 10",
        "tests.reliability.soak --engine tiny --seconds 15",
    ),
)


def run(command: str) -> tuple[bool, str]:
    """Whether it held, and its last line."""
    ran = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True)
    lines = ran.stdout.strip().splitlines() or ran.stderr.strip().splitlines() or ["(nothing was said)"]
    return ran.returncode == 0, lines[-1]


def readable(line: str) -> str:
    """The figures of a last line, without what the page says elsewhere."""
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return re.sub(r"\s+", " ", line.strip("= "))
    hidden = {"name", "ok", "python", "cpus", "seconds"}
    return ", ".join(f"{name} {value}" for name, value in found.items() if name not in hidden).replace("|", "/")


def line_of(row: Row, command: str, held: bool, said: str, seconds: float) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return (
        f"| {row.promise} | `python -m {command}` | {datetime.date.today().isoformat()} | {commit.strip()} "
        f"| {seconds:.0f} | {'yes' if held else '**no**'} | {readable(said)} |"
    )


def written(lines: list[str]) -> str:
    head = [
        "# Reliability",
        "",
        "Made by `make reliability`; each figure with the command that made it. Loopback only, on one machine: "
        f"{os.cpu_count()} CPUs, Python {platform.python_version()}. Seeds are 1.",
        "",
        "| promise | command | date | commit | seconds | held | result |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="shorter runs of everything")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="commands that hold one of these; other rows stay")
    asked = parser.parse_args()
    before = PAGE.read_text().splitlines() if asked.only else []
    lines: list[str] = []
    all_held = True
    for row in ROWS:
        command = row.quick if asked.quick else row.command
        if asked.only and not any(text in command for text in asked.only):
            lines += [line for line in before if line.startswith(f"| {row.promise} |")]
            continue
        began = time.monotonic()
        held, said = run(command)
        lines.append(line_of(row, command, held, said, time.monotonic() - began))
        all_held = all_held and held
        print(f"{'held' if held else 'FAILED'}: {command}: {said[:300]}", flush=True)
    PAGE.write_text(written(lines))
    return 0 if all_held else 1


if __name__ == "__main__":
    sys.exit(main())
