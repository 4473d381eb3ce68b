"""What `import stolon` offers."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import stolon
from stolon.lang.options import RUN_OPTIONS, Launch


def test_all_names_are_listed_three_times_alike():
    tree = ast.parse(Path(stolon.__file__).read_text())
    checked = {
        alias.asname
        for node in tree.body
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert checked == set(stolon._MODULE_OF) == set(stolon.__all__) - {"__version__"}
    assert dir(stolon) == sorted(stolon.__all__)


@pytest.mark.parametrize("name", sorted(set(stolon.__all__) - {"Runtime", "OpenAI", "RuntimeEndpoint"}))
def test_every_name_can_be_loaded(name):
    assert getattr(stolon, name) is getattr(stolon, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nope"):
        _ = stolon.nope
    with pytest.raises(AttributeError, match="no images"):
        _ = stolon.image


def test_defect_10_a_program_runs_without_torch_or_any_client_library():
    script = (
        "import sys\n"
        "from stolon import Scripted, function, gen, set_default_backend\n"
        "set_default_backend(Scripted('r'))\n"
        "assert function(lambda s: s.append(gen('x'))).run()['x'] == 'r'\n"
        "print(*{'torch', 'transformers', 'openai', 'aiohttp', 'numpy', 'tqdm'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_type_checkers_see_of_run_is_what_it_takes():
    names = set(inspect.signature(Launch.__call__).parameters) - {"self", "args", "kwargs"}
    assert names == set(RUN_OPTIONS)
