"""Each example runs as a user would run it, offline, on the built-in model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

# A word of what each one prints, so that an example which says nothing fails.
SAYS = {
    "quickstart": "Washington",
    "few_shot": "tokens were shared",
    "fork_tips": "Tip 2:",
    "choose": "-> positive",
    "streaming": "friend",
    "batch": "sums are right; 0 failed",
    "async_program": "Tokyo",
    "agent": "tool:",
    "own_backend": "6 * (3 + 4) = 42",
    "extract": "Tom, 51, doctor in Oslo",
    "calculator": "8 * 12 = 96",
    "live_json": "Character(name='Arin'",
    "classify": "negative",
}


def test_every_example_is_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", sorted(SAYS))
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
