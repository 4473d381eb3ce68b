"""The keywords that speak of one type each, as shapes; and `type`, `const` and `enum`."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any, cast

from .linter import MAX_MULTIPLE, TYPES, escaped, too_large
from .rewrite_shapes import (
    EVERYTHING,
    Array,
    Boolean,
    Contains,
    Null,
    Number,
    Object,
    Raw,
    Shape,
    String,
    Term,
    Union,
    both,
    common_multiple,
    meet,
    searches,
)
from .schema_document import Document
from .schema_formats import known_format


def plain_shapes(document: Document, raw: Raw) -> Union:
    """What a schema's own keywords say, those left out that speak of whole schemas."""
    node = document.node(raw)
    named: Any = node.get("type", list(TYPES))
    types = cast("list[str]", named if isinstance(named, list) else [named])
    whole = {"number": False} if "number" in types else {"number": True} if "integer" in types else {}
    shapes = [_SHAPES[name](document, raw, node) for name in TYPES if name in types or name in whole]
    if whole.get("number"):
        shapes = [meet(s, Number(integer=True)) or _NOTHING if isinstance(s, Number) else s for s in shapes]
    found: Union = tuple(shape for shape in shapes if not _is_empty(shape))
    for values in ([node["const"]] if "const" in node else None, node.get("enum")):
        if values is not None:
            listed = listed_values(document, raw, values)
            found = tuple(m for shape in found for one in listed if (m := meet(shape, one)) is not None)
    return found


_NOTHING = String(values=())


def _is_empty(shape: Shape) -> bool:
    return not isinstance(shape, (Null, Boolean)) and shape.is_empty


def listed_values(document: Document, raw: Raw, values: Iterable[Any]) -> list[Shape]:
    """Shapes of exactly these values; strings together, so that a long list stays one shape."""
    texts: list[str] = []
    found: list[Shape] = []
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        else:
            found.append(_value(document, raw, value))
    return [*([String(values=tuple(dict.fromkeys(texts)))] if texts else []), *dict.fromkeys(found)]


def _value(document: Document, raw: Raw, value: Any) -> Shape:
    match value:
        case None:
            return Null()
        case bool():
            return Boolean(frozenset((value,)))
        case int() | float():
            point = (_fraction(value), False)
            return Number(low=point, high=point)
        case list():
            items = cast("list[Any]", value)
            terms = tuple(document.written(raw, {"const": item}) for item in items)
            return Array(prefix=terms, items=False, min_items=len(items), max_items=len(items))
        case dict():
            named = cast("dict[str, Any]", value)
            properties = tuple((name, document.written(raw, {"const": part})) for name, part in named.items())
            return Object(properties=properties, additional=False, required=tuple(named))
        case _:
            return String(values=(value,))


def _fraction(value: float | int) -> Fraction:
    # a float stands for the decimal that was written
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def _null(document: Document, raw: Raw, node: dict[str, Any]) -> Shape:
    return Null()


def _boolean(document: Document, raw: Raw, node: dict[str, Any]) -> Shape:
    return Boolean()


def _number(document: Document, raw: Raw, node: dict[str, Any]) -> Shape:
    lows: list[tuple[Fraction, bool]] = []
    highs: list[tuple[Fraction, bool]] = []
    for bounds, inclusive, exclusive in ((lows, "minimum", "exclusiveMinimum"), (highs, "maximum", "exclusiveMaximum")):
        strict: Any = node.get(exclusive, False)
        if inclusive in node:
            # up to draft 4 `exclusiveMinimum` was true or false, and spoke of `minimum`
            bounds.append((_fraction(node[inclusive]), strict is True))
        if not isinstance(strict, bool):
            bounds.append((_fraction(strict), True))
    multiple = _fraction(node["multipleOf"]) if "multipleOf" in node else None
    if multiple is not None and multiple.numerator > MAX_MULTIPLE:
        at = f"{document.place(raw)[1]}/multipleOf"
        raise too_large(at, "the divisor, as a multiple of its last decimal", multiple.numerator, MAX_MULTIPLE)
    return Number(
        low=max(lows) if lows else None,
        high=min(highs, key=lambda high: (high[0], not high[1])) if highs else None,
        multiple=common_multiple(multiple, None),
    )


def _string(document: Document, raw: Raw, node: dict[str, Any]) -> Shape:
    patterns = (node["pattern"],) if "pattern" in node else ()
    formats = (node["format"],) if "format" in node and known_format(node["format"]) else ()
    least, most = _counts(node, "minLength", "maxLength")
    return String(min_length=least, max_length=most, patterns=patterns, formats=formats)


def _counts(node: dict[str, Any], least: str, most: str) -> tuple[int, int | None]:
    return int(node.get(least, 0)), int(node[most]) if most in node else None


def _array(document: Document, raw: Raw, node: dict[str, Any]) -> Shape:
    items: Any = node.get("items", True)
    listed: list[Any] = node.get("prefixItems", [])
    first, rest = "prefixItems", "items"
    if isinstance(items, list):
        # up to draft 2019-09 a list of `items` was what `prefixItems` is now, and `additionalItems` the rest
        first, rest = "items", "additionalItems"
        listed, items = cast("list[Any]", items), node.get("additionalItems", True)
    base, pointer = document.place(raw)
    prefix = [document.term(part, base, f"{pointer}/{first}/{i}") for i, part in enumerate(listed)]
    least, most = _counts(node, "minItems", "maxItems")
    return Array(
        prefix=tuple(prefix),
        items=document.term(items, base, f"{pointer}/{rest}"),
        min_items=least,
        max_items=most,
        unique=node.get("uniqueItems", False),
        contains=_contains(document, raw, node),
        evaluated=EVERYTHING if rest in node else len(prefix),
    )


def _contains(document: Document, raw: Raw, node: dict[str, Any]) -> tuple[Contains, ...]:
    if "contains" not in node:
        return ()
    base, pointer = document.place(raw)
    least, most = _counts(node, "minContains", "maxContains")
    least = least if "minContains" in node else 1
    return (Contains(document.term(node["contains"], base, f"{pointer}/contains"), least, most),)


def _object(document: Document, raw: Raw, node: dict[str, Any]) -> Shape:
    base, pointer = document.place(raw)

    def inside(keyword: str, name: str, part: Any) -> Term:
        return document.term(part, base, f"{pointer}/{keyword}/{escaped(name)}")

    patterns = tuple((p, inside("patternProperties", p, part)) for p, part in node.get("patternProperties", {}).items())
    properties: dict[str, Term] = {}
    for name, part in node.get("properties", {}).items():
        found = inside("properties", name, part)
        for pattern, term in patterns:
            if searches(pattern, name):
                found = both(found, term)
        properties[name] = found
    least, most = _counts(node, "minProperties", "maxProperties")
    return Object(
        properties=tuple(properties.items()),
        patterns=patterns,
        additional=document.term(node.get("additionalProperties", True), base, f"{pointer}/additionalProperties"),
        required=tuple(dict.fromkeys(node.get("required", []))),
        min_properties=least,
        max_properties=most,
        names=document.term(node.get("propertyNames", True), base, f"{pointer}/propertyNames"),
        evaluated=EVERYTHING if "additionalProperties" in node else frozenset(properties),
        evaluated_patterns=frozenset(pattern for pattern, _ in patterns),
    )


_SHAPES = {"null": _null, "boolean": _boolean, "number": _number, "string": _string, "array": _array, "object": _object}
