"""Regular expressions that are matched while text comes, in time linear in the text.

The pattern becomes a nondeterministic automaton whose states are walked together, so no pattern can make a character
cost more than its number of states, which is bounded. The price: no anchors, no look-around, no back-references.
Single characters and classes of them are left to Python's `re`, so they mean what they mean there.

Where each match began is carried along, which is how much text must be held back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from typing_extensions import assert_never

from ..lang.errors import InvalidRequest

MAX_PATTERN = 256  # characters
MAX_STATES = 1000
MAX_MOVES = 20_000  # a character costs at most one walk over all of them, about 1 ms
_MAX_CACHED_CHARS = 4096

_ACCEPT = -1
_FLAGS = re.compile(r"\(\?([aims]+)\)")
_GROUP = re.compile(r"\((?!\?)|\(\?:|\(\?P<\w+>")
_REPEAT = re.compile(r"(?:([*+?])|\{(?!\})(\d*)(,?)(\d*)\})\??(?!\+)")
_LEAF = re.compile(
    r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[dDsSwWnrtfva]|[^0-9A-Za-z])"  # an escape
    r"|\[\^?\]?(?:\\.|[^\]\\])*\]"  # a class
    r"|[^\\^$*+?()|\[]",  # a character, or the dot
    re.DOTALL,
)


class RegexStop:
    """A regex as a stop; `stops` says what counts as its match.

    name: the pattern
    pending: how many characters at the end of what was read may still become a match
    """

    __slots__ = ("_automaton", "_live", "_position", "name", "pending")

    def __init__(self, pattern: str) -> None:
        """Raises InvalidRequest if the pattern is wrong, matches the empty text, or needs what is not offered."""
        self.name = pattern
        self.pending = 0
        self._automaton = _compiled(pattern)
        self._live: dict[int, int] = {}  # state: where the earliest match that has come so far began
        self._position = 0

    def step(self, char: str) -> int:
        """Read one character; the length of the longest match that ends with it, 0 if none does."""
        automaton = self._automaton
        accepting = automaton.accepting(char)
        live: dict[int, int] = {}
        for state, began in self._live.items():
            if state in accepting:
                for after in automaton.after[state]:
                    if live.get(after, began) >= began:
                        live[after] = began
        for state in automaton.initial:
            if state in accepting:
                for after in automaton.after[state]:
                    live.setdefault(after, self._position)
        self._position += 1
        matched = live.pop(_ACCEPT, None)
        self._live = live
        self.pending = self._position - min(live.values()) if live else 0
        return 0 if matched is None else self._position - matched


# What follows builds V. Glushkov's automaton ("The abstract theory of automata", 1961): one state for each character
# or class of the pattern, no empty moves.


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One character, or a class of them, in the words of `re`."""

    source: str


@dataclass(frozen=True, slots=True)
class _Chain:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    """`part`, at least `low` times and at most `high` times (None: as often as one likes)."""

    part: _Node
    low: int
    high: int | None


_Node = _Leaf | _Chain | _Choice | _Repeat


@dataclass(frozen=True, slots=True)
class _Piece:
    """What a node became: whether it can be empty, and the states in which it can begin and end."""

    empty: bool
    first: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> _Automaton:
    if len(pattern) > MAX_PATTERN:
        raise InvalidRequest(
            f"stop_regex may have {MAX_PATTERN} characters, got {len(pattern)}; shorten it", param="stop_regex"
        )
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidRequest(
            f"stop_regex {pattern!r} is not a regular expression: {error}", param="stop_regex"
        ) from None
    return _Automaton(pattern)


