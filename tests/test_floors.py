"""Imports go down the floors only. Lazy imports and TYPE_CHECKING imports count: what matters is the design."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stolon"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# The runtime's floors, top first. A module may import from its own floor and from those below it.
RUNTIME_FLOORS: tuple[tuple[str, ...], ...] = (
    ("__main__", "cli", "launch", "server", "openapi"),
    (
        *("wire", "routes", "auth", "limits", "sse", "score", "engine", "embed", "loop", "core", "step_log"),
        *("sampling_defaults", "endings"),
    ),
    ("tokenizer", "detokenize", "stops", "answer", "masks", "constrained", "preface", "forms", "chat", "grammar"),
    (
        *("runner", "cpu", "device", "loading", "graphs", "batch", "staging", "slot_table", "accelerator"),
        *("kv", "oom", "sampler", "weights", "directories", "memory", "models", "packed", "pooling"),
    ),
    (
        *("scheduler", "planner", "admission", "roster", "view", "waiting", "holdings", "cascade", "invariants"),
        *("pipeline", "throttle", "undo", "ngram", "radix", "pages", "sequence", "config", "metrics"),
    ),
)
LANG_NAMES_FOR_THE_RUNTIME = {"types", "constraint", "errors"}
LOCAL_ONLY = {"torch", "transformers", "safetensors", "tokenizers", "numpy", "jinja2", "triton", "huggingface_hub"}
REMOTE_ONLY = {"openai", "aiohttp", "tqdm", "pydantic"}


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Every module that `path` imports, absolute, wherever in the file the import stands."""
    name = dotted(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import radix` imports a module, `from .radix import X` a name of one
            for alias in node.names:
                deeper = PACKAGE.parent / Path(*f"{target}.{alias.name}".split("."))
                yield f"{target}.{alias.name}" if deeper.with_suffix(".py").exists() or deeper.is_dir() else target


def imports_within(folder: str) -> Iterator[tuple[str, str]]:
    for path in MODULES:
        name = dotted(path)
        if name.startswith(f"stolon.{folder}.") or name == f"stolon.{folder}":
            for target in imports_of(path):
                yield name, target


def test_every_import_inside_the_package_is_relative() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] not in {"stolon", "lang", "runtime", "backends"}, f"{path}: import {name}"


def test_the_language_imports_only_itself_and_the_standard_library() -> None:
    for name, target in imports_within("lang"):
        top = target.split(".")[0]
        ours = target.startswith("stolon.lang") or (name, target) == ("stolon.lang", "stolon")
        small = top in {"typing_extensions", "tqdm", "pydantic", "pydantic_core"}
        assert ours or small or top in sys.stdlib_module_names, f"{name} imports {target}"


def test_backends_stand_on_the_language_and_only_the_local_one_on_the_runtime() -> None:
    for name, target in imports_within("backends"):
        if target.startswith("stolon."):
            allowed = ("stolon.lang", "stolon.backends") + (("stolon.runtime",) if name.endswith(".local") else ())
            assert target.startswith(allowed), f"{name} imports {target}"


def floor_of(module: str) -> int | None:
    """Index of the runtime floor that `module` stands on; None for `tiny`, which only the weights' loader may use."""
    parts = module.split(".")
    if len(parts) < 3 or parts[2] == "tiny":
        return None
    for index, names in enumerate(RUNTIME_FLOORS):
        if any(parts[2] == n or parts[2].startswith(f"{n}_") for n in names):
            return index
    raise AssertionError(f"{module} stands on no floor: give it a line in RUNTIME_FLOORS")


def test_the_runtime_imports_downwards_only() -> None:
    for name, target in imports_within("runtime"):
        if not target.startswith("stolon.") or target == "stolon.runtime":
            continue
        if target.startswith("stolon.lang"):
            assert target.split(".")[2] in LANG_NAMES_FOR_THE_RUNTIME, f"{name} imports {target}"
        elif target.startswith("stolon.runtime"):
            here, there = floor_of(name), floor_of(target)
            assert here is None or there is None or here <= there, f"{name} imports {target}, which stands above it"
        else:
            assert target.startswith("stolon.kernels"), f"{name} imports {target}"


def test_the_planning_floor_knows_no_torch() -> None:
    for name, target in imports_within("runtime"):
        if name != "stolon.runtime" and floor_of(name) == len(RUNTIME_FLOORS) - 1:
            assert target.split(".")[0] not in {"torch", "transformers", "safetensors"}, f"{name} imports {target}"


def test_kernels_stand_on_nothing_of_ours_but_types_and_errors() -> None:
    for name, target in imports_within("kernels"):
        if target.startswith("stolon."):
            assert target.startswith(("stolon.kernels", "stolon.lang.types", "stolon.lang.errors")), f"{name}: {target}"


LIGHT = [
    ("stolon", LOCAL_ONLY | REMOTE_ONLY),
    ("stolon.lang.backend", LOCAL_ONLY | REMOTE_ONLY),
    ("stolon.backends.openai", LOCAL_ONLY),
    ("stolon.backends.endpoint", LOCAL_ONLY),
    ("stolon.runtime.scheduler", {"torch", "transformers"}),
]


@pytest.mark.parametrize(("module", "banned"), LIGHT, ids=[name for name, _ in LIGHT])
def test_importing_stays_light(module: str, banned: set[str]) -> None:
    script = f"import sys, {module}; print(*set(sys.modules).intersection({sorted(banned)!r}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []
