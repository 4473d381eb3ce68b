"""Whether a JSON value has a JSON schema (draft 2020-12 and what older drafts spell otherwise).

For answers of servers that promise a form; the local engine holds to a schema while it generates. What cannot be
checked here is said, never passed over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast
from urllib.parse import unquote

from .scalars import DATE, UUID

_NOT_HERE = frozenset(
    "unevaluatedProperties unevaluatedItems $dynamicRef $recursiveRef extends disallow divisibleBy".split()
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_FORMATS = {  # the others are annotations here, as in JSON Schema
    "date": DATE,
    "time": _CLOCK,
    "date-time": rf"{DATE}[Tt]{_CLOCK}",
    "uuid": UUID.replace("0-9a-f", "0-9a-fA-F"),
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "email": r"[^@\s]+@[^@\s]+",
}
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: _is_number(value),
    "integer": lambda value: _is_number(value) and value == math.floor(value),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


class UncheckableError(ValueError):
    """The schema says something that cannot be checked here; the message says what, and where."""


class SchemaCheck:
    """A schema to hold values against. Raises UncheckableError where it cannot be."""

    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._anchors: dict[str, Any] = {}
        self._look(schema, "#")

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, and where in it; None if nothing is."""
        try:
            return next(self.problems(self._root, value, ""), None)
        except RecursionError as error:
            raise UncheckableError("the schema, or the answer, is nested too deeply") from error

    def _look(self, schema: Any, where: str) -> None:
        """Find what cannot be checked, once, and the names of sub-schemas."""
        for index, item in enumerate(_list(schema)):
            self._look(item, f"{where}/{index}")
        for key, inner in _object(schema).items():
            here = f"{where}/{key}"
            if key in _NOT_HERE:
                raise UncheckableError(f"schema {here}: {key!r} cannot be checked in the answer of a server")
            if key == "$ref" and isinstance(inner, str):
                if not inner.startswith("#"):
                    raise UncheckableError(f"schema {here}: {inner!r} leads out of the schema")
            elif key in ("$anchor", "$id") and isinstance(inner, str):
                self._anchors[inner.lstrip("#")] = schema
            elif key == "pattern" and isinstance(inner, str):
                _compiled(inner, here)
            elif key == "patternProperties":
                for pattern in _object(inner):
                    _compiled(pattern, here)
            if key in ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"):
                for name, one in _object(inner).items():
                    self._look(one, f"{here}/{name}")
            elif key not in ("enum", "const", "default", "examples"):
                self._look(inner, here)

    def problems(self, schema: Any, value: Any, path: str) -> Iterator[str]:
        """What is wrong with the part of the answer at `path`, one after the other."""
        if schema is False:
            yield f"{_place(path)} may not be there"
        keywords = _object(schema)
        if "$ref" in keywords:
            yield from self.problems(self._resolved(keywords["$ref"]), value, path)
        for key, wanted in keywords.items():
            rule = _RULES.get(key)
            if rule is not None and (rule[0] is None or _TYPES[rule[0]](value)):
                yield from rule[1](self, wanted, value, path, keywords)

    def fits(self, schema: Any, value: Any) -> bool:
        return next(self.problems(schema, value, ""), None) is None

    def _resolved(self, reference: str) -> Any:
        pointer = unquote(reference[1:])
        if pointer and not pointer.startswith("/"):
            if pointer in self._anchors:
                return self._anchors[pointer]
            raise UncheckableError(f"schema: {reference!r} leads nowhere")
        found: Any = self._root
        for step in pointer.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            try:
                found = cast("Any", found[int(step)] if isinstance(found, list) else found[step])
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise UncheckableError(f"schema: {reference!r} leads nowhere") from error
        return found


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _compiled(pattern: str, where: str = "") -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UncheckableError(f"schema {where}: the pattern {pattern!r} cannot be checked here: {error}") from error


def _found(pattern: str, text: str) -> bool:
    # in JSON Schema `$` is the end of the text, in Python also before a line break at the end
    ended = re.sub(r"(?<!\\)((?:\\\\)*)\$", r"\1\\Z", pattern) if text.endswith("\n") else pattern
    return _compiled(ended).search(text) is not None


