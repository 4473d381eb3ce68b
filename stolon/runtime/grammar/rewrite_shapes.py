"""A schema as a union of shapes: each says what a value of one JSON type must be.

Any schema is a union of shapes; unions are closed under "both" and, for most keywords, under "not". A shape knows only
its own level: the schemas of properties and items stay terms, joined with `All`, and are looked into later.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Raw:
    """A schema of the document, or one written in its place; `key` is its number there."""

    key: int


@dataclass(frozen=True, slots=True)
class All:
    """What is valid under each of `parts`; at least two, no doubles."""

    parts: tuple[Raw, ...]


Term = Raw | All | bool


class Unsupported(Exception):
    """Something that cannot be expressed exactly: the keyword, and why. The caller adds the pointer.

    value: the pattern that is to blame, if one is
    """

    def __init__(self, keyword: str, why: str, value: str | None = None) -> None:
        super().__init__(f"{keyword}: {why}")
        self.keyword, self.why, self.value = keyword, why, value


def both(left: Term, right: Term) -> Term:
    """What is valid under both terms."""
    if isinstance(left, bool) or isinstance(right, bool):
        if left is False or right is False:
            return False
        return right if left is True else left
    parts = tuple(dict.fromkeys((*_parts(left), *_parts(right))))
    return parts[0] if len(parts) == 1 else All(parts)


def _parts(term: Raw | All) -> tuple[Raw, ...]:
    return term.parts if isinstance(term, All) else (term,)


@dataclass(frozen=True, slots=True)
class Null:
    type = "null"


@dataclass(frozen=True, slots=True)
class Boolean:
    type = "boolean"
    values: frozenset[bool] = frozenset((True, False))


@dataclass(frozen=True, slots=True)
class Number:
    """low, high: the bound and whether it is itself excluded"""

    type = "number"
    low: tuple[Fraction, bool] | None = None
    high: tuple[Fraction, bool] | None = None
    integer: bool = False
    multiple: Fraction | None = None
    excluded: frozenset[Fraction] = frozenset()

    @property
    def is_empty(self) -> bool:
        if self.low is None or self.high is None:
            return False
        if self.low[0] > self.high[0] or (self.low[0] == self.high[0] and (self.low[1] or self.high[1])):
            return True
        step = self.step
        if step is None:
            return self.point is not None and self.point in self.excluded
        inside = self.whole_steps()
        # not len(): a range may be longer than a machine word counts
        count = inside.stop - inside.start
        return count <= 0 or (count <= len(self.excluded) and all(step * n in self.excluded for n in inside))

    @property
    def point(self) -> Fraction | None:
        """The only number there is, if its bounds leave one."""
        return self.low[0] if self.low is not None and self.low == self.high else None

    @property
    def step(self) -> Fraction | None:
        """All values are multiples of this."""
        if not self.integer:
            return self.multiple
        return common_multiple(self.multiple, Fraction(1))

    def whole_steps(self) -> range:
        """How many `step`s the values are; needs both bounds and a step."""
        assert self.low is not None
        assert self.high is not None
        step = self.step
        assert step is not None
        least = -((-self.low[0]) // step)
        most = self.high[0] // step
        least += self.low[1] and least * step == self.low[0]
        most -= self.high[1] and most * step == self.high[0]
        return range(int(least), int(most) + 1)


@dataclass(frozen=True, slots=True)
class String:
    """values: the only strings that there are, if they are listed; excluded: strings that it is not"""

    type = "string"
    min_length: int = 0
    max_length: int | None = None
    patterns: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    values: tuple[str, ...] | None = None
    excluded: frozenset[str] = frozenset()
    not_patterns: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        crossed = self.max_length is not None and self.min_length > self.max_length
        contradicted = not set(self.patterns).isdisjoint(self.not_patterns)
        return crossed or contradicted or self.values == () or (self.max_length == 0 and "" in self.excluded)


@dataclass(frozen=True, slots=True)
class Contains:
    term: Term
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Array:
    """evaluated: how many items from the first on have been looked at by a keyword that counts as such"""

    type = "array"
    prefix: tuple[Term, ...] = ()
    items: Term = True
    min_items: int = 0
    max_items: int | None = None
    unique: bool = False
    contains: tuple[Contains, ...] = ()
    evaluated: int | str = 0

    def item(self, index: int) -> Term:
        return self.prefix[index] if index < len(self.prefix) else self.items

    @property
    def longest(self) -> int | None:
        """The most items that can be, as far as lengths and `false` tell."""
        ends = [i for i, term in enumerate((*self.prefix, self.items)) if term is False]
        known = [*ends[:1], *([] if self.max_items is None else [self.max_items])]
        return min(known) if known else None

    @property
    def is_empty(self) -> bool:
        return self.longest is not None and self.min_items > self.longest


@dataclass(frozen=True, slots=True)
class Object:
    """properties: by name, what `patterns` say of that name included; additional: of names that neither knows"""

    type = "object"
    properties: tuple[tuple[str, Term], ...] = ()
    patterns: tuple[tuple[str, Term], ...] = ()
    additional: Term = True
    required: tuple[str, ...] = ()
    min_properties: int = 0
    max_properties: int | None = None
    names: Term = True
    evaluated: frozenset[str] | str = frozenset()
    evaluated_patterns: frozenset[str] = frozenset()

    def of(self, name: str) -> Term:
        """What a property of this name must be."""
        listed = dict(self.properties)
        if name in listed:
            return listed[name]
        found: Term = True
        hits = [term for pattern, term in self.patterns if searches(pattern, name)]
        for term in hits:
            found = both(found, term)
        return found if hits else self.additional

    @property
    def is_empty(self) -> bool:
        crossed = self.max_properties is not None and self.max_properties < max(self.min_properties, len(self.required))
        return crossed or any(self.of(name) is False for name in self.required)


Shape = Null | Boolean | Number | String | Array | Object
Union = tuple[Shape, ...]
ANYTHING: Union = (Null(), Boolean(), Number(), String(), Array(), Object())


def searches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text, as ECMA-262 has it where Python's dialect agrees."""
    if "\n" in text and "$" in pattern:
        raise Unsupported("pattern", "`$` beside a line break in a name or value means different things", pattern)
    try:
        return re.search(pattern, text, re.ASCII) is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise Unsupported("pattern", f"it cannot be read: {error}", pattern) from error


