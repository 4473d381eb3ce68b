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


# (padded head size, bytes of the type computed in). 128 queries feed both warp groups' matrix units (wgmma takes 64 a
# group); 128 keys halve what a step costs beside its products and still keep everything in registers. Heads of 256 have
# registers for 64 keys. float32 goes through the matrix units three times (tf32x3), which takes so many registers that
# its tiles are smaller.
_EXTEND = {
    (64, 2): Tile(128, 128, 8, 3),
    (128, 2): Tile(128, 128, 8, 3),
    (256, 2): Tile(128, 64, 8, 2),
    (64, 4): Tile(64, 32, 4, 2),
    (128, 4): Tile(32, 32, 4, 2),
    (256, 4): Tile(32, 16, 8, 2),
}
# Bound by reading. To fill 4.8 TB/s at a latency of a microsecond a multiprocessor needs 36 KiB on the way; each of two
# or three programs that share it has the keys and values of two steps of its loop on the way, 32 KiB a step.
_DECODE = {
    (64, 2): Tile(16, 128, 4, 5),
    (128, 2): Tile(16, 64, 4, 5),
    (256, 2): Tile(16, 32, 4, 5),
    (64, 4): Tile(16, 64, 4, 3),
    (128, 4): Tile(16, 32, 4, 3),
    (256, 4): Tile(16, 16, 4, 3),
}
# One row's head, 16 partial results at a time: 8 KiB on the way, so that 30 pieces take two memory latencies.
MERGE = Tile(1, 16, 4, 1)


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