class _Automaton:
    """States that each read one character; shared by all who use the pattern.

    initial: states in which a match begins
    after: for each state, those in which a match may be once the state has read its character; -1 is the end
    """

    def __init__(self, pattern: str) -> None:
        flags = _FLAGS.match(pattern)
        self._flags = 0
        for letter in flags[1] if flags else "":
            self._flags |= {"a": re.ASCII, "i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}[letter]
        self._pattern = pattern
        self._readers: dict[str, tuple[re.Pattern[str], set[int]]] = {}  # states by what they read
        self._accepting: dict[str, frozenset[int]] = {}
        self._follow: list[set[int]] = []
        self._moves = 0
        whole = self._build(_parse(pattern, flags.end() if flags else 0))
        if whole.empty:
            raise _refusal(pattern, "it matches the empty text, which would end every answer at once")
        for state in whole.last:
            self._follow[state].add(_ACCEPT)
        self.initial = tuple(whole.first)
        self.after = [tuple(states) for states in self._follow]

    def accepting(self, char: str) -> frozenset[int]:
        """The states that can read `char`."""
        states = self._accepting.get(char)
        if states is None:
            if len(self._accepting) >= _MAX_CACHED_CHARS:
                self._accepting.clear()
            found = (states for leaf, states in self._readers.values() if leaf.fullmatch(char))
            states = self._accepting[char] = frozenset[int]().union(*found)
        return states

    def _build(self, node: _Node) -> _Piece:
        match node:
            case _Leaf(source):
                return self._state(source)
            case _Chain(parts):
                return self._chain(map(self._build, parts))
            case _Choice(parts):
                pieces = [self._build(part) for part in parts]
                return _Piece(
                    any(piece.empty for piece in pieces),
                    frozenset[int]().union(*(piece.first for piece in pieces)),
                    frozenset[int]().union(*(piece.last for piece in pieces)),
                )
            case _Repeat(part, low, high):
                return self._repeat(part, low, high)
            case _:
                assert_never(node)

    def _state(self, source: str) -> _Piece:
        state = len(self._follow)
        if state >= MAX_STATES:
            raise _refusal(self._pattern, f"it has more than {MAX_STATES} characters when its repeats are written out")
        if source not in self._readers:
            self._readers[source] = (re.compile(source, self._flags), set())
        self._readers[source][1].add(state)
        self._follow.append(set())
        return _Piece(False, frozenset((state,)), frozenset((state,)))

    def _link(self, last: frozenset[int], first: frozenset[int]) -> None:
        self._moves += len(last) * len(first)
        if self._moves > MAX_MOVES:
            raise _refusal(self._pattern, "too many ways lead through its repeats; use fewer optional parts")
        for state in last:
            self._follow[state] |= first

    def _chain(self, pieces: Iterable[_Piece]) -> _Piece:
        whole = _Piece(True)
        for piece in pieces:
            self._link(whole.last, piece.first)
            whole = _Piece(
                whole.empty and piece.empty,
                whole.first | piece.first if whole.empty else whole.first,
                piece.last | whole.last if piece.empty else piece.last,
            )
        return whole

    def _repeat(self, part: _Node, low: int, high: int | None) -> _Piece:
        if high == 0:
            return _Piece(True)
        probe = self._build(part)
        if not probe.first:
            return probe  # empty, however often
        count = max(low, 1) if high is None else high
        copies = [probe, *(self._build(part) for _ in range(count - 1))]
        if high is None:
            self._link(copies[-1].last, copies[-1].first)
        optional = [index >= low for index in range(len(copies))]
        return self._chain(
            _Piece(piece.empty or free, piece.first, piece.last) for piece, free in zip(copies, optional, strict=True)
        )


def _parse(pattern: str, start: int) -> _Node:
    """Read `pattern`, which `re` has found valid, from `start` on."""
    node, end = _parse_choice(pattern, start)
    assert end == len(pattern), pattern
    return node


def _parse_choice(pattern: str, at: int) -> tuple[_Node, int]:
    branches: list[_Node] = []
    while True:
        parts: list[_Node] = []
        while at < len(pattern) and pattern[at] not in "|)":
            part, at = _parse_item(pattern, at)
            parts.append(part)
        branches.append(_Chain(tuple(parts)))
        if at == len(pattern) or pattern[at] == ")":
            return (_Choice(tuple(branches)) if len(branches) > 1 else branches[0]), at
        at += 1


def _parse_item(pattern: str, at: int) -> tuple[_Node, int]:
    """One character, class or group, with what repeats it."""
    if group := _GROUP.match(pattern, at):
        node, at = _parse_choice(pattern, group.end())
        at += 1
    elif leaf := _LEAF.match(pattern, at):
        node, at = _Leaf(leaf[0]), leaf.end()
    else:
        raise _refusal(
            pattern, f"{pattern[at : at + 4]!r} at {at}: anchors, look-around and back-references are not offered here"
        )
    if repeat := _REPEAT.match(pattern, at):
        sign, low, comma, high = repeat.groups()
        if sign:
            bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        else:
            bounds = (int(low or 0), (int(high) if high else None) if comma else int(low))
        node, at = _Repeat(node, *bounds), repeat.end()
    return node, at


def _refusal(pattern: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"stop_regex {pattern!r} cannot be used: {why}", param="stop_regex")
