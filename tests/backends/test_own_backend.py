"""The example of a backend of one's own: it runs, it is as short as promised, and the language guards it."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stolon import UnsupportedError, assistant, function, gen, user

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_backend.py"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_backend", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_runs_as_a_script() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert ran.stdout.splitlines() == [
        "user : What is 6 * (3 + 4)?",
        "assistant : 6 * (3 + 4) = 42",
        "user : And 1 / 8?",
        "assistant : 1 / 8",
    ]


def test_a_backend_of_ones_own_takes_under_forty_lines() -> None:
    classes = [node for node in ast.walk(ast.parse(EXAMPLE.read_text())) if isinstance(node, ast.ClassDef)]
    (backend,) = classes
    assert backend.end_lineno is not None
    assert backend.end_lineno - backend.lineno < 40


def test_the_language_refuses_what_the_example_does_not_honour(example: ModuleType) -> None:
    @function
    def warm(s: Any) -> None:
        s += user("1 + 1")
        s += assistant(gen("x", temperature=0.5))

    with pytest.raises(UnsupportedError, match="temperature"):
        warm.run(backend=example.Calls(example.calculate))


def test_the_example_keeps_to_max_tokens(example: ModuleType) -> None:
    @function
    def short(s: Any) -> None:
        s += user("1 + 1")
        s += assistant(gen("x", max_tokens=3))

    state = short.run(backend=example.Calls(example.calculate))
    assert state["x"] == "1 + 1"
    assert state.info("x").finish == "length"
