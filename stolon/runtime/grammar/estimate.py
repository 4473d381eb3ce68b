"""How large the automaton of a pattern gets, before it is built: what is too large is refused, within about a second.

The pattern's own automaton over sets of characters is walked, with a limit on the steps; the one over bytes has a few
states more for each of its states, which are counted from the sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import assert_never

from ...lang.errors import InvalidRequest
from .charset import END_MARK, Ranges, partial_blocks
from .dialect import Anchor, Chain, Choice, Leaf, Node, Repeat

MAX_STATES = 16_384  # of the byte automaton; some 15 to 40 µs and 1 kB each while it is built
MAX_POSITIONS = 40_000  # characters of the pattern, repeats written out
MAX_STEPS = 1_000_000
MAX_HIDDEN = 200_000  # states inside of characters, repeats written out, before states that are alike are made one
MAX_RANGES = 100_000  # of all sets of characters together, repeats not written out


def estimate(tree: Node) -> int:
    """States of the byte automaton of `tree`, more rather than less. Raises InvalidRequest if there are too many."""
    return _Walk(_Positions.of(tree)).count()


_END = Leaf(((END_MARK, END_MARK),))  # so that states that accept are told apart from those that do not


def _too_large(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"regex: the pattern is too complex: {what}; use shorter or fewer repeats, or fewer alternatives",
        param="regex",
        code="grammar_too_complex",
    )


def _ranges(node: Node) -> int:
    match node:
        case Leaf():
            return len(node.ranges)
        case Chain():
            return sum(map(_ranges, node.parts))
        case Choice():
            return sum(map(_ranges, node.options))
        case Repeat():
            return _ranges(node.part)
        case Anchor():
            return 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """What a node became: whether it can be empty, and the positions where it can begin and end."""

    empty: bool
    first: frozenset[int]
    last: frozenset[int]


@dataclass(slots=True)
class _Positions:
    """V. Glushkov's automaton ("The abstract theory of automata", 1961): one state for each character of the pattern.

    kind_of: for each position, which of `kinds` it reads; follow: where one can be after it
    inner: for each kind, the states between the first and the last byte of a character; hidden: of all positions
    """

    kinds: dict[Ranges, int] = field(default_factory=dict[Ranges, int])
    kind_of: list[int] = field(default_factory=list[int])
    follow: list[set[int]] = field(default_factory=list[set[int]])
    inner: list[int] = field(default_factory=list[int])
    links: int = 0
    hidden: int = 0
    first: frozenset[int] = frozenset()

    @classmethod
    def of(cls, tree: Node) -> _Positions:
        if _ranges(tree) > MAX_RANGES:
            raise _too_large(f"its sets of characters have more than {MAX_RANGES} ranges")
        positions = cls()
        positions.first = positions.piece(Chain((tree, _END))).first
        # the bytes of the end mark are shared by all states, or stand in sets of characters already
        positions.inner[positions.kinds[_END.ranges]] = 0
        return positions

    def piece(self, node: Node) -> _Piece:
        match node:
            case Leaf():
                return self.leaf(node)
            case Chain():
                return self.chain([self.piece(part) for part in node.parts])
            case Choice():
                pieces = [self.piece(part) for part in node.options]
                return _Piece(
                    any(piece.empty for piece in pieces),
                    frozenset[int]().union(*(piece.first for piece in pieces)),
                    frozenset[int]().union(*(piece.last for piece in pieces)),
                )
            case Repeat():
                return self.repeat(node)
            case Anchor():
                raise AssertionError("parse takes anchors away")
            case _:
                assert_never(node)

    def leaf(self, node: Leaf) -> _Piece:
        position = len(self.kind_of)
        if position >= MAX_POSITIONS:
            raise _too_large(f"with its repeats written out it has more than {MAX_POSITIONS} characters")
        kind = self.kinds.setdefault(node.ranges, len(self.kinds))
        if kind == len(self.inner):
            self.inner.append(partial_blocks(node.ranges))
        self.hidden += self.inner[kind]
        if self.hidden > MAX_HIDDEN:
            raise _too_large("it has too many sets of characters from many scripts")
        self.kind_of.append(kind)
        self.follow.append(set())
        here = frozenset((position,))
        return _Piece(False, here, here)

    def chain(self, pieces: list[_Piece]) -> _Piece:
        empty, first, last = True, set[int](), set[int]()
        for piece in pieces:
            self.link(last, piece.first)
            if empty:
                first |= piece.first
            last = last | piece.last if piece.empty else set(piece.last)
            empty = empty and piece.empty
        return _Piece(empty, frozenset(first), frozenset(last))

    def repeat(self, node: Repeat) -> _Piece:
        """x{2,4} is x x (x (x)?)?: where a further x may follow only the one before it, there are few links."""
        piece = self.piece(node.part)
        low = 0 if piece.empty else node.low
        first, last = piece.first, set(piece.last)
        copies = max(low, 1) if node.high is None else node.high
        if piece.empty:  # outlines-core goes from each copy through all that follow
            self.count_links(copies * copies)
        for copy in range(1, copies):
            begun = piece
            piece = self.piece(node.part)
            self.link(begun.last, piece.first)
            last = set(piece.last) if copy < low else last | piece.last if copy == low else last
            if copy > low:
                last.update(piece.last)
        if node.high is None:
            self.link(piece.last, piece.first)
        return _Piece(low == 0, first, frozenset(last))

    def link(self, before: set[int] | frozenset[int], after: frozenset[int]) -> None:
        self.count_links(len(before) * len(after))
        for position in before:
            self.follow[position] |= after

    def count_links(self, count: int) -> None:
        self.links += count
        if self.links > MAX_STEPS:
            raise _too_large("its parts can follow each other in too many ways")


def _letters(kinds: list[Ranges]) -> set[frozenset[int]]:
    """The different sets of kinds that one character can belong to."""
    events: list[tuple[int, int]] = []
    for kind, ranges in enumerate(kinds):
        for low, high in ranges:
            events += ((low, kind), (high + 1, ~kind))
    events.sort()
    found: set[frozenset[int]] = set()
    current: set[int] = set()
    steps = 0
    for index, (at, kind) in enumerate(events):
        if kind < 0:
            current.discard(~kind)
        else:
            current.add(kind)
        if current and index + 1 < len(events) and events[index + 1][0] != at:
            found.add(frozenset(current))
            steps += len(current)
            if steps > MAX_STEPS:
                raise _too_large("its sets of characters overlap in too many ways")
    return found


class _Walk:
    """The states of the deterministic automaton, visited one by one."""

    def __init__(self, positions: _Positions) -> None:
        self.positions = positions
        self.letters = _letters(list(positions.kinds))
        self.steps = 0

    def count(self) -> int:
        start = self.positions.first
        seen = {start}
        waiting = [start]
        states = 2 * len("\U0010ffff".encode())
        while waiting:
            by_kind = self.by_kind(waiting.pop())
            states += 1 + sum(self.positions.inner[kind] for kind in by_kind)
            if states > MAX_STATES:
                raise _too_large(f"its automaton has more than {MAX_STATES} states")
            for state in self.next_states(by_kind):
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
        return states

    def by_kind(self, state: frozenset[int]) -> dict[int, set[int]]:
        after: dict[int, set[int]] = {}
        for position in state:
            follow = self.positions.follow[position]
            self.step(1 + len(follow))
            after.setdefault(self.positions.kind_of[position], set()).update(follow)
        return after

    def next_states(self, by_kind: dict[int, set[int]]) -> set[frozenset[int]]:
        present = frozenset(by_kind)
        found: set[frozenset[int]] = set()
        self.step(len(self.letters))
        for together in {letter & present for letter in self.letters}:
            state = frozenset[int]().union(*(by_kind[kind] for kind in together))
            self.step(len(state))
            if state:
                found.add(state)
        return found

    def step(self, count: int) -> None:
        self.steps += count
        if self.steps > MAX_STEPS:
            raise _too_large("its automaton has too many states, or they are too large")
