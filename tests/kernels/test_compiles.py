"""What the interpreter cannot tell: the compiler takes every kernel, and it fits an H100 or H200."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_kernel_compiles_for_hopper_and_uses_its_matrix_units(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "benchmarks.kernel_check", "--brief"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout.splitlines()[-1])["kernels"]
    kernels = {report["kernel"] for report in reports}
    assert kernels == {
        *("extend", "prefixes", "items", "merge", "rotary_write", "rms_norm", "silu_mul"),
        *("product", "add_splits", "edit", "floors", "draw", "finish", "top_segments", "top_merge"),
    }
    for report in reports:
        # spills cost a pass over memory; a few bytes outside the loop do not matter
        assert report["spills"] <= 64, report
        if report["kernel"] in ("extend", "prefixes"):
            assert "wgmma" in report["instructions"], report
        if report["kernel"] in ("extend", "prefixes", "items", "product"):
            assert "cp.async" in report["instructions"], report
