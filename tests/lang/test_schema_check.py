"""Holding a server's answer against a JSON schema: the `jsonschema` package is the referee."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stolon.lang.schema_check import SchemaCheck, UncheckableError

NAMES = st.sampled_from(["a", "b", "ab"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.sampled_from([0.5, 1.0, -2.5, "", "a", "ab", "abc", "a\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
COUNTS = st.integers(0, 3)


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    kinds = st.sampled_from(["null", "boolean", "number", "integer", "string", "array", "object"])
    named = st.dictionaries(NAMES, inner, max_size=2)
    each: dict[str, st.SearchStrategy[Any]] = {
        "type": kinds | st.lists(kinds, min_size=1, max_size=2, unique=True),
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "const": VALUES,
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minimum": st.integers(-2, 5),
        "maximum": st.integers(-2, 5),
        "exclusiveMinimum": st.integers(-2, 5),
        "exclusiveMaximum": st.integers(-2, 5),
        "minLength": COUNTS,
        "maxLength": COUNTS,
        "pattern": st.sampled_from(["^a", "b", "^ab?c?$", "a|b"]),
        "items": inner,
        "prefixItems": st.lists(inner, min_size=1, max_size=2),
        "minItems": COUNTS,
        "maxItems": COUNTS,
        "uniqueItems": st.booleans(),
        "contains": inner,
        "minContains": COUNTS,
        "maxContains": COUNTS,
        "properties": named,
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), inner, max_size=2),
        "additionalProperties": inner,
        "required": st.lists(NAMES, max_size=2, unique=True),
        "propertyNames": inner,
        "minProperties": COUNTS,
        "maxProperties": COUNTS,
        "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=1), max_size=1),
        "dependentSchemas": named,
        "allOf": st.lists(inner, min_size=1, max_size=2),
        "anyOf": st.lists(inner, min_size=1, max_size=2),
        "oneOf": st.lists(inner, min_size=1, max_size=2),
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
    }
    chosen = st.lists(st.sampled_from(sorted(each)), max_size=4, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: each[name] for name in names}))


SCHEMAS = st.recursive(st.booleans() | keywords(st.booleans()), keywords, max_leaves=6)


@settings(max_examples=300, deadline=None)
@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=5))
def test_the_check_agrees_with_the_referee(schema: Any, values: list[Any]) -> None:
    check = SchemaCheck(schema)
    referee = jsonschema.Draft202012Validator(schema)
    for value in values:
        if any(pattern in repr(schema) for pattern in ("'pattern", "'propert")) and "\n" in repr(value):
            continue  # `$` before a line break at the end: the referee asks Python, JSON Schema says no
        assert (check.problem(value) is None) == referee.is_valid(value), check.problem(value)


RECURSIVE = {
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["v"]}},
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        (RECURSIVE, {"v": 1, "next": {"v": 2, "next": {}}}, "/next/next lacks 'v'"),
        ({"$anchor": "x", "items": {"$ref": "#x"}, "type": "array"}, [[], [1]], '/1/0 must be of type "array"'),
        ({"pattern": "a$"}, "a\n", "must match"),
        ({"format": "date"}, "2023-02-29", 'must be a "date"'),
        ({"format": "ipv4"}, "1.2.3.256", 'must be a "ipv4"'),
        ({"type": "integer"}, 1.5, "integer"),
        ({"const": 1}, True, "must be 1"),
        ({"additionalProperties": False}, {"x": 1}, "/x may not be there"),
        ({"properties": {"a/b": {"type": "string"}}}, {"a/b": 1}, "/a/b must be of type"),
    ],
)
def test_a_problem_says_what_is_wrong_and_where(schema: Any, value: Any, words: str) -> None:
    assert words in str(SchemaCheck(schema).problem(value))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (RECURSIVE, {"v": 1, "next": {"v": 2}}),
        ({"const": 1.0}, 1),
        ({"enum": [{"a": [1, True], "b": 2}]}, {"b": 2, "a": [1, True]}),
        ({"type": "integer"}, 3.0),
        ({"format": "date-time"}, "2026-11-25T22:10:00Z"),
        ({"format": "no such thing"}, "x"),
        ({"dependencies": {"a": ["b"], "c": {"minProperties": 2}}}, {"a": 1, "b": 2}),
        ({"items": [{"const": 1}], "additionalItems": {"const": 2}}, [1, 2, 2]),
        ({"$defs": {"a/b": {"type": "null"}}, "items": {"$ref": "#/$defs/a~1b"}}, [None]),
    ],
)
def test_a_value_of_the_schema_has_no_problem(schema: Any, value: Any) -> None:
    assert SchemaCheck(schema).problem(value) is None


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"x": {"unevaluatedProperties": False}}}, "#/properties/x/unevaluatedProperties"),
        ({"$ref": "https://example.com/schema"}, "leads out"),
        ({"pattern": r"\p{Lu}"}, "cannot be checked"),
        ({"patternProperties": {"(": {}}}, "cannot be checked"),
    ],
)
def test_what_cannot_be_checked_is_said_with_its_place(schema: Any, words: str) -> None:
    with pytest.raises(UncheckableError, match=words):
        SchemaCheck(schema)


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/nowhere"}, {"allOf": [{"$ref": "#"}]}])
def test_a_schema_that_leads_nowhere_is_said_to(schema: Any) -> None:
    with pytest.raises(UncheckableError):
        SchemaCheck(schema).problem(1)


def test_names_that_are_keywords_are_names_where_names_stand() -> None:
    check = SchemaCheck({"properties": {"pattern": {"const": 1}, "unevaluatedProperties": {"const": 2}}})
    assert check.problem({"pattern": 1, "unevaluatedProperties": 2}) is None
    assert check.problem({"pattern": 2}) is not None