def _same(one: Any, other: Any) -> bool:
    return _key(one) == _key(other)


def _key(value: Any) -> Any:
    """Equal for what JSON Schema calls equal: 1 and 1.0 are, 1 and true are not, the order of keys is nothing."""
    match value:
        case bool():
            return ("bool", value)
        case dict():
            return ("object", frozenset((name, _key(one)) for name, one in _object(value).items()))
        case list():
            return ("array", tuple(map(_key, _list(value))))
        case _:
            return value


_Check = Callable[[SchemaCheck, Any, Any, str, dict[str, Any]], Iterator[str]]


def _if(claim: Callable[[Any, Any], bool], words: str) -> _Check:
    def check(_: SchemaCheck, wanted: Any, value: Any, path: str, schema: dict[str, Any]) -> Iterator[str]:
        if not claim(wanted, value):
            shown = json.dumps(value, ensure_ascii=False)
            yield f"{_place(path)} {words} {json.dumps(wanted, ensure_ascii=False)[:200]}, got {shown[:200]}"

    return check


def _place(path: str) -> str:
    return path or "the answer"


def _type(wanted: Any, value: Any) -> bool:
    return any(_TYPES[one](value) for one in ([wanted] if isinstance(wanted, str) else wanted))


def _multiple(wanted: float, value: float) -> bool:
    if isinstance(wanted, int) and isinstance(value, int):
        return value % wanted == 0
    quotient = value / wanted
    return math.isfinite(quotient) and abs(quotient - round(quotient)) < 1e-9


def _properties(check: SchemaCheck, _: Any, value: Any, path: str, schema: dict[str, Any]) -> Iterator[str]:
    """`properties`, `patternProperties` and `additionalProperties` at once: the last depends on the others."""
    named: dict[str, Any] = schema.get("properties", {})
    patterns: dict[str, Any] = schema.get("patternProperties", {})
    for name, one in value.items():
        here = f"{path}/{name}"
        schemas = [named[name]] if name in named else []
        schemas += [inner for pattern, inner in patterns.items() if _found(pattern, name)]
        for inner in schemas or [schema.get("additionalProperties", True)]:
            yield from check.problems(inner, one, here)


def _first_of(keys: tuple[str, ...], check: _Check) -> dict[str, tuple[str, _Check]]:
    """One check for several keywords, run at the first of them that a schema has."""

    def at(key: str) -> _Check:
        def once(c: SchemaCheck, w: Any, value: Any, path: str, schema: dict[str, Any]) -> Iterator[str]:
            if next(one for one in keys if one in schema) == key:
                yield from check(c, w, value, path, schema)

        return once

    return {key: ("array" if "tems" in key else "object", at(key)) for key in keys}


def _items(check: SchemaCheck, _: Any, value: Any, path: str, schema: dict[str, Any]) -> Iterator[str]:
    first, rest = _list(schema.get("prefixItems")), schema.get("items", True)
    if isinstance(rest, list):  # as drafts before 2020-12 spell it
        first, rest = _list(rest), schema.get("additionalItems", True)
    for index, one in enumerate(value):
        yield from check.problems(first[index] if index < len(first) else rest, one, f"{path}/{index}")


def _contains(check: SchemaCheck, wanted: Any, value: Any, path: str, schema: dict[str, Any]) -> Iterator[str]:
    count = sum(check.fits(wanted, one) for one in value)
    if not schema.get("minContains", 1) <= count <= schema.get("maxContains", math.inf):
        yield f"{_place(path)} holds {count} items of the kind that `contains` counts"


def _required(_: SchemaCheck, wanted: Any, value: Any, path: str, __: dict[str, Any]) -> Iterator[str]:
    for name in wanted:
        if name not in value:
            yield f"{_place(path)} lacks {name!r}"


def _dependent(check: SchemaCheck, wanted: Any, value: Any, path: str, _: dict[str, Any]) -> Iterator[str]:
    for name, inner in wanted.items():
        if name in value:
            if isinstance(inner, list):
                yield from _required(check, inner, value, path, {})
            else:
                yield from check.problems(inner, value, path)


