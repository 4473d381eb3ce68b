"""Sizes that the attention kernels work in: one table a kernel.

No GPU could be measured when these were chosen: the reason given is arithmetic on an H100's limits (227 KiB of shared
memory and 65,536 registers a multiprocessor) and what the compiler reports (`python -m benchmarks.kernel_check`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Tile:
    """queries: rows of a tile, a token's heads count each; keys: positions of one step of its loop"""

    queries: int
    keys: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int | bool]:
        """For the launch; Triton will not always contract multiplications and additions unasked."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


# (padded head size, bytes of the type computed in). 128 queries keep both warp groups' matrix units at work on each key
# that is read; keys are as many as leave room for the stages that hide a read's latency.
_EXTEND = {
    (64, 2): Tile(128, 64, 4, 3),
    (128, 2): Tile(128, 64, 8, 3),
    (256, 2): Tile(128, 32, 8, 2),
    (64, 4): Tile(64, 32, 4, 2),
    (128, 4): Tile(64, 32, 4, 2),
    (256, 4): Tile(32, 16, 4, 2),
}
# Bound by reading keys and values: two programs share a multiprocessor, each with some 32 KiB on the way.
_DECODE = {
    (64, 2): Tile(16, 128, 4, 3),
    (128, 2): Tile(16, 64, 4, 3),
    (256, 2): Tile(16, 32, 4, 3),
    (64, 4): Tile(16, 64, 4, 2),
    (128, 4): Tile(16, 32, 4, 2),
    (256, 4): Tile(16, 16, 4, 2),
}


def padded(size: int) -> int:
    """The next power of two, 16 at least: what a tile's side must be."""
    return max(16, 1 << (size - 1).bit_length())


def extend_tile(head_dim: int, item_bytes: int, group: int) -> Tile:
    """Of prefill, and of the prefix that rows share.

    item_bytes: of the query's type; group: query heads that share a key head; a tile holds one token's at least
    """
    tile = _EXTEND[max(64, padded(head_dim)), max(2, item_bytes)]
    return tile if group <= tile.queries else replace(tile, queries=padded(group))


def decode_tile(head_dim: int, item_bytes: int, group: int) -> Tile:
    """Of single tokens; see `extend_tile`."""
    tile = _DECODE[max(64, padded(head_dim)), max(2, item_bytes)]
    return tile if group <= tile.queries else replace(tile, queries=padded(group))
