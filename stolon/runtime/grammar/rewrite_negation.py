"""The ways to differ from a shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .rewrite_shapes import (
    Array,
    Boolean,
    Null,
    Number,
    Object,
    Shape,
    String,
    Term,
    Union,
    both,
    least,
)

# an array this much longer than its prefix is looked at place by place
_PLACES = 8


@dataclass(frozen=True, slots=True)
class Negation:
    """without: the negation of a term; is_empty: whether no value is valid under a term
    left_out: why ways to differ were left out that no shape can say; what is said is narrower then, never wider
    """

    keyword: str
    without: Callable[[Term], Term]
    is_empty: Callable[[Term], bool]
    left_out: list[str] = field(default_factory=list[str])


def negated(shape: Shape, against: Shape, negation: Negation) -> Union:
    """Shapes that, met with `against`, hold all its values that do not have `shape`; both have one type.

    A value differs if it misses at least one of the shape's conditions; each condition missed is a shape of its own,
    or, where none can say it, left out and noted.
    """
    match shape:
        case Null():
            same: list[Shape] = []
        case Boolean():
            left = frozenset((True, False)) - shape.values
            same = [Boolean(left)] if left else []
        case Number():
            same = _numbers(shape, against, negation)
        case String():
            same = _strings(shape, negation)
        case Array():
            same = _arrays(shape, against, negation)
        case Object():
            same = _objects(shape, against, negation)
    return tuple(one for one in same if isinstance(one, (Null, Boolean)) or not one.is_empty)


def _numbers(shape: Number, against: Shape, negation: Negation) -> list[Shape]:
    assert isinstance(against, Number)
    if shape.point is not None:
        return [Number(excluded=frozenset((shape.point,)))]
    step, given = shape.step, against.step
    # what `against` already has cannot be missed
    if step is not None and (given is None or given % step):
        negation.left_out.append("numbers that are not whole, or no multiple of another, cannot be enumerated")
    found: list[Shape] = [Number(low=(value, False), high=(value, False)) for value in sorted(shape.excluded)]
    if shape.low is not None:
        found.append(Number(high=(shape.low[0], not shape.low[1])))
    if shape.high is not None:
        found.append(Number(low=(shape.high[0], not shape.high[1])))
    return found


def _strings(shape: String, negation: Negation) -> list[Shape]:
    if shape.formats:
        negation.left_out.append("strings that do not have a format cannot be enumerated")
    if shape.values is not None:
        return [String(excluded=frozenset(shape.values))]
    found: list[Shape] = [String(not_patterns=(pattern,)) for pattern in shape.patterns]
    found += [String(patterns=(pattern,)) for pattern in shape.not_patterns]
    if shape.excluded:
        found.append(String(values=tuple(sorted(shape.excluded))))
    if shape.min_length:
        found.append(String(max_length=shape.min_length - 1))
    if shape.max_length is not None:
        found.append(String(min_length=shape.max_length + 1))
    return found


def _arrays(shape: Array, against: Shape, negation: Negation) -> list[Shape]:
    if shape.unique or shape.contains:
        negation.left_out.append("it would have to hold `uniqueItems` or `contains` to their contrary")
    found: list[Shape] = []
    if shape.min_items:
        found.append(Array(max_items=shape.min_items - 1))
    if shape.max_items is not None:
        found.append(Array(min_items=shape.max_items + 1))
    length = len(shape.prefix)
    found += [_differing(i, negation.without(term)) for i, term in enumerate(shape.prefix) if term is not True]
    if shape.items is True:
        return found
    assert isinstance(against, Array)
    longest = least(shape.max_items, against.longest)
    if longest is not None and longest <= length + _PLACES:
        return [*found, *(_differing(i, negation.without(shape.items)) for i in range(length, longest))]
    if len(against.prefix) <= length and negation.is_empty(both(shape.items, against.items)):
        # no item can be valid here and there, so that the first one after the prefix differs
        return [*found, Array(min_items=length + 1)]
    negation.left_out.append("an array of which some item must differ, wherever it is")
    return found


def _differing(index: int, term: Term) -> Array:
    return Array(prefix=(*(True,) * index, term), min_items=index + 1)


def _objects(shape: Object, against: Shape, negation: Negation) -> list[Shape]:
    assert isinstance(against, Object)
    listed = [name for name, _ in shape.properties]
    if shape.names is not True:
        negation.left_out.append("an object with a name that `propertyNames` does not allow")
    if shape.patterns or shape.additional is not True:
        if against.patterns or against.additional is not False:
            negation.left_out.append("an object of which some property that is not named must differ")
        # where nothing else may be there, these are all the properties that there can be
        named = (*(name for name, _ in against.properties), *against.required)
        listed += [name for name in dict.fromkeys(named) if name not in listed]
    found: list[Shape] = [Object(properties=((name, False),)) for name in shape.required]
    for name in listed:
        term = shape.of(name)
        if term is not True:
            found.append(Object(properties=((name, negation.without(term)),), required=(name,)))
    if shape.min_properties:
        found.append(Object(max_properties=shape.min_properties - 1))
    if shape.max_properties is not None:
        found.append(Object(min_properties=shape.max_properties + 1))
    return found
