"""Every test that asks for a `speaker` runs once for each remote backend and kind of server."""

from __future__ import annotations

import pytest

from tests.backends.speakers import SPEAKERS, Speaker


@pytest.fixture(params=SPEAKERS, ids=lambda speaker: speaker.name)
def speaker(request: pytest.FixtureRequest) -> Speaker:
    return request.param
