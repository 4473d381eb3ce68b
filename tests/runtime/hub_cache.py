"""A cache of models as the Hugging Face hub's own client leaves it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def put_in_cache(cache: Path, name: str, folder: Path, commit: str, ref: str | None = None) -> Path:
    """Lays `folder` out as the cache has it, and returns the snapshot: links to blobs that are named by content."""
    root = cache / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        blob = root / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if ref is not None:
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / ref).write_text(commit)
    return snapshot
