"""The code of the guides runs as it stands there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import stolon

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_language_guide_runs_as_it_stands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = tmp_path / "guide.py"  # a file, so that errors can name a line
    script.write_text("\n".join(BLOCK.findall((ROOT / "docs" / "language.md").read_text())))
    try:
        runpy.run_path(str(script))
    finally:
        stolon.set_default_backend(None)
    assert "Paris" in capsys.readouterr().out


def test_the_readme_shows_the_program_of_the_examples() -> None:
    shown = BLOCK.findall((ROOT / "README.md").read_text())[0]
    example = (ROOT / "examples" / "quickstart.py").read_text()
    lines = [line for line in shown.splitlines() if line and not line.startswith("from stolon")]
    assert all(line in example for line in lines)
