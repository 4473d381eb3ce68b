"""Who holds which KV slots: the free pool, the tree, or one sequence. Slots move between the three here only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import RadixEvictionPolicy
from .pages import PagePool
from .radix import NO_SLOTS, RadixNode, RadixTree
from .sequence import Sequence

FIRST_GUESS = 4.0  # by what factor a program's longest request outgrows its first, until programs have ended and told


@dataclass(slots=True, eq=False)
class Pin:
    """A live program's claim on a prefix."""

    node: RadixNode
    expires_s: float


@dataclass(slots=True, eq=False)
class Extent:
    """Tokens of a live program's first request and of its longest."""

    first: int
    longest: int


class Holdings:
    """The books of the KV memory.

    A sequence's positions below `node.end` lie in the tree, which it locks; those up to `allocated` are its own.

    share: False keeps the tree empty: nothing is reused; eviction: what of it goes first
    most_pinned: tokens that live programs may pin together
    """

    def __init__(
        self,
        pool: PagePool,
        *,
        share: bool,
        most_pinned: int,
        pin_seconds: float,
        clock: Callable[[], float],
        eviction: RadixEvictionPolicy = "lru",
    ) -> None:
        self.pool = pool
        self.tree = RadixTree(pool.page_size, eviction)
        self.page_size = pool.page_size
        self.share = share
        self.evicted = 0
        self._most_pinned = most_pinned
        self._pin_seconds = pin_seconds
        self._clock = clock
        self._pins: dict[int, list[Pin]] = {}  # by program, in order of last use
        self._extents: dict[int, Extent] = {}  # of live programs
        self._growth = FIRST_GUESS
        self.ended = 0  # programs

    # -- room

    @property
    def available(self) -> int:
        """Tokens that could be allocated: what is free, evictable, or only pinned."""
        return self.pool.free + self.tree.evictable + self.tree.loose

    def round_up(self, tokens: int) -> int:
        return -(-tokens // self.page_size) * self.page_size

    def reserve(self, tokens: int) -> bool:
        """Make `tokens` (whole pages) free by evicting, then by dropping the pins of the programs that lose least."""
        while True:
            short = tokens - self.pool.free
            if short <= 0:
                return True
            for slots in self.tree.evict(short):
                self.evicted += len(slots)
                self.pool.give(slots)
            if self.pool.free >= tokens:
                return True
            if not self._pins:
                return False
            self.unpin(self._least_pinned())

    # -- a sequence's life

    def limit(self, sequence: Sequence) -> int:
        """How many of its tokens it may take from the cache: its last one is computed anew for the logits, and so are
        prompt positions whose log-probabilities it still has to deliver."""
        most = len(sequence.tokens) - 1
        if sequence.params.prompt_logprobs is not None and sequence.scored < sequence.num_prompt:
            most = min(most, max(sequence.params.logprob_start - 1, sequence.scored - 1, 0))
        return most

    def admit(self, sequence: Sequence, node: RadixNode, length: int) -> None:
        """Hold the first `length` tokens, found at `node` by `tree.match`."""
        node = self.tree.anchor(node, length)
        self.tree.lock(node)
        node.uses += 1
        node.priority = max(node.priority, sequence.priority)
        sequence.node = node
        sequence.slots = np.empty(max(16, self.round_up(len(sequence.tokens) + 8)), np.int32)
        self.tree.read(node, 0, sequence.slots)
        sequence.relocated += 1
        sequence.computed = sequence.allocated = length

    def adopt(self, sequence: Sequence) -> int:
        """Take over what others have cached beyond what this sequence has computed; returns how many tokens."""
        held = sequence.node
        if not self.share or held is None or sequence.computed - held.end >= self.page_size or not held.children:
            return 0
        node, length = self.tree.match(sequence.tokens, self.limit(sequence), sequence.salt, held, held.end)
        gain = length - sequence.computed
        if gain <= 0:
            return 0
        self._free_own(sequence)
        node = self.tree.anchor(node, length)
        self._move(sequence, node)
        self.tree.read(node, held.end, self._room(sequence, length))
        sequence.relocated += 1
        sequence.computed = sequence.allocated = length
        return gain

    def grow(self, sequence: Sequence, end: int) -> None:
        """Give it slots up to position `end`; they must be free."""
        short = end - sequence.allocated
        if short <= 0:
            return
        pages = -(-short // self.page_size)
        upto = sequence.allocated + pages * self.page_size
        self._room(sequence, upto)[sequence.allocated : upto] = self.pool.take(pages)
        sequence.allocated = upto

    def grow_page(self, sequence: Sequence) -> None:
        """`grow` by one page; one must be free."""
        start, size = sequence.allocated, self.page_size
        slots = sequence.slots
        if start + size > len(slots):
            slots = self._room(sequence, start + size)
        first = self.pool.take_one()
        if size == 1:
            slots[start] = first
        else:
            slots[start : start + size] = np.arange(first, first + size, dtype=np.int32)
        sequence.allocated = start + size

    def publish(self, sequence: Sequence, step: int) -> None:
        """Put what step `step` is about to compute into the tree at once, so that others may read it in the same step.

        Whole pages only, and only right behind what the sequence holds of the tree already.
        """
        node = sequence.node
        assert node is not None
        end = sequence.computed - sequence.computed % self.page_size
        if not self.share or end <= node.end:
            return
        child = self.tree.extend(node, sequence.tokens, end, sequence.slots[node.end : end], sequence.salt)
        if child is not None:
            child.step, child.writer = step, sequence.id
            self._move(sequence, child)

    def is_contiguous(self, sequence: Sequence) -> bool:
        """Whether all it has computed, but for a part of a page, lies in the tree."""
        return sequence.node is not None and sequence.computed - sequence.node.end < self.page_size

    def rewind(self, sequence: Sequence, node: RadixNode) -> None:
        """Give back all beyond `node`, an ancestor of what it holds."""
        self._free_own(sequence)
        self._move(sequence, node)
        sequence.relocated += 1
        sequence.computed = sequence.allocated = node.end

    def settle(self, sequence: Sequence) -> RadixNode | None:
        """Give everything back: what was computed stays in the tree as evictable, the rest becomes free.

        returns: the node where it ended
        """
        node = sequence.node
        if node is None:
            return None
        start, own = node.end, sequence.slots
        computed = min(sequence.computed, len(sequence.tokens))  # what came after an end is of no use to anybody
        end = computed - computed % self.page_size
        if self.share and end > start:
            last, known = self.tree.insert(node, sequence.tokens, end, own[start:end], sequence.salt)
            self.pool.give(own[start:known])
            self.pool.give(own[end : sequence.allocated])
            self._move(sequence, last)
        else:
            last = node
            self._free_own(sequence)
        self.tree.unlock(last)
        sequence.node = None
        sequence.slots = NO_SLOTS
        sequence.computed = sequence.allocated = 0
        return last

    def _room(self, sequence: Sequence, upto: int) -> NDArray[np.int32]:
        if upto > len(sequence.slots):
            wider = np.empty(max(upto, 2 * len(sequence.slots)), np.int32)
            wider[: len(sequence.slots)] = sequence.slots
            sequence.slots = wider
        return sequence.slots

    def _move(self, sequence: Sequence, node: RadixNode) -> None:
        held = sequence.node
        assert held is not None
        self.tree.lock(node)
        self.tree.unlock(held)
        node.priority = max(node.priority, sequence.priority)
        sequence.node = node

    def _free_own(self, sequence: Sequence) -> None:
        assert sequence.node is not None
        self.pool.give(sequence.slots[sequence.node.end : sequence.allocated])
        sequence.allocated = sequence.node.end

    # -- faults

    def drop(self, node: RadixNode) -> None:
        """Forget `node` and what lies below; nobody may lock any of it. All pins go, as one may lie there."""
        if not node.alive:
            return
        while self._pins:
            self.unpin(next(iter(self._pins)))
        for slots in self.tree.drop(node):
            self.pool.give(slots)

    def flush(self) -> None:
        """Empty the tree; nobody may lock any of it."""
        for node in list(self.tree.root.children.values()):
            self.drop(node)

    # -- live programs

    def pin(self, program: int, node: RadixNode, width: int) -> None:
        """Keep `node` for `program`, in place of what it pinned before (its last `width` prefixes stay)."""
        if not node.end:
            return
        pins = self._pins.pop(program, [])
        self._pins[program] = pins
        self.tree.pin(node)
        pins.append(Pin(node, self._clock() + self._pin_seconds))
        while len(pins) > max(width, 1):
            self.tree.unpin(pins.pop(0).node)
        while self._pins and self.tree.pinned > self._most_pinned:
            self.unpin(self._least_pinned())

    def _least_pinned(self) -> int:
        """The program whose longest prefix is shortest: it has the least to compute again."""
        return min(self._pins, key=lambda program: max(pin.node.end for pin in self._pins[program]))

    def unpin(self, program: int) -> None:
        """Take its claims back. If it asks again, it has to come in like one that begins."""
        self._extents.pop(program, None)
        for pin in self._pins.pop(program, ()):
            self.tree.unpin(pin.node)

    def end(self, program: int) -> None:
        """The program asks no more; what it grew to is a guess at what others will."""
        extent = self._extents.get(program)
        if extent is not None:
            self.ended += 1
            self._growth += (extent.longest / extent.first - self._growth) / min(self.ended + 1, 16)
        self.unpin(program)

    def is_live(self, program: int) -> bool:
        return program in self._extents

    def note(self, program: int, tokens: int) -> None:
        """A request of the program has got so long."""
        extent = self._extents.setdefault(program, Extent(tokens, tokens))
        extent.longest = max(extent.longest, tokens)

    def to_come(self) -> float:
        """Tokens by which the live programs are expected to grow."""
        return sum(max(extent.first * self._growth - extent.longest, 0) for extent in self._extents.values())

    def fits_a_program(self, need: int, tokens: int) -> bool:
        """Whether one more could begin, and grow, beside the live ones as they grow.

        need: memory for its first request, of `tokens` tokens
        """
        held = self.pool.num_slots - self.pool.free - self.tree.evictable
        return held + self.to_come() + need + tokens * (self._growth - 1) <= self.pool.num_slots

    def pinned_nodes(self) -> list[RadixNode]:
        return [pin.node for pins in self._pins.values() for pin in pins]

    def expire_pins(self) -> None:
        now = self._clock()
        while self._pins:
            program = next(iter(self._pins))
            if self._pins[program][-1].expires_s > now:
                return
            self.unpin(program)
