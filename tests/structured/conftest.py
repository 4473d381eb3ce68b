"""One engine with random weights for all answers in a form."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from stolon.runtime.engine import Engine
from tests.runtime.answers import engine_of

REGEXES = 100  # tried in the suite


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regexes", type=int, default=REGEXES, help="how many regexes to try")


@pytest.fixture(scope="session")
def num_regexes(pytestconfig: pytest.Config) -> int:
    # the option is known only where this folder is named on the command line
    return int(pytestconfig.getoption("--regexes", default=REGEXES) or REGEXES)


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    engine = engine_of(tiny_checkpoint)
    yield engine
    asyncio.run(engine.close())
