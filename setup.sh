#!/bin/sh
# Sets up stolon in .venv beside this file, then runs the demo or the tests.
#   sh setup.sh demo [--torch-index URL]     the first program of the README, on the built-in model, offline
#   sh setup.sh test [--torch-index URL]     linters, type checker and tests
# Needs Python 3.10 or newer and pip; no compiler, no GPU.
set -eu
cd "$(dirname "$0")"

usage="usage: sh setup.sh demo|test [--torch-index URL]"
[ $# -ge 1 ] || { echo "$usage" >&2; exit 2; }
job=$1
index=
case "$job" in demo | test) ;; *) echo "$usage" >&2; exit 2 ;; esac
if [ "${2:-}" = --torch-index ]; then
    index=${3:?"--torch-index needs the address of a package index"}
elif [ $# -gt 1 ]; then
    echo "$usage" >&2
    exit 2
fi

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "stolon needs Python 3.10 or newer; got $("$python" --version). Set PYTHON=/path/to/python3.11, say." >&2
    exit 1
}

if [ ! -x .venv/bin/python ]; then
    # Debian's and Ubuntu's Python has venv but, without python3-venv, no ensurepip: then the system's pip fills in.
    "$python" -m venv --without-pip .venv
    system_pip=$("$python" -c 'import os, pip; print(os.path.dirname(os.path.dirname(pip.__file__)))')
    PYTHONPATH="$system_pip" .venv/bin/python -m pip install --quiet --ignore-installed pip
fi

# setuptools warns that folders of the root may take precedence over an editable package; those links are meant to be there
export PYTHONWARNINGS="ignore:Editable installation"

pip() {
    .venv/bin/python -m pip --disable-pip-version-check "$@"
}

install_torch() {
    .venv/bin/python -c 'import torch' 2>/dev/null && return
    set -- 'torch==2.13.0'
    [ -z "$index" ] || set -- "$@" --index-url "$index"
    # Without a GPU nobody wants gigabytes of CUDA: look at what would come before it comes.
    if ! command -v nvidia-smi >/dev/null && pip install --quiet --dry-run --report - "$@" | grep -q '"name": "nvidia-'; then
        echo "This machine has no NVIDIA GPU, but its package index offers only the CUDA build of torch (gigabytes)." >&2
        echo "Run: sh setup.sh $job --torch-index URL, with the address of the CPU wheels from pytorch.org (Get Started)." >&2
        exit 1
    fi
    pip install --quiet "$@"
}

install_torch
if [ "$job" = demo ]; then
    pip install --quiet --editable '.[local]'
    exec .venv/bin/python examples/quickstart.py
fi

pip install --quiet --editable '.[local,dev]'
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/pyright --pythonpath .venv/bin/python
exec .venv/bin/python -m pytest -q