def _names(check: SchemaCheck, wanted: Any, value: Any, path: str, _: dict[str, Any]) -> Iterator[str]:
    for name in value:
        for problem in check.problems(wanted, name, ""):
            yield f"the name {name!r} in {_place(path)}: {problem}"


def _all_of(check: SchemaCheck, wanted: Any, value: Any, path: str, _: dict[str, Any]) -> Iterator[str]:
    for inner in wanted:
        yield from check.problems(inner, value, path)


def _any_of(check: SchemaCheck, wanted: Any, value: Any, path: str, _: dict[str, Any]) -> Iterator[str]:
    firsts: list[str] = []
    for inner in wanted:
        problem = next(check.problems(inner, value, path), None)
        if problem is None:
            return
        firsts.append(problem)
    yield f"{_place(path)} fits none of {len(wanted)} ways: {'; '.join(firsts)[:400]}"


def _one_of(check: SchemaCheck, wanted: Any, value: Any, path: str, _: dict[str, Any]) -> Iterator[str]:
    count = sum(check.fits(inner, value) for inner in wanted)
    if count != 1:
        yield f"{_place(path)} fits {count} of {len(wanted)} ways, and should fit one"


def _not(check: SchemaCheck, wanted: Any, value: Any, path: str, _: dict[str, Any]) -> Iterator[str]:
    if check.fits(wanted, value):
        yield f"{_place(path)} is what `not` rules out"


def _condition(check: SchemaCheck, wanted: Any, value: Any, path: str, schema: dict[str, Any]) -> Iterator[str]:
    yield from check.problems(schema.get("then" if check.fits(wanted, value) else "else", True), value, path)


_RULES: Mapping[str, tuple[str | None, _Check]] = {
    "type": (None, _if(_type, "must be of type")),
    "enum": (None, _if(lambda wanted, value: any(_same(one, value) for one in wanted), "must be one of")),
    "const": (None, _if(_same, "must be")),
    "multipleOf": ("number", _if(_multiple, "must be a multiple of")),
    "maximum": ("number", _if(lambda wanted, value: value <= wanted, "must be at most")),
    "exclusiveMaximum": ("number", _if(lambda wanted, value: value < wanted, "must be less than")),
    "minimum": ("number", _if(lambda wanted, value: value >= wanted, "must be at least")),
    "exclusiveMinimum": ("number", _if(lambda wanted, value: value > wanted, "must be more than")),
    "maxLength": ("string", _if(lambda wanted, value: len(value) <= wanted, "must have a length of at most")),
    "minLength": ("string", _if(lambda wanted, value: len(value) >= wanted, "must have a length of at least")),
    "pattern": ("string", _if(_found, "must match")),
    "format": (
        "string",
        _if(lambda wanted, value: wanted not in _FORMATS or bool(re.fullmatch(_FORMATS[wanted], value)), "must be a"),
    ),
    "maxItems": ("array", _if(lambda wanted, value: len(value) <= wanted, "must have an item count of at most")),
    "minItems": ("array", _if(lambda wanted, value: len(value) >= wanted, "must have an item count of at least")),
    "uniqueItems": (
        "array",
        _if(lambda wanted, value: not wanted or len(set(map(_key, value))) == len(value), "must have no doubles:"),
    ),
    "maxProperties": ("object", _if(lambda wanted, value: len(value) <= wanted, "must have a name count of at most")),
    "minProperties": ("object", _if(lambda wanted, value: len(value) >= wanted, "must have a name count of at least")),
    **_first_of(("properties", "patternProperties", "additionalProperties"), _properties),
    **_first_of(("prefixItems", "items"), _items),
    "contains": ("array", _contains),
    "required": ("object", _required),
    "dependentRequired": ("object", _dependent),
    "dependentSchemas": ("object", _dependent),
    "dependencies": ("object", _dependent),
    "propertyNames": ("object", _names),
    "allOf": (None, _all_of),
    "anyOf": (None, _any_of),
    "oneOf": (None, _one_of),
    "not": (None, _not),
    "if": (None, _condition),
}
