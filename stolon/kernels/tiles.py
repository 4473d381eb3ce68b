"""Sizes that the kernels work in: one table a kernel.

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
# 1024 numbers a program: enough programs for the chip in decode, few enough not to matter in prefill.
ELEMENTS = Tile(1, 1024, 4, 1)
# Heads of one token that a program turns: eight of 128 are 32 numbers a thread.
ROTARY = Tile(8, 1, 4, 1)
# Logits of a row that a program takes: 16 a thread; a vocabulary of 152k has 38 segments, which fill the chip from 7
# rows on.
SEGMENT = Tile(1, 4096, 8, 1)
# The search for floors reads a row, from the second-level cache, some 15 times over with one program: all its threads.
FLOORS = Tile(1, 8192, 32, 1)
# The likeliest of a segment are taken out one by one, each after a maximum over its threads: with 32 keys of 64 bits a
# thread (80 registers in all, by the compiler) only four warps wait for each other. What is kept of a segment is 20,
# the most that a server's clients may ask for, in a power of two; a vocabulary of 152k leaves 1,216 keys to merge.
LIKELIEST = Tile(1, 4096, 4, 1)
LIKELIEST_KEPT = 32
LIKELIEST_MERGE = Tile(1, 1, 4, 1)
# A number for each segment: one warp.
FINISH = Tile(1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class ProductTile:
    """rows of x, outputs, and inputs of one step of a product's loop"""

    rows: int
    outputs: int
    inputs: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int | bool]:
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


# Programs of a product that reads weights only: two for each multiprocessor of an H100 or H200.
PRODUCT_PROGRAMS = 264
# By the most rows, and the bytes of a weight. Few rows are bound by reading weights: a step reads 16 KiB of them, three
# of which are on the way. Many rows are bound by the matrix units.
_PRODUCT = {
    (16, 1): ProductTile(16, 64, 256, 4, 4),
    (16, 2): ProductTile(16, 64, 128, 4, 4),
    (16, 4): ProductTile(16, 64, 64, 4, 3),
    (64, 1): ProductTile(64, 64, 128, 4, 4),
    (64, 2): ProductTile(64, 64, 128, 4, 3),
    (64, 4): ProductTile(64, 64, 32, 4, 3),
    (128, 1): ProductTile(128, 128, 64, 8, 3),
    (128, 2): ProductTile(128, 128, 64, 8, 3),
    (128, 4): ProductTile(64, 64, 32, 4, 3),
}


def product_tile(rows: int | None, weight_bytes: int, item_bytes: int) -> ProductTile:
    """rows: of x, None for one tile whatever they are: then a row's sums do not depend on how many there are

    item_bytes: of x. In float32 weights of 8 bits take as many registers as others once they are read: with their own
    tile, 800 bytes a thread did not fit.
    """
    if item_bytes == 4:
        weight_bytes = 4
    if rows is None:
        return _PRODUCT[64, weight_bytes]
    return _PRODUCT[16 if rows <= 16 else 64 if rows <= 64 else 128, weight_bytes]


def row_tile(width: int) -> Tile:
    """Of what takes a row whole: 16 numbers a thread, so that a row is read once and stays in registers."""
    return Tile(1, padded(width), min(16, max(1, padded(width) // 512)), 1)


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
