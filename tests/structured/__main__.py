"""`python -m tests.structured --regexes N`: hold answers of random weights to N random regexes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.structured", description=__doc__)
    parser.add_argument("--regexes", type=int, default=500)
    count = parser.parse_args().regexes
    return pytest.main([str(Path(__file__).with_name("test_forms.py")), "-q", "-k", "regex", f"--regexes={count}"])


if __name__ == "__main__":
    sys.exit(main())
