"""The house stands: links, packages, wheel contents, light imports, one copy of every module."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml needs Python 3.11 or tomli")

ROOT = Path(__file__).parents[1]
LINKS = ("lang", "runtime", "backends", "kernels")


def run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def packages() -> set[str]:
    """Dotted names of every folder of the package that holds Python files."""
    return {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "stolon").rglob("*.py")
        if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_the_root_leads_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("stolon") / name
    assert link.resolve() == ROOT / "stolon" / name


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == packages()


def test_kernels_is_no_regular_package() -> None:
    # transformers probes for a package called `kernels`; with the root on sys.path it would import ours
    assert not (ROOT / "stolon" / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("name", LINKS)
def test_a_stray_import_through_a_link_fails_instead_of_loading_a_second_copy(name: str) -> None:
    module = {"lang": "types", "runtime": "sequence", "backends": "openai", "kernels": "reference"}[name]
    if name == "kernels":
        # its modules may stand alone; what matters is that the library's probe finds no package with content
        run(
            sys.executable,
            "-c",
            "import importlib.util, sys; s = importlib.util.find_spec('kernels'); assert not s.origin",
        )
        return
    done = subprocess.run([sys.executable, "-c", f"import {name}.{module}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "relative import" in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_every_module_and_the_built_in_model(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "stolon").rglob("*.py")}
    model = {str(p.relative_to(ROOT)) for p in (ROOT / "stolon/runtime/tiny/model").iterdir()}
    assert modules | model | {"stolon/py.typed"} <= names
    strays = {n for n in names if not n.startswith(("stolon/", "stolon-"))}
    assert strays == set()
    assert not any(n.endswith((".pth", ".so")) for n in names)


def test_an_installed_wheel_answers_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel))
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import stolon; assert stolon.__file__.startswith(sys.path[0]), stolon.__file__\n"
        "from stolon import Runtime, assistant, function, gen, user\n"
        "@function\n"
        "def ask(s):\n"
        "    s += user('What is the capital of France?') + assistant(gen('answer', temperature=0))\n"
        "with Runtime('tiny') as backend:\n"
        "    print(ask.run(backend=backend)['answer'])\n"
    )
    assert "Paris" in run(sys.executable, "-c", script, cwd=tmp_path)


def test_import_is_fast() -> None:
    script = "import time; t = time.process_time(); import stolon; print(time.process_time() - t)"
    seconds = min(float(run(sys.executable, "-c", script)) for _ in range(3))
    assert seconds < 0.3


def test_import_opens_nothing(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "def hook(event, args):\n"
        "    assert not event.startswith(('socket.', 'subprocess.', 'os.system')), event\n"
        "sys.addaudithook(hook)\n"
        "import stolon\n"
    )
    run(sys.executable, "-c", script, cwd=tmp_path)


def test_the_server_module_answers_help_from_anywhere(tmp_path: Path) -> None:
    for module in ("stolon.launch_server", "stolon.runtime"):
        started = time.monotonic()
        assert "--model-path" in run(sys.executable, "-m", module, "--help", cwd=tmp_path)
        assert time.monotonic() - started < 20
