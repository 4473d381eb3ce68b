from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Injected faults are not worth a word, and a kept log record keeps the sequences of the step that failed."""
    caplog.set_level(logging.CRITICAL)
