"""The benchmark for a GPU runs as a whole, with small shapes, where there is none."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = "decode,attention,prefill,forks,throughput-0.6b,constrained"


def test_a_dry_run_measures_every_part() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--runs", "1", "--parts", PARTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["dry"] is True
    assert list(line["parts"]) == PARTS.split(",")
    for figures in line["parts"].values():
        for value in figures.values():
            for number in value if isinstance(value, list) else [value]:
                assert math.isfinite(number)
                assert number > 0
