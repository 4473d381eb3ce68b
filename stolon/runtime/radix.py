"""A tree of token runs whose KV entries are cached: what any request computed, every later request may read.

Keys are exact token ids, compared as whole runs and never hashed, below a salt: different salts share nothing.
Matching reads only. Nodes are split when somebody locks or inserts in their middle.
Source of the idea: RadixAttention, arXiv:2312.07104, section 3.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterator
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from .config import RadixEvictionPolicy
from .pages import InvariantError

Edge = int | bytes | tuple[str, int | bytes]

NO_SLOTS = np.empty(0, np.int32)
NOBODYS = -(1 << 63)  # a priority below all

# What a node is worth by each policy. It may only grow while the node lives, as entries of the heap are not looked for.
Worth = int | tuple[int, int]
_WORTH: dict[RadixEvictionPolicy, Callable[[RadixNode], Worth]] = {
    "lru": attrgetter("access"),
    "lfu": attrgetter("uses", "access"),
    "priority": attrgetter("priority", "access"),
}


class RadixNode:
    """One run of tokens after its parent's.

    key, slots: the tokens and where their KV entries lie; a whole number of pages each
    end: tokens from the root up to here
    edge: how the parent knows it: by its first token, or first page as bytes; below the root with the salt
    locks: sequences that hold exactly this node, and children that are locked
    pins: the same for live programs; a pin yields when memory is needed, a lock does not
    access: tick of the last use; queued: it has an entry in the eviction heap
    uses: admissions that found it and nothing below it, but for what has been evicted there since: in a leaf, all
    priority: the highest of those that computed or found it, in the same sense; `lru` does not hand these two on
    step, writer: which step wrote it (0: known to be good) and for which sequence
    """

    __slots__ = (
        "access",
        "alive",
        "children",
        "edge",
        "end",
        "key",
        "locks",
        "parent",
        "pins",
        "priority",
        "queued",
        "serial",
        "slots",
        "step",
        "uses",
        "writer",
    )

    def __init__(
        self, parent: RadixNode | None, edge: Edge, key: array[int], slots: NDArray[np.int32], serial: int
    ) -> None:
        self.parent = parent
        self.edge = edge
        self.key = key
        self.slots = slots
        self.serial = serial
        self.end: int = len(key) + (parent.end if parent else 0)
        self.children: dict[Edge, RadixNode] = {}
        self.locks = 0
        self.pins = 0
        self.access = 0
        self.uses = 0
        self.priority = NOBODYS
        self.alive = True
        self.queued = False
        self.step = 0
        self.writer = -1

    @property
    def start(self) -> int:
        return self.end - len(self.key)

    def path(self) -> Iterator[RadixNode]:
        """This node and its ancestors, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    def __repr__(self) -> str:
        return f"<{self.serial}: {self.start}..{self.end} locks={self.locks} pins={self.pins}>"


