"""One thread: the products here are small, and threads that wait for each other take most of the time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if sys.platform != "linux":
    # there is no Triton for other systems
    names = ("attention", "compiles", "elementwise", "far_offsets", "likeliest", "linear", "on_gpu", "sample")
    collect_ignore = [f"test_{name}.py" for name in (*names, "whole_model")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The interpreter of Triton 3.6, the newest that some Pythons have, makes numbers of arrays of one number."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that is taken and not yet written holds NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
