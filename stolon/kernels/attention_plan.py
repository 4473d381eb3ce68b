"""Which program attends to what: worked out on the host from lengths alone, before any token is known.

The arrays for decode have sizes that depend on the number of rows only, so that a captured CUDA graph can be given new
ones. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .tiles import decode_tile, extend_tile

Ints = NDArray[np.int32]
_Long = NDArray[np.int64]

# Programs that share a multiprocessor, see `tiles`.
RESIDENT = 2
# What starting an item costs, counted in positions it could have read: its first reads wait a memory latency (about a
# microsecond) in which a program would otherwise read this many. Assumed, not measured.
ITEM_COST = 128
# No item is shorter, except where its row ends.
SHORTEST_ITEM = 128
# More items than this for each row are never planned, unless they all run at once.
ITEMS_PER_ROW = 4
# What one more kernel in a captured graph costs. Assumed, not measured.
LAUNCH_S = 2e-6
# A prefix that stays in the second-level cache is read again at about this many times the memory's rate.
CACHED_RATE = 2.0


@dataclass(frozen=True, slots=True)
class Chip:
    """units: streaming multiprocessors; bandwidth: bytes/s of its memory; cache_bytes: of the second-level cache"""

    units: int
    bandwidth: float
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class Heads:
    """A model's attention. item_bytes: of the query's type; kv_item_bytes: of the cache's"""

    heads: int
    kv_heads: int
    head_dim: int
    item_bytes: int
    kv_item_bytes: int

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.kv_heads

    @property
    def position_bytes(self) -> int:
        """Of the keys and values of one position in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.kv_item_bytes

    @property
    def tokens_per_tile(self) -> int:
        """Tokens whose query heads fill a tile of the extend kernel."""
        return extend_tile(self.head_dim, self.item_bytes, self.group).queries // self.group


def plan_extend(lengths: Ints, contexts: Ints, heads: Heads) -> Ints:
    """`ExtendWork.tiles`, those that read most first, so that the last to run are short."""
    step = heads.tokens_per_tile
    counts = -(-lengths // step)
    rows = np.repeat(np.arange(len(lengths), dtype=np.int32), counts)
    starts = np.cumsum(counts) - counts
    first = (np.arange(len(rows)) - starts[rows]) * step
    ends = contexts[rows] - lengths[rows] + np.minimum(first + step, lengths[rows])
    order = np.argsort(-ends, kind="stable")
    return np.stack((rows[order], first[order]), 1).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Shared:
    """Rows whose first `length` positions lie in the same slots; a row is in one group at most."""

    rows: Sequence[int]
    length: int


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """The arrays of `DecodeWork`, which see."""

    items: Ints
    firsts: Ints
    prefixes: Ints | None
    members: Ints
    partials: int


@dataclass(frozen=True, slots=True)
class DecodePlanner:
    """Plans for batches of `rows` rows, real ones first; the others have length 0 and get zeros for an answer.

    The sizes of what it makes are fixed: `items`, `prefixes` and `partials`.
    """

    rows: int
    heads: Heads
    chip: Chip

    @property
    def at_once(self) -> int:
        """Items that run at the same time."""
        return max(1, RESIDENT * self.chip.units // self.heads.kv_heads)

    @property
    def items(self) -> int:
        return max(self.at_once, ITEMS_PER_ROW * self.rows)

    @property
    def prefixes(self) -> int:
        """As many as run at once, or one for each tile there can be."""
        return max(self.at_once, self.rows)

    @property
    def partials(self) -> int:
        return self.items + max(self.rows, self.at_once * self.heads.tokens_per_tile)

    def plan(self, contexts: Ints, shared: Sequence[Shared] = (), window: int | None = None) -> DecodePlan:
        """contexts: int32 [rows], positions of each row with the new one; window: positions seen, itself included

        shared: read once a group where that pays (`pays`), as if it were not shared otherwise. The plan has no
        prefixes if no group is worth it, so that their kernel need not run.
        """
        ends = contexts.astype(np.int64)
        begins = np.zeros_like(ends) if window is None else np.maximum(ends - window, 0)
        groups = [Shared(group.rows, min(group.length, int(ends[list(group.rows)].min()) - 1)) for group in shared]
        groups = [group for group in groups if not begins[list(group.rows)].any() and self.pays(group)]
        splits = np.zeros_like(ends)
        prefixes, members = self._prefixes(groups, splits)
        for group in groups:
            begins[list(group.rows)] = group.length
        items, counts = self._items(begins, ends)
        total = np.where((splits > 0) | (counts > 1), splits + counts, 0)
        firsts = np.zeros(self.rows + 1, np.int32)
        np.cumsum(total, out=firsts[1:])
        self._number(items, counts, splits, firsts)
        return DecodePlan(items, firsts, prefixes, members, self.partials)

    def pays(self, group: Shared) -> bool:
        """Whether reading a group's prefix once saves more time, by the chip's bandwidth, than it costs.

        Saved are the reads of all members beyond one for each tile of them; it costs a kernel, and partial results
        that are written and read. A prefix that fits the second-level cache comes from there after its first read.
        """
        heads, count = self.heads, len(group.rows)
        tiles = -(-count // heads.tokens_per_tile)
        size = group.length * heads.position_bytes
        rate = self.chip.bandwidth * (CACHED_RATE if size <= self.chip.cache_bytes / 2 else 1.0)
        saved = (count - tiles) * size / rate
        splits = max(1, min(self.at_once // tiles, group.length // SHORTEST_ITEM))
        partial_bytes = 4 * heads.heads * (heads.head_dim + 1)
        return saved > 2 * LAUNCH_S + 2 * count * (splits + 1) * partial_bytes / self.chip.bandwidth

    def _prefixes(self, groups: list[Shared], splits: _Long) -> tuple[Ints | None, Ints]:
        """Also fills in how many partial results each row gets of its prefix."""
        members = np.zeros(self.rows, np.int32)
        if not groups:
            return None, members
        step = self.heads.tokens_per_tile
        tiles = [-(-len(group.rows) // step) for group in groups]
        work = sum(t * group.length for t, group in zip(tiles, groups, strict=True))
        # a group of n tiles and k splits makes n * k prefixes: with splits of this size all run at once, if they can
        room = self.at_once - sum(tiles)
        size = max(SHORTEST_ITEM, math.ceil(work / room)) if room > 0 else max(group.length for group in groups)
        size = self._whole(size)
        found: list[tuple[int, int, int, int, int]] = []
        first = 0
        for group in groups:
            count = len(group.rows)
            members[first : first + count] = group.rows
            splits[list(group.rows)] = -(-group.length // size)
            for low in range(0, count, step):
                tile = first + low, min(step, count - low)
                found.extend(
                    (*tile, begin, min(begin + size, group.length), split)
                    for split, begin in enumerate(range(0, group.length, size))
                )
            first += count
        prefixes = np.zeros((self.prefixes, 5), np.int32)
        prefixes[: len(found)] = found
        return prefixes, members

    def _items(self, begins: _Long, ends: _Long) -> tuple[Ints, _Long]:
        """The items, without their partial results; and how many each row has (at least one, if only for zeros)."""
        lengths = ends - begins
        size = self._item_size(lengths)
        counts = np.maximum(-(-lengths // size), 1)
        # cut a row evenly: 5 of 820 positions rather than 4 of 1024 and one of 4
        sizes = -(-lengths // counts)
        sizes = np.maximum(-(-sizes // self._step) * self._step, 1)
        counts = np.maximum(-(-lengths // sizes), 1)
        rows = np.repeat(np.arange(self.rows), counts)
        nth = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
        items = np.full((self.items, 4), -1, np.int32)
        used = items[: len(rows)]
        used[:, 0] = rows
        used[:, 1] = begins[rows] + nth * sizes[rows]
        used[:, 2] = np.minimum(used[:, 1] + sizes[rows], ends[rows])
        return items, counts

    def _item_size(self, lengths: _Long) -> int:
        """Positions an item has at most.

        Two candidates: what makes all items run at once; and what minimises average load plus longest item, the bound
        on any order of running. The one with the lower estimate is taken.
        """
        total, longest = int(lengths.sum()), int(lengths.max())
        fits = math.ceil(total / (self.items - self.rows)) if self.items > self.rows else longest
        best = math.sqrt(total * ITEM_COST / self.at_once)
        candidates = [best]
        if self.at_once > self.rows:
            candidates.append(total / (self.at_once - self.rows))
        sizes = [self._whole(max(SHORTEST_ITEM, fits, math.ceil(size))) for size in candidates]
        return min(sizes, key=lambda size: self._estimate(total, min(size, longest)))

    def _estimate(self, total: int, size: int) -> float:
        """Time in positions read one after another by one program."""
        if not size:
            return 0.0
        items = self.rows + total / size
        bound = (total + items * ITEM_COST) / self.at_once + size
        return min(bound, math.ceil(items / self.at_once) * (size + ITEM_COST))

    def _number(self, items: Ints, counts: _Long, splits: _Long, firsts: Ints) -> None:
        """Give each item its partial result: after those of the prefix; none to what is all of its row."""
        used = items[: int(counts.sum())]
        rows = used[:, 0]
        nth = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
        whole = (counts[rows] == 1) & (splits[rows] == 0)
        used[:, 3] = np.where(whole, -1, firsts[rows] + splits[rows] + nth)

    @property
    def _step(self) -> int:
        return decode_tile(self.heads.head_dim, self.heads.item_bytes, self.heads.group).keys

    def _whole(self, size: int) -> int:
        return -(-size // self._step) * self._step
