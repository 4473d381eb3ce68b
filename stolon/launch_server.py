"""`python -m stolon.launch_server --model-path DIR`: serve a model."""

from __future__ import annotations

import sys

from .runtime.server.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
