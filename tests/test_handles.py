"""What an editor sees: pyright itself says which type `s[handle]` has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_handle_is_typed_by_the_form_it_asks_for() -> None:
    program = """
from typing import Annotated, Literal
from dataclasses import dataclass
from typing_extensions import TypedDict
from stolon import State, function, gen, select, gen_int

@dataclass
class User:
    name: str

class Sheet(TypedDict):
    title: str

@function
def f(s: State) -> None:
    reveal_type(s[gen("x")])
    reveal_type(s[gen("x", 64)])
    reveal_type(s[gen("x", int)])
    reveal_type(s[gen("x", User, max_tokens=300, temperature=0)])
    reveal_type(s[gen(list[User])])
    reveal_type(s[gen("x", Literal["a", "b"])])
    reveal_type(s[gen("x", User | None)])
    reveal_type(s[gen("x", dict[str, Sheet], n=1)])
    reveal_type(s[gen("x", Annotated[int, "a note"])])
    reveal_type(s[gen("x", type=tuple[int, str])])
    reveal_type(s[gen("x", regex="a+")])
    reveal_type(s[gen("x", json_schema=User)])
    reveal_type(s[gen("x", choices=["a", "b"])])
    reveal_type(s[gen_int("x")])
    handle = gen("x", User)
    s += handle
    reveal_type(s[handle].name)
"""
    revealed = [
        *("str", "str", "int", "User", "list[User]", "Literal['a', 'b']", "User | None", "dict[str, Sheet]", "int"),
        *("tuple[int, str]", "str", "str", "str", "str", "str"),
    ]
    assert _revealed(program) == revealed


def _revealed(program: str) -> list[str]:
    """The types that pyright shows for the `reveal_type` calls of a program, which must have no errors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(program)
        command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(path)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert [one["message"] for one in found if one["severity"] == "error"] == []
    return [one["message"].split('" is "')[1].rstrip('"') for one in found if one["severity"] == "information"]
