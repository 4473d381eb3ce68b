"""The vocabulary as a trie over bytes, and the same trie as an automaton sees it: over its classes of bytes.

Tokens that an automaton cannot tell apart fall together in its trie, which is often a hundred times smaller, so walks
are short. Both are built level by level in numpy; children of a node have consecutive numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .canonical import Canonical

Ints = NDArray[np.int32]
MAX_WIDTH = 4_000_000  # some 40 bytes each


class Vocabulary:
    """What each token says, made once per tokenizer.

    eos_ids: tokens that end an answer
    canonical: how the tokenizer cuts text, where that is known
    byte: int32 [nodes], the last byte of each node's text; parent: int32 [nodes]; node 0 is the root
    levels: where each depth's nodes begin, and the end
    first_child, children: int32 [nodes]
    node_of: int32 [tokens], 0 for tokens that are never legal inside an answer
    """

    def __init__(
        self,
        texts: Sequence[bytes | None],
        eos_ids: Iterable[int],
        encode: Callable[[str], list[int]] | None = None,
    ) -> None:
        """texts: by token id; None (or nothing) for tokens that are no text: special ones and those that end
        encode: the tokens of plain text that stands behind other text
        """
        self.eos_ids = tuple(sorted(set(eos_ids)))
        self.texts = [None if number in self.eos_ids else (text or None) for number, text in enumerate(texts)]
        self.eos_ids = tuple(number for number in self.eos_ids if 0 <= number < len(texts))
        self.canonical = None if encode is None else Canonical(self.texts, encode)
        self.size = len(texts)
        self._build()

    @property
    def words(self) -> int:
        """int32 words of a mask row."""
        return -(-self.size // 32)

    def _build(self) -> None:
        said = sorted((text, number) for number, text in enumerate(self.texts) if text is not None)
        lengths = np.array([len(text) for text, _ in said], np.int64)
        joined = np.frombuffer(b"".join(text for text, _ in said), np.uint8).astype(np.int32)
        starts = np.cumsum(lengths) - lengths
        node = np.zeros(len(said), np.int32)
        byte, parent = [np.zeros(1, np.int32)], [np.zeros(1, np.int32)]
        self.levels = [0, 1]
        alive = np.arange(len(said))
        depth = 0
        while alive.size:
            last, before = joined[starts[alive] + depth], node[alive]
            new = np.ones(len(alive), np.bool_)
            new[1:] = (before[1:] != before[:-1]) | (last[1:] != last[:-1])
            node[alive] = self.levels[-1] + np.cumsum(new) - 1
            byte.append(last[new])
            parent.append(before[new])
            self.levels.append(self.levels[-1] + int(new.sum()))
            depth += 1
            alive = alive[lengths[alive] > depth]
        self.byte, self.parent = np.concatenate(byte), np.concatenate(parent)
        self.first_child, self.children = _children(self.parent)
        self.node_of = np.zeros(self.size, np.int32)
        self.node_of[[number for _, number in said]] = node


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """Where the tokens lead from one state. node: int32 [n], nodes that are tokens; state: int32 [n], after each."""

    node: Ints
    state: Ints


class TooWideError(Exception):
    """A walk from many states at once would take too much memory; walk from fewer."""


class ClassTrie:
    """A vocabulary as one automaton sees it: without tokens in which a byte, or one after another, is legal nowhere.

    letter: int32 [nodes], class of bytes; first_child, children: int32 [nodes]
    node_of: int32 [tokens], 0 for tokens that are never legal; is_token: bool [nodes]
    """

    def __init__(self, vocabulary: Vocabulary, byte_class: Ints, pairs: NDArray[np.bool_]) -> None:
        """pairs: bool [classes, classes], which may follow which; row 0 says which may stand at the beginning"""
        classes, may_follow = len(pairs), pairs.ravel()
        of = np.full(len(vocabulary.byte), -1, np.int32)  # the node here for each node there
        of[0] = 0
        letters, parents = [np.zeros(1, np.int32)], [np.full(1, -1, np.int32)]
        low, self.nodes, self.depth = 0, 1, 0
        # nodes there that have one here; of the depth of those here from `low` on
        there: NDArray[np.integer[Any]] = np.zeros(1, np.int32)
        for begin, end in zip(vocabulary.levels[1:-1], vocabulary.levels[2:], strict=True):
            count = vocabulary.children[there]
            if int(count.sum()) * 4 < end - begin:  # else all of the depth is as quick to read
                there = _ranges(vocabulary.first_child[there], count)
                parent = of[vocabulary.parent[there]] - low
            else:
                parent = of[vocabulary.parent[begin:end]]
                there = np.flatnonzero(parent >= 0)
                parent = parent[there] - low
                there += begin
            letter = byte_class[vocabulary.byte[there]]
            kept = np.flatnonzero(may_follow[letters[-1][parent] * classes + letter])
            if not kept.size:
                break
            there = there[kept]
            key = parent[kept].astype(np.int64) * classes + letter[kept]
            seen = np.zeros((self.nodes - low) * classes, np.bool_)
            seen[key] = True
            of[there] = self.nodes - 1 + np.cumsum(seen, dtype=np.int32)[key]
            found = np.flatnonzero(seen)
            letters.append((found % classes).astype(np.int32))
            parents.append((found // classes + low).astype(np.int32))
            low, self.nodes = self.nodes, self.nodes + len(found)
            self.depth += 1
        self.letter = np.concatenate(letters)
        self.first_child, self.children = _children(np.concatenate(parents))
        self.node_of = np.maximum(of[vocabulary.node_of], 0)
        self._tokens_by_node()

    def _tokens_by_node(self) -> None:
        legal = np.flatnonzero(self.node_of)
        node = self.node_of[legal]
        self._tokens = legal[np.argsort(node, kind="stable")].astype(np.int32)
        self._count = np.bincount(node, minlength=self.nodes)
        self._begin = np.cumsum(self._count) - self._count
        self.is_token = self._count > 0

    @property
    def size_bytes(self) -> int:
        arrays = (self.letter, self.children, self.first_child, self.node_of, self._tokens, self._count, self._begin)
        return sum(array.nbytes for array in arrays) + self.is_token.nbytes

    def walk(self, table: Ints, state: int) -> Walk:
        """table: [states, classes], with 0 dead."""
        nodes, states = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for _, node, after in self.levels(table, np.array([state], np.int32)):
            token = self.is_token[node]
            nodes.append(node[token])
            states.append(after[token])
        return Walk(np.concatenate(nodes), np.concatenate(states))

    def reaches(self, table: Ints, state: int, length: int) -> bool:
        """Whether a token of more than `length` bytes is legal in `state`."""
        if length >= self.depth:
            return False
        levels = self.levels(table, np.array([state], np.int32))
        return any(self.is_token[node].any() for depth, (_, node, _) in enumerate(levels, 1) if depth > length)

    def levels(self, table: Ints, states: Ints) -> Iterable[tuple[Ints, Ints, Ints]]:
        """For each depth: origins (index in `states`), nodes and the states after them, of all paths that live.

        Raises TooWideError, never for one state, where a depth has more than MAX_WIDTH ways on.
        """
        origin = np.arange(len(states), dtype=np.int32)
        node, state = np.zeros(len(states), np.int32), states
        while node.size:
            count = self.children[node]
            total = int(count.sum())
            if total > MAX_WIDTH and len(states) > 1:
                raise TooWideError
            node = _ranges(self.first_child[node], count)
            state = table[np.repeat(state, count), self.letter[node]]
            alive = np.flatnonzero(state)
            node, state = node[alive], state[alive]
            origin = np.repeat(origin, count)[alive]
            yield origin, node, state

    def allowed(self, nodes: Ints) -> NDArray[np.uint8]:
        """One bit per token, packed: those of `nodes`."""
        count = self._count[nodes]
        total = int(count.sum())
        if total * 4 > len(self.node_of):
            reached = np.zeros(self.nodes, np.bool_)
            reached[nodes] = True
            return np.packbits(reached[self.node_of], bitorder="little")
        bits = np.zeros(len(self.node_of), np.bool_)
        bits[self._tokens[_ranges(self._begin[nodes], count)]] = True
        return np.packbits(bits, bitorder="little")


def _children(parent: Ints) -> tuple[Ints, Ints]:
    """The first child of each node, and how many it has: nodes stand in the order of their parents."""
    count = np.bincount(parent[1:], minlength=len(parent)).astype(np.int32)
    return (1 + np.cumsum(count) - count).astype(np.int32), count


def _ranges(begin: NDArray[np.integer[Any]], count: NDArray[np.integer[Any]]) -> Ints:
    """For each pair the numbers from `begin` on, `count` of them, one pair after the other."""
    offset = begin - (np.cumsum(count) - count)
    return (np.repeat(offset, count) + np.arange(int(count.sum()))).astype(np.int32)
