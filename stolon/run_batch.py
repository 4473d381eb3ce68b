"""`python -m stolon.run_batch -i in.jsonl -o out.jsonl --model-path DIR`: answer a file of requests."""

from __future__ import annotations

import sys

from .runtime.server.batch import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
