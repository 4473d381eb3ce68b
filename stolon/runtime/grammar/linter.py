"""Checks a schema before anything is made of it: its size, its spelling, and keywords that nothing here enforces.

A keyword that no JSON Schema draft defines is an annotation and means nothing. One that a draft defines is enforced
or refused with its JSON pointer; none is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

from ...lang.errors import InvalidRequest

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_PROPERTIES = 1_000
MAX_ENUM = 1_000
MAX_REPEAT = 10_000
MAX_MULTIPLE = 10_000

TYPES = ("null", "boolean", "number", "string", "array", "object")
_ONE = frozenset(
    "additionalItems additionalProperties contains else if items not propertyNames then unevaluatedItems "
    "unevaluatedProperties".split()
)
_MANY = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"$defs", "definitions", "properties", "patternProperties", "dependentSchemas"})
_COUNTS = frozenset("minLength maxLength minItems maxItems minProperties maxProperties minContains maxContains".split())
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
# how `extends` and its like of draft 3, and the references that depend on the way taken, are met
_NOT_ENFORCED = frozenset({"extends", "disallow", "divisibleBy", "$recursiveRef"})


def refuse(pointer: str, message: str, code: str) -> InvalidRequest:
    """An error about the place `pointer` of a schema."""
    return InvalidRequest(f"schema {pointer or '#'}: {message}", param=pointer or "#", code=code)


def unsupported(pointer: str, keyword: str, why: str) -> InvalidRequest:
    return refuse(
        f"{pointer}/{escaped(keyword)}", f"{keyword!r} cannot be enforced: {why}", "unsupported_schema_keyword"
    )


def too_large(pointer: str, what: str, got: int, limit: int) -> InvalidRequest:
    return refuse(pointer, f"{what}: got {got:,}, the limit is {limit:,}", "schema_too_large")


def escaped(key: str) -> str:
    """A key as a segment of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def parse(text: str) -> Any:
    """A schema from its text. Raises InvalidRequest for what is no JSON, no schema, or larger than the limits."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise too_large("", "bytes of the schema", size, MAX_BYTES)
    try:
        schema: Any = json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise refuse("", f"it is nested too deeply; the limit is {MAX_DEPTH}", "schema_too_large") from error
    except ValueError as error:
        raise refuse("", f"it is not JSON: {error}", "invalid_schema") from error
    # only an escape makes half a surrogate pair of a text that has none
    if "\\ud" in text.lower() or not text.isascii():
        _check_characters(schema)
    check(schema)
    return schema


def check(schema: Any) -> None:
    """Raises InvalidRequest at the first thing that is wrong with a schema or cannot be enforced."""
    _check_depth(schema)
    count = 0
    for pointer, node in subschemas(schema, ""):
        count += 1
        if count > MAX_NODES:
            raise too_large(pointer, "subschemas", count, MAX_NODES)
        if isinstance(node, bool):
            continue
        if not isinstance(node, dict):
            raise refuse(pointer, f"a schema is an object or a boolean, got {_kind(node)}", "invalid_schema")
        for keyword, value in cast("dict[str, Any]", node).items():
            _check_keyword(pointer, keyword, value)


def subschemas(node: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    """A schema and all schemas inside it, with their pointers, parents first."""
    pending: list[tuple[str, Any]] = [(pointer, node)]
    while pending:
        here, found = pending.pop()
        yield here, found
        if isinstance(found, dict):
            pending += reversed(list(children(cast("dict[str, Any]", found), here)))


def children(node: dict[str, Any], pointer: str) -> Iterator[tuple[str, Any]]:
    for keyword, value in node.items():
        at = f"{pointer}/{escaped(keyword)}"
        if keyword in _MANY or (keyword == "items" and isinstance(value, list)):
            if isinstance(value, list):
                yield from ((f"{at}/{i}", part) for i, part in enumerate(cast("list[Any]", value)))
        elif keyword in _ONE:
            yield at, value
        elif keyword in _NAMED and isinstance(value, dict):
            yield from ((f"{at}/{escaped(k)}", part) for k, part in cast("dict[str, Any]", value).items())
        elif keyword == "dependencies" and isinstance(value, dict):
            named = cast("dict[str, Any]", value).items()
            yield from ((f"{at}/{escaped(k)}", part) for k, part in named if not isinstance(part, list))


def _check_depth(schema: Any) -> None:
    level: list[Any] = [schema]
    depth = 0
    while level:
        depth += 1
        # a level of schema is at most two of JSON: its object, and the object or list of a keyword
        if depth > 2 * MAX_DEPTH:
            raise too_large("", "levels of nesting", depth // 2 + 1, MAX_DEPTH)
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inner += cast("dict[str, Any]", node).values()
            elif isinstance(node, list):
                inner += cast("list[Any]", node)
        level = inner


def _check_characters(schema: Any) -> None:
    """Raises InvalidRequest at the first text that no answer could hold, of names too."""
    pending: list[tuple[str, Any]] = [("", schema)]
    while pending:
        at, node = pending.pop()
        if isinstance(node, dict):
            for key, value in cast("dict[str, Any]", node).items():
                # the name comes first: no pointer can hold a wrong one
                pending += [(f"{at}/{escaped(key)}", value), (at, key)]
        elif isinstance(node, list):
            pending += [(f"{at}/{i}", part) for i, part in enumerate(cast("list[Any]", node))]
        elif isinstance(node, str) and any("\ud800" <= char <= "\udfff" for char in node):
            what = f"{ascii(node)[:100]} holds half a surrogate pair, which no text can hold; write the whole character"
            raise refuse(at, what, "invalid_schema")


def _check_keyword(pointer: str, keyword: str, value: Any) -> None:
    at = f"{pointer}/{escaped(keyword)}"
    if keyword in _NOT_ENFORCED:
        raise unsupported(pointer, keyword, "no answer can be held to it; write it in other keywords")
    rule = _RULES.get(keyword)
    if rule is not None:
        rule(at, value)


def _check_count(at: str, value: Any) -> None:
    whole = isinstance(value, float) and value.is_integer()
    if isinstance(value, bool) or not (isinstance(value, int) or whole) or value < 0:
        raise refuse(at, f"must be a whole number of at least 0, got {_shown(value)}", "invalid_schema")
    if at.rpartition("/")[2].startswith("min") and value > MAX_REPEAT:
        raise too_large(at, "repetitions asked for", int(value), MAX_REPEAT)


def _check_bound(at: str, value: Any) -> None:
    draft_4 = isinstance(value, bool) and at.rpartition("/")[2].startswith("exclusive")
    if not draft_4 and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise refuse(at, f"must be a number, got {_shown(value)}", "invalid_schema")
    if at.endswith("/multipleOf") and value <= 0:
        raise refuse(at, f"must be more than 0, got {_shown(value)}", "invalid_schema")


def _check_names(at: str, value: Any) -> None:
    found = cast("list[Any]", value) if isinstance(value, list) else [None]
    if not all(isinstance(name, str) for name in found):
        raise refuse(at, f"must be a list of names, got {_shown(value)}", "invalid_schema")
    if len(found) > MAX_PROPERTIES:
        raise too_large(at, "names", len(found), MAX_PROPERTIES)


def _check_type(at: str, value: Any) -> None:
    named = cast("list[Any]", value) if isinstance(value, list) else [value]
    unknown = [name for name in named if name not in (*TYPES, "integer")]
    if unknown or not named:
        raise refuse(at, f"must name {', '.join(TYPES)} or integer, got {_shown(value)}", "invalid_schema")


def _check_enum(at: str, value: Any) -> None:
    if not isinstance(value, list):
        raise refuse(at, f"must be a list of values, got {_shown(value)}", "invalid_schema")
    found = cast("list[Any]", value)
    if not found:
        raise refuse(at, "is empty, so that no value is valid; name at least one", "unsatisfiable_schema")
    if len(found) > MAX_ENUM:
        raise too_large(at, "values", len(found), MAX_ENUM)


def _check_list(at: str, value: Any) -> None:
    if not isinstance(value, list) or value == []:
        raise refuse(at, f"must be a list of schemas, got {_shown(value)}", "invalid_schema")


def _check_map(at: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise refuse(at, f"must be an object, got {_shown(value)}", "invalid_schema")
    found = cast("dict[str, Any]", value)
    if len(found) > MAX_PROPERTIES and at.rpartition("/")[2] not in ("$defs", "definitions"):
        raise too_large(at, "properties", len(found), MAX_PROPERTIES)


def _check_text(at: str, value: Any) -> None:
    if not isinstance(value, str):
        raise refuse(at, f"must be a string, got {_shown(value)}", "invalid_schema")


def _check_flag(at: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise refuse(at, f"must be true or false, got {_shown(value)}", "invalid_schema")


_RULES: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(_COUNTS, _check_count),
    **dict.fromkeys(_BOUNDS, _check_bound),
    **dict.fromkeys(_NAMED | {"dependencies", "dependentRequired"}, _check_map),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _check_list),
    **dict.fromkeys(("pattern", "format", "$ref", "$dynamicRef"), _check_text),
    "required": _check_names,
    "type": _check_type,
    "enum": _check_enum,
    "uniqueItems": _check_flag,
}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "a string" if isinstance(value, str) else _shown(value)


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]
