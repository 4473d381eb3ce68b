"""Every test of the language runs against a clock: whatever hangs, fails."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from stolon import Scripted, set_default_backend

LIMIT_S = 20


@pytest.fixture(autouse=True)
def _no_test_may_hang() -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"the test did not end within {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _nobody_answers_unless_asked_to() -> Iterator[None]:
    set_default_backend(None)
    yield
    set_default_backend(None)


@pytest.fixture
def scripted() -> Callable[..., Scripted]:
    """Makes a scripted backend and has it answer by default."""

    def make(*args: Any, **kwargs: Any) -> Scripted:
        backend = Scripted(*args, **kwargs)
        set_default_backend(backend)
        return backend

    return make