def common_multiple(left: Fraction | None, right: Fraction | None) -> Fraction | None:
    if left is None or right is None:
        return left if right is None else right
    a, b = left.numerator * right.denominator, right.numerator * left.denominator
    return Fraction(math.lcm(a, b), left.denominator * right.denominator)


def meet(left: Shape, right: Shape) -> Shape | None:
    """What is both; None where nothing is."""
    match left, right:
        case Null(), Null():
            return left
        case Boolean(), Boolean():
            values = left.values & right.values
            return Boolean(values) if values else None
        case Number(), Number():
            found: Shape = _meet_numbers(left, right)
        case String(), String():
            found = _meet_strings(left, right)
        case Array(), Array():
            found = _meet_arrays(left, right)
        case Object(), Object():
            found = _meet_objects(left, right)
        case _:
            return None
    return None if found.is_empty else found


def least(left: int | None, right: int | None) -> int | None:
    """The smaller of two limits; None where there is none."""
    return left if right is None else right if left is None else min(left, right)


def _meet_numbers(left: Number, right: Number) -> Number:
    lows = [low for low in (left.low, right.low) if low is not None]
    highs = [high for high in (left.high, right.high) if high is not None]
    found = Number(
        # of equal bounds the one that excludes itself is the narrower
        low=max(lows) if lows else None,
        high=min(highs, key=lambda high: (high[0], not high[1])) if highs else None,
        integer=left.integer or right.integer,
        multiple=common_multiple(left.multiple, right.multiple),
        excluded=left.excluded | right.excluded,
    )
    point = found.point
    if point is None or found.is_empty:
        return found
    fits = (not found.integer or point.denominator == 1) and (not found.multiple or not point % found.multiple)
    if not fits or point in found.excluded:
        return replace(found, low=(point, True))
    return replace(found, excluded=frozenset(), multiple=None)


def _meet_strings(left: String, right: String) -> String:
    found = String(
        min_length=max(left.min_length, right.min_length),
        max_length=least(left.max_length, right.max_length),
        patterns=_merged(left.patterns, right.patterns),
        formats=_merged(left.formats, right.formats),
        excluded=left.excluded | right.excluded,
        not_patterns=_merged(left.not_patterns, right.not_patterns),
    )
    if left.values is None and right.values is None:
        return found
    values = left.values if left.values is not None else right.values
    assert values is not None
    if left.values is not None and right.values is not None:
        values = tuple(value for value in left.values if value in right.values)
    kept = tuple(value for value in values if _is_string(found, value))
    return String(values=kept, formats=found.formats)


def _is_string(shape: String, value: str) -> bool:
    return (
        shape.min_length <= len(value)
        and (shape.max_length is None or len(value) <= shape.max_length)
        and value not in shape.excluded
        and all(searches(pattern, value) for pattern in shape.patterns)
        and not any(searches(pattern, value) for pattern in shape.not_patterns)
    )


def _merged(left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*left, *right)))


def _meet_arrays(left: Array, right: Array) -> Array:
    length = max(len(left.prefix), len(right.prefix))
    counted = [n for n in (left.evaluated, right.evaluated) if isinstance(n, int)]
    return Array(
        prefix=tuple(both(left.item(i), right.item(i)) for i in range(length)),
        items=both(left.items, right.items),
        min_items=max(left.min_items, right.min_items),
        max_items=least(left.max_items, right.max_items),
        unique=left.unique or right.unique,
        contains=_merged(left.contains, right.contains),
        evaluated=max(counted) if len(counted) == 2 else EVERYTHING,
    )


def _meet_objects(left: Object, right: Object) -> Object:
    names = _merged(tuple(n for n, _ in left.properties), tuple(n for n, _ in right.properties))
    everything = EVERYTHING in (left.evaluated, right.evaluated)
    return Object(
        properties=tuple((name, both(left.of(name), right.of(name))) for name in names),
        patterns=_meet_patterns(left, right),
        additional=both(left.additional, right.additional),
        required=_merged(left.required, right.required),
        min_properties=max(left.min_properties, right.min_properties),
        max_properties=least(left.max_properties, right.max_properties),
        names=both(left.names, right.names),
        evaluated=EVERYTHING if everything else frozenset((*left.evaluated, *right.evaluated)),
        evaluated_patterns=left.evaluated_patterns | right.evaluated_patterns,
    )


def _meet_patterns(left: Object, right: Object) -> tuple[tuple[str, Term], ...]:
    """Patterns of both sides; one that a side lacks is met there by its `additional`, if no other pattern may."""
    mine, theirs = dict(left.patterns), dict(right.patterns)
    found: dict[str, Term] = {}
    for pattern in (*mine, *theirs):
        if pattern in mine and pattern in theirs:
            found[pattern] = both(mine[pattern], theirs[pattern])
            continue
        term, other = (mine[pattern], right) if pattern in mine else (theirs[pattern], left)
        # llguidance refuses patterns that overlap, so what is left unknown here is no other pattern's
        found[pattern] = both(term, other.additional)
    return tuple(found.items())