class RadixTree:
    """Cached prefixes, who holds them, and which goes first when memory is needed.

    cached: tokens in the tree; evictable: those that nobody locks or pins
    pinned: those that live programs pin; loose: those of them that nobody locks
    epoch: changes whenever a match could come out differently
    """

    def __init__(self, page_size: int = 1, eviction: RadixEvictionPolicy = "lru") -> None:
        self.page_size = page_size
        self.root = RadixNode(None, 0, array("i"), NO_SLOTS, 0)
        self.cached = 0
        self.evictable = 0
        self.pinned = 0
        self.loose = 0
        self.epoch = 0
        self._serial = 0
        self._tick = 0
        self._worth = _WORTH[eviction]
        self._heap: list[tuple[Worth, int, int, RadixNode]] = []
        self._is_lru = eviction == "lru"
        self._wanted: set[RadixNode] = set()  # by `lru`, nothing
        self._spared: list[tuple[Worth, int, int, RadixNode]] = []  # entries of wanted nodes whose turn it was

    @property
    def grown(self) -> int:
        """Changes whenever a match could have become longer."""
        return self._serial

    @property
    def now(self) -> int:
        """The latest moment that `RadixNode.access` can have."""
        return self._tick

    # -- finding

    def match(
        self, tokens: array[int], limit: int, salt: str = "", node: RadixNode | None = None, length: int = 0
    ) -> tuple[RadixNode, int]:
        """Where the longest cached prefix of `tokens[:limit]` ends: (node, length), node.start < length <= node.end.

        node, length: an earlier answer for the same tokens and salt, however old; only what changed is looked at.
        """
        limit -= limit % self.page_size
        node, length = self._settle(node or self.root, min(length, limit))
        while length < limit:
            if length == node.end:
                child = node.children.get(self._edge(node, tokens, length, salt))
                if child is None:
                    break
                node = child
            at = length - node.start
            found = common_prefix(node.key, at, tokens, length, min(len(node.key) - at, limit - length))
            length += found - found % self.page_size
            if length < node.end:
                break
        return node, length

    @staticmethod
    def _settle(node: RadixNode, length: int) -> tuple[RadixNode, int]:
        """What is left of an old answer after splits, cuts and evictions."""
        while node.parent is not None:
            length = min(length, node.end if node.alive else node.start)
            if node.alive and length > node.start:
                return node, length
            node = node.parent
        return node, 0

    def _edge(self, node: RadixNode, tokens: array[int], at: int, salt: str) -> Edge:
        size = self.page_size
        first = tokens[at] if size == 1 else tokens[at : at + size].tobytes()
        return first if node.parent is not None else (salt, first)

    def unlocked(self, node: RadixNode, length: int) -> int:
        """How many of the first `length` tokens on the way to `node` nobody locks."""
        total = 0
        while node.parent is not None and not node.locks:
            total += min(length, node.end) - node.start
            node = node.parent
        return total

    @staticmethod
    def read(node: RadixNode, start: int, out: NDArray[np.int32]) -> None:
        """Write the slots of positions start..node.end into `out`, indexed by position."""
        while node.end > start:
            assert node.parent is not None
            low = max(start, node.start)
            out[low : node.end] = node.slots[low - node.start :]
            node = node.parent

    # -- growing

    def extend(
        self, node: RadixNode, tokens: array[int], end: int, slots: NDArray[np.int32], salt: str = ""
    ) -> RadixNode | None:
        """Hang tokens node.end..end below `node`; None if another node begins with the same page already.

        slots: of exactly those tokens; the tree takes them over (and the array is copied)
        """
        start = node.end
        edge = self._edge(node, tokens, start, salt)
        if edge in node.children:
            return None
        return self._add(node, edge, tokens[start:end], np.array(slots))

    def insert(
        self, node: RadixNode, tokens: array[int], end: int, slots: NDArray[np.int32], salt: str = ""
    ) -> tuple[RadixNode, int]:
        """See that tokens node.end..end are in the tree: (node that holds the last of them, how far they were known).

        slots: of tokens node.end..end; the tree takes over those beyond what it knew, the others stay the caller's
        """
        start = node.end
        found, length = self.match(tokens, end, salt, node, start)
        if length == end:
            return found, length
        found = self.anchor(found, length)
        edge = self._edge(found, tokens, length, salt)
        return self._add(found, edge, tokens[length:end], np.array(slots[length - start :])), length

    def anchor(self, node: RadixNode, length: int) -> RadixNode:
        """The node that ends exactly at `length`; splits `node` if that lies in its middle."""
        cut = length - node.start
        if cut == len(node.key):
            return node
        assert node.parent is not None
        self._serial += 1
        self.epoch += 1
        upper = RadixNode(node.parent, node.edge, node.key[:cut], node.slots[:cut], self._serial)
        node.parent.children[node.edge] = upper
        # The lower part stays the same object: whoever holds it, holds what it held. It keeps its uses and its
        # priority, too, and leaves them to the upper part when it goes.
        node.edge = node.key[cut] if self.page_size == 1 else node.key[cut : cut + self.page_size].tobytes()
        node.parent, node.key, node.slots = upper, node.key[cut:], node.slots[cut:]
        upper.children[node.edge] = node
        upper.locks, upper.pins = int(node.locks > 0), int(node.pins > 0)
        upper.access, upper.step, upper.writer = node.access, node.step, node.writer
        return upper

    def _add(self, parent: RadixNode, edge: Edge, key: array[int], slots: NDArray[np.int32]) -> RadixNode:
        self._serial += 1
        self._tick += 1
        self.epoch += 1
        node = RadixNode(parent, edge, key, slots, self._serial)
        node.access = self._tick
        parent.children[edge] = node
        self.cached += len(key)
        self.evictable += len(key)
        self._offer(node)
        return node

    # -- holding

    def lock(self, node: RadixNode) -> None:
        """Keep `node` and its ancestors. Costs the part of the path that nobody held before."""
        while node.parent is not None:
            node.locks += 1
            if node.locks > 1:
                return
            if node.pins:
                self.loose -= len(node.key)
            else:
                self.evictable -= len(node.key)
            node = node.parent

    def unlock(self, node: RadixNode) -> None:
        self._tick += 1
        while node.parent is not None:
            node.locks -= 1
            if node.locks:
                return
            node.access = self._tick
            if node.pins:
                self.loose += len(node.key)
            else:
                self.evictable += len(node.key)
                self._offer(node)
            node = node.parent

    def pin(self, node: RadixNode) -> None:
        """As `lock`, but in the second place: see `RadixNode.pins`."""
        while node.parent is not None:
            node.pins += 1
            if node.pins > 1:
                return
            self.pinned += len(node.key)
            if not node.locks:
                self.evictable -= len(node.key)
                self.loose += len(node.key)
            node = node.parent

    def unpin(self, node: RadixNode) -> None:
        while node.parent is not None:
            node.pins -= 1
            if node.pins:
                return
            self.pinned -= len(node.key)
            if not node.locks:
                self.evictable += len(node.key)
                self.loose -= len(node.key)
                self._offer(node)
            node = node.parent

    # -- shrinking

    def want(self, nodes: list[RadixNode]) -> None:
        """Those that wait are about to use these: they go last, until it is called again.

        By `lru` they count as just used instead.
        """
        if self._is_lru:
            self._tick += 1
            for node in nodes:
                node.access = self._tick
        else:
            self._wanted = set(nodes)
            for entry in self._spared:
                heapq.heappush(self._heap, entry)
            self._spared = []

    def _offer(self, node: RadixNode) -> None:
        """Queue a leaf for eviction, if it is one and nobody holds it. Entries that turn stale are skipped later."""
        if not (node.queued or node.children or node.locks or node.pins or node.parent is None):
            node.queued = True
            heapq.heappush(self._heap, (self._worth(node), node.end, node.serial, node))

    def evict(self, count: int) -> list[NDArray[np.int32]]:
        """Drop the leaves that are worth least, the last one in part, until `count` tokens (whole pages) are gone.

        returns: the slots that became free; fewer than asked for if nothing more is evictable
        """
        freed: list[NDArray[np.int32]] = []
        while count > 0 and (self._heap or self._spares_no_more()):
            entry = heapq.heappop(self._heap)
            node = entry[3]
            node.queued = False
            if not node.alive or node.children or node.locks or node.pins:
                continue
            if entry[0] == self._worth(node):
                if self._wanted and node in self._wanted:
                    node.queued = True
                    self._spared.append(entry)
                    continue
                freed.append(self._cut(node, min(count, len(node.key))))
                count -= len(freed[-1])
            if node.alive:
                self._offer(node)
        return freed

    def _spares_no_more(self) -> bool:
        """Nothing else is left: what was spared is to go, if there is any."""
        self._wanted = set()
        self._heap, self._spared = self._spared, []
        heapq.heapify(self._heap)
        return bool(self._heap)

    def _cut(self, leaf: RadixNode, count: int) -> NDArray[np.int32]:
        """Take the last `count` tokens of an evictable leaf out of the tree."""
        keep = len(leaf.key) - count
        if not keep:
            return self._remove(leaf)
        gone = leaf.slots[keep:]
        leaf.key, leaf.slots = leaf.key[:keep], leaf.slots[:keep]
        leaf.end -= count
        self.cached -= count
        self.evictable -= count
        self.epoch += 1
        return gone

    def _remove(self, leaf: RadixNode) -> NDArray[np.int32]:
        parent = leaf.parent
        assert parent is not None
        del parent.children[leaf.edge]
        leaf.alive = False
        self.cached -= len(leaf.key)
        self.evictable -= len(leaf.key)
        self.epoch += 1
        if not self._is_lru:
            parent.uses += leaf.uses
            parent.priority = max(parent.priority, leaf.priority)
        self._offer(parent)
        return leaf.slots

    def drop(self, node: RadixNode) -> list[NDArray[np.int32]]:
        """Take `node` and everything below it out of the tree; nobody may hold any of it. Returns the freed slots."""
        below = [node]
        for each in below:
            below.extend(each.children.values())
        freed: list[NDArray[np.int32]] = []
        for each in reversed(below):
            if each.locks or each.pins:
                raise InvariantError(f"{each} was dropped while it was held")
            freed.append(self._remove(each))
        return freed

    def nodes(self) -> Iterator[RadixNode]:
        """All nodes but the root, parents before their children."""
        pending = list(self.root.children.values())
        while pending:
            node = pending.pop()
            yield node
            pending.extend(node.children.values())


def common_prefix(a: array[int], i: int, b: array[int], j: int, most: int) -> int:
    """How many of the next `most` items of a[i:] and b[j:] agree; compares runs that double in size."""
    if a[i : i + most] == b[j : j + most]:
        return most
    done, size = 0, 16
    while a[i + done : i + done + size] == b[j + done : j + done + size]:
        done += size
        size *= 2
    low, high = done, min(done + size, most)  # a[i:i+low] agrees, a[i:i+high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if a[i + low : i + middle] == b[j + low : j + middle]:
            low = middle
        else:
            high = middle
    return low
