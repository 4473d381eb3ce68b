"""The ways to differ from a shape."""

from __future__ import annotations

from collections.abc import Callable

from .rewrite_shapes import (
    ANYTHING,
    Array,
    Boolean,
    Null,
    Number,
    Object,
    Shape,
    String,
    Term,
    Union,
    Unsupported,
)


def negated(shape: Shape, keyword: str, without: Callable[[Term], Term]) -> Union:
    """All values that do not have this shape. Raises Unsupported, naming `keyword`, where no union can say it.

    A value differs if it has another type, or misses at least one of the shape's conditions; each condition missed is
    a shape of its own. `without` is the negation of a term.
    """
    others = tuple(other for other in ANYTHING if type(other) is not type(shape))
    match shape:
        case Null():
            same: list[Shape] = []
        case Boolean():
            left = frozenset((True, False)) - shape.values
            same = [Boolean(left)] if left else []
        case Number():
            same = _numbers(shape, keyword)
        case String():
            same = _strings(shape, keyword)
        case Array():
            same = _arrays(shape, keyword, without)
        case Object():
            same = _objects(shape, keyword, without)
    return (*others, *(one for one in same if isinstance(one, (Null, Boolean)) or not one.is_empty))


def _numbers(shape: Number, keyword: str) -> list[Shape]:
    if shape.point is not None:
        return [Number(excluded=frozenset((shape.point,)))]
    if shape.integer or shape.multiple is not None:
        raise Unsupported(keyword, "numbers that are not whole, or no multiple of another, cannot be enumerated")
    found: list[Shape] = [Number(low=(value, False), high=(value, False)) for value in sorted(shape.excluded)]
    if shape.low is not None:
        found.append(Number(high=(shape.low[0], not shape.low[1])))
    if shape.high is not None:
        found.append(Number(low=(shape.high[0], not shape.high[1])))
    return found


def _strings(shape: String, keyword: str) -> list[Shape]:
    if shape.formats:
        raise Unsupported(keyword, "strings that do not have a format cannot be enumerated")
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


def _arrays(shape: Array, keyword: str, without: Callable[[Term], Term]) -> list[Shape]:
    if shape.unique or shape.contains:
        raise Unsupported(keyword, "it would have to hold `uniqueItems` or `contains` to their contrary")
    found: list[Shape] = []
    if shape.min_items:
        found.append(Array(max_items=shape.min_items - 1))
    if shape.max_items is not None:
        found.append(Array(min_items=shape.max_items + 1))
    for index, term in enumerate(shape.prefix):
        if term is not True:
            found.append(Array(prefix=(*(True,) * index, without(term)), min_items=index + 1))
    if shape.items is False:
        found.append(Array(min_items=len(shape.prefix) + 1))
    elif shape.items is not True and shape.max_items is not None and shape.max_items <= len(shape.prefix) + 8:
        places = range(len(shape.prefix), shape.max_items)
        found += [Array(prefix=(*(True,) * i, without(shape.items)), min_items=i + 1) for i in places]
    elif shape.items is not True:
        raise Unsupported(keyword, "an array of which some item must differ, wherever it is")
    return found


def _objects(shape: Object, keyword: str, without: Callable[[Term], Term]) -> list[Shape]:
    if shape.patterns or shape.additional is not True or shape.names is not True:
        raise Unsupported(keyword, "an object of which some property that is not named must differ")
    found: list[Shape] = [Object(properties=((name, False),)) for name in shape.required]
    for name, term in shape.properties:
        if term is not True:
            found.append(Object(properties=((name, without(term)),), required=(name,)))
    if shape.min_properties:
        found.append(Object(max_properties=shape.min_properties - 1))
    if shape.max_properties is not None:
        found.append(Object(min_properties=shape.max_properties + 1))
    return found
