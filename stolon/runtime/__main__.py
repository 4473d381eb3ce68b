"""`python -m stolon.runtime` is the same as `python -m stolon.launch_server`."""

from __future__ import annotations

import sys

from .server.main import main

sys.exit(main())
