"""A refusal of a schema names the place that is to blame, wherever in the compiling it was noticed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stolon.lang.constraint import Constraint
from stolon.lang.errors import InvalidRequest
from stolon.runtime.grammar.prepare import prepare

LOOK, BACK, NUL = "(?=x)y", r"(a)\1", "^\x01$"


def inside(schema: Any) -> dict[str, Any]:
    """`schema` as the last of many properties."""
    others = {f"p{i}": {"type": "integer"} for i in range(20)}
    return {"type": "object", "properties": {**others, "q": schema}, "required": ["q"]}


def text(**rules: Any) -> dict[str, Any]:
    return {"type": "string", **rules}


ROWS: dict[str, tuple[Any, str, str]] = {
    "a pattern": (text(pattern=LOOK), "/pattern", "unsupported_schema_keyword"),
    "a pattern that looks back": (text(pattern=BACK), "/pattern", "unsupported_schema_keyword"),
    "one pattern of several": (
        {"anyOf": [text(pattern="a"), {"type": "array", "items": text(pattern=LOOK)}]},
        "/anyOf/1/items/pattern",
        "unsupported_schema_keyword",
    ),
    "a pattern of names": (
        {"type": "object", "patternProperties": {"^a/~b$": {}, LOOK: {}}},
        f"/patternProperties/{LOOK}",
        "unsupported_schema_keyword",
    ),
    "a pattern under a name with signs": (
        {"type": "object", "properties": {"a/~b": text(pattern=LOOK)}},
        "/properties/a~1~0b/pattern",
        "unsupported_schema_keyword",
    ),
    "patterns of names that overlap": (
        {"type": "object", "patternProperties": {"^a": {"type": "null"}, "b$": {"type": "integer"}}},
        "/patternProperties",
        "unsupported_schema_keyword",
    ),
    "a pattern of propertyNames": (
        {"type": "object", "propertyNames": {"pattern": LOOK}},
        "/propertyNames/pattern",
        "unsupported_schema_keyword",
    ),
    "a control character in a pattern of names": (
        {"type": "object", "patternProperties": {NUL: {}}},
        f"/patternProperties/{NUL}",
        "unsupported_schema_keyword",
    ),
    "a control character in a const": ({"const": "\x01"}, "/const", "unsupported_schema_keyword"),
    "a keyword in a part": (
        {"allOf": [{"type": "array"}, {"contains": text()}, {"contains": {"type": "integer"}}]},
        "/allOf/1/contains",
        "unsupported_schema_keyword",
    ),
    "a keyword that depends on a name": (
        {"type": "object", "dependentSchemas": {"a\tb": {"minProperties": 4}}},
        "/dependentSchemas/a\tb/minProperties",
        "unsupported_schema_keyword",
    ),
    "a pattern without strings": (text(pattern=r"^[^\s\S]$"), "/pattern", "unsatisfiable_schema"),
    "a pattern and a length": (text(pattern="^abc$", minLength=5), "", "unsatisfiable_schema"),
    "bounds that cross": (
        {"type": "array", "items": {"type": "integer", "minimum": 3, "maximum": 2}, "minItems": 1},
        "/items",
        "unsatisfiable_schema",
    ),
    "a value that must hold itself": (
        {"type": "array", "prefixItems": [{"type": "array", "items": {"$ref": "#"}, "minItems": 1}], "minItems": 1},
        "/prefixItems/0/items",
        "unsatisfiable_schema",
    ),
    "a shortest value that is too long": (
        {"type": "array", "items": text(minLength=10_000), "minItems": 10_000},
        "",
        "schema_too_large",
    ),
    "a pattern beside a length that is too much": (
        text(pattern="[ab]c", minLength=9_000),
        "",
        "unsupported_schema_keyword",
    ),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("around", ["", "/properties/q"])
def test_the_pointer_of_a_refusal_is_that_of_its_cause(name: str, around: str) -> None:
    schema, pointer, code = ROWS[name]
    caught = refused(Constraint("json_schema", json.dumps(inside(schema) if around else schema)))
    assert (caught.param, caught.code) == (f"{around}{pointer}" or "#", code)
    assert str(caught).startswith(f"schema {caught.param}: ")


def test_what_a_reference_leads_to_is_named_by_its_own_place() -> None:
    schema = inside({"$ref": "#/$defs/x"}) | {"$defs": {"x": text(pattern=LOOK)}}
    assert refused(Constraint("json_schema", json.dumps(schema))).param == "/$defs/x/pattern"


def test_places_in_a_resource_of_its_own_are_told_from_the_root() -> None:
    inner = {"$id": "https://here/inner", "$defs": {"y": text(pattern=LOOK)}, "$ref": "#/$defs/y"}
    schema = inside({"$ref": "https://here/inner"}) | {"$defs": {"x": inner}}
    assert refused(Constraint("json_schema", json.dumps(schema))).param == "/$defs/x/$defs/y/pattern"


@pytest.mark.parametrize("name", ["a pattern", "bounds that cross", "patterns of names that overlap"])
def test_the_schema_of_a_tag_is_named_with_its_tag(name: str) -> None:
    schema, pointer, code = ROWS[name]
    tags = [{"begin": f"<{n}>", "schema": part, "end": ""} for n, part in enumerate(({}, inside(schema)))]
    caught = refused(Constraint("tags", json.dumps({"tags": tags, "free": True})))
    assert (caught.param, caught.code) == (f"tags/1/schema/properties/q{pointer}", code)


def refused(constraint: Constraint) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        prepare(constraint, "auto")
    return caught.value
