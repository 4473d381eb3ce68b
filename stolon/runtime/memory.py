"""How much memory there is, and how large the KV cache may be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..lang.errors import InvalidRequest
from .config import EngineConfig
from .models.config import ModelConfig

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class KVShape:
    """What one token takes in the KV cache."""

    layers: int
    kv_heads: int
    head_dim: int
    item_bytes: int

    @classmethod
    def of(cls, model: ModelConfig, item_bytes: int) -> KVShape:
        return cls(layers=model.num_layers, kv_heads=model.num_kv_heads, head_dim=model.head_dim, item_bytes=item_bytes)

    @property
    def token_bytes(self) -> int:
        return self.layers * 2 * self.kv_heads * self.head_dim * self.item_bytes

    def __str__(self) -> str:
        return (
            f"{self.layers} layers x 2 (keys, values) x {self.kv_heads} heads x {self.head_dim} x "
            f"{self.item_bytes} bytes = {self.token_bytes:,} bytes a token"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KVBudget:
    """The size of the KV cache in tokens, and how it came about, for people to read."""

    tokens: int
    report: str


def asked_tokens(config: EngineConfig, shape: KVShape) -> int | None:
    """The size of the KV cache that the settings name, in tokens; None where they leave it open."""
    return config.kv_tokens if config.kv_bytes is None else config.kv_bytes // shape.token_bytes


def size_kv_cache(
    shape: KVShape, *, free_bytes: int, fraction: float, asked: int | None, useful: int, page_size: int
) -> KVBudget:
    """How many tokens' keys and values to keep.

    asked: the user's own number; useful: what all requests together could ever fill
    Raises InvalidRequest if the cache does not fit in free memory, or not one page does.
    """
    if not 0 < fraction <= 1:
        raise InvalidRequest(f"memory_fraction must be in (0, 1], got {fraction}", param="memory_fraction")
    share = int(free_bytes * fraction) // shape.token_bytes
    room = free_bytes // shape.token_bytes
    wanted = min(share, useful) if asked is None else asked
    tokens = wanted // page_size * page_size
    if tokens > room:
        raise InvalidRequest(
            f"a KV cache of {tokens:,} tokens needs {_gib(tokens * shape.token_bytes)}, "
            f"but {_gib(free_bytes)} are free ({room:,} tokens); ask for fewer",
            param="kv_tokens",
        )
    if tokens < page_size:
        raise InvalidRequest(
            f"the KV cache would hold {tokens} tokens: {_gib(free_bytes)} are free, {wanted:,} tokens of "
            f"{shape.token_bytes:,} bytes are wanted, pages are of {page_size}; free memory or ask for more",
            param="kv_tokens",
        )
    if asked is not None:
        why = f"as asked, of {_gib(free_bytes)} free"
    elif share <= useful:
        why = f"{100 * fraction:g}% of {_gib(free_bytes)} free"
    else:
        why = f"all that max_running_requests x context_length can fill, of {_gib(free_bytes)} free"
    return KVBudget(
        tokens=tokens,
        report=f"KV cache: {shape}; {_gib(tokens * shape.token_bytes)} ({why}) -> {tokens:,} tokens",
    )


def free_memory_bytes() -> int:
    """Memory that this process may still take: what the machine has available, or less under a cgroup limit."""
    free = _available_bytes()
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, now = _number(limit), _number(used)
        if most is not None and now is not None:
            free = min(free, max(most - now, 0))
    return free


def _available_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # no /proc (macOS): half of what is installed, since nobody tells what is free
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
