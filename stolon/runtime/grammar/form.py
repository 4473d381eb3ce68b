"""Forms of JSON texts that are regular: trees of what may stand where, written out by form_schema.py.

dialect.py has the like for patterns. A form speaks of texts as they are written: of strings with their quotes and
escapes, in the one spelling that llg_source.py asks llguidance for, so that both engines take the same texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from .charset import EVERY, LAST, Ranges, gaps, union
from .dialect import Anchor, Chain, Choice, Leaf, Node, Repeat

_SURROGATES = (0xD800, 0xDFFF)
_ESCAPED = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_RAW: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, _SURROGATES[0] - 1), (_SURROGATES[1] + 1, LAST))
"""What stands in a string as it is; other characters than these and the escaped ones are not written at all."""


@dataclass(frozen=True, slots=True)
class Said:
    """Exactly this text, as UTF-8."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Letter:
    """One character out of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Row:
    """One after the other; none: the empty text."""

    parts: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """No options: nothing."""

    options: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Times:
    """`part`, at least `low` times and at most `high` times (None: as often as one likes)."""

    part: Form
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Both:
    """What is of both."""

    left: Form
    right: Form


@dataclass(frozen=True, slots=True)
class Listed:
    """Items in this order with `comma` between them; those that are not required (False) may be missing."""

    items: tuple[tuple[Form, bool], ...]
    comma: Said


@dataclass(frozen=True, slots=True)
class Multiple:
    """The multiples of a whole number: digits, zeros before them too, perhaps behind a minus sign."""

    of: int


Form = Said | Letter | Row | Either | Times | Both | Listed | Multiple

NOTHING = Either(())
EMPTY = Row(())


def said(text: str) -> Said:
    """Raises UnicodeEncodeError where `text` holds half a surrogate pair."""
    return Said(text.encode())


def word(text: str) -> Said:
    """A string as JSON."""
    return said(json.dumps(text, ensure_ascii=False))


def any_of(options: list[Form]) -> Form:
    kept = tuple(option for option in options if option != NOTHING)
    return kept[0] if len(kept) == 1 else Either(kept)


def row(*parts: Form) -> Form:
    if NOTHING in parts:
        return NOTHING
    kept = tuple(part for part in parts if part != EMPTY)
    return kept[0] if len(kept) == 1 else Row(kept)


def string(inside: Form) -> Form:
    """inside: as `inner` and `letters` give it"""
    return row(Said(b'"'), inside, Said(b'"'))


def letters(low: int = 0, high: int | None = None) -> Form:
    """Any characters, so many of them, as they are written in a string."""
    return Times(_written(((0, LAST),)), low, high)


def inner(pattern: Node) -> Form:
    """The texts of a pattern, as they are written in a string: those of them that can be written."""
    match pattern:
        case Leaf(ranges):
            if ranges and ranges[-1][1] == EVERY[-1][1]:
                # a set by what is not in it ends before the marks of dfa.py, which are characters here
                ranges = (*ranges[:-1], (ranges[-1][0], LAST))
            return _written(ranges)
        case Chain(parts):
            return row(*map(inner, parts))
        case Choice(options):
            return any_of([inner(option) for option in options])
        case Repeat(part, low, high):
            found = inner(part)
            if found in (NOTHING, EMPTY):
                return found if low else EMPTY
            return Times(found, low, high)
        case Anchor():
            raise AssertionError("anchors are taken away before")


def string_but(words: list[str]) -> Form:
    """Any string that is none of `words`."""
    return string(_but(sorted(set(words))))


def _but(words: list[str]) -> Form:
    """words: sorted"""
    first = sorted({word[0] for word in words if word})
    options: list[Form] = [] if "" in words else [EMPTY]
    for letter in first:
        rest = [word[1:] for word in words if word[:1] == letter]
        options.append(row(_written(((ord(letter), ord(letter)),)), _but(rest)))
    taken = union((ord(letter), ord(letter)) for letter in first)
    options.append(row(_written(gaps(taken)), letters()))
    return any_of(options)


@lru_cache(maxsize=256)
def _written(ranges: Ranges) -> Form:
    """One character of the set in a string."""
    raw = [(max(low, left), min(high, right)) for low, high in ranges for left, right in _RAW]
    raw = tuple((low, high) for low, high in raw if low <= high)
    options: list[Form] = [Letter(raw)] if raw else []
    options += [said(text) for code, text in _ESCAPED.items() if any(low <= code <= high for low, high in ranges)]
    return any_of(options)
