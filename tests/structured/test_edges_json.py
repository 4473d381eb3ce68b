"""JSON: the edges of strings, numbers, lists of values, combinations, objects and arrays; jsonschema is the referee."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from jsonschema.validators import validator_for

from stolon.lang.errors import EngineError, InvalidRequest
from stolon.runtime.grammar.prepare import prepare
from tests.structured.edges import VOCABULARIES, schema, words, written

# valid ones, and others; a leap second is valid at some moments in some zones, and none is said
FORMATS: dict[str, tuple[list[str], list[str]]] = {
    "date": (["2024-02-29", "2023-12-31"], ["2023-02-29", "2024-02-30", "2024-2-1", "2024-13-01"]),
    "time": (["12:00:00Z", "12:00:00+02:00", "12:00:00.5Z"], ["12:00:60Z", "24:00:00Z", "12:00:00", ".5Z"]),
    "date-time": (["2024-02-29T12:00:00Z", "2024-01-01T00:00:00-23:59"], ["2023-02-29T12:00:00Z", "2024-01-01"]),
    "email": (["a@b.example"], ["a", "a@", "a b@c.example"]),
    "ipv4": (["127.0.0.1"], ["256.0.0.1", "1.2.3"]),
    "ipv6": (["::1", "1:2:3:4:5:6:7:8"], ["::g", "1:2"]),
    "uuid": (["2eb8aa08-aa98-11ea-b4aa-73b441d16380"], ["2eb8aa08"]),
    "json-pointer": (["", "/a/b~1c"], ["a", "/~2"]),
    "snowflake": (["anything", ""], []),
}
# each with values, of which jsonschema says which are valid
SCHEMAS: dict[str, tuple[Any, list[Any]]] = {
    "escapes": ({"type": "string"}, ['"', "\\", "\b\f\n\r\t", "/", "é😀", "\x80", ""]),
    "length 0": ({"type": "string", "maxLength": 0}, ["", "a"]),
    "length 1 is a character": ({"type": "string", "minLength": 1, "maxLength": 1}, ["😀", "é", "", "ab"]),
    "length 16": ({"type": "string", "minLength": 16, "maxLength": 17}, ["a" * n for n in (15, 16, 17, 18)]),
    "length 500": ({"type": "string", "minLength": 500}, ["a" * 499, "a" * 500]),
    "pattern with quotes": ({"type": "string", "pattern": '^a"\\\\b$'}, ['a"\\b', 'a"b']),
    "pattern of alternatives": ({"type": "string", "pattern": "^(x|y)$|z"}, ["x", "y", "azb", "xy"]),
    "pattern and length": (
        {"type": "string", "pattern": "^a*$", "minLength": 2, "maxLength": 3}, ["a", "aa", "aaaa", "ab"]
    ),
    "sets without a quote": ({"type": "string", "pattern": '^[^"]*$'}, ["", "a\n", "\\", '"', 'a"b', "\t"]),
    "sets with DEL": ({"type": "string", "pattern": "^[\\x20-\\x7f][a\x7f]b$"}, ["xab", "xb", '"ab', "\\ab"]),
    "sets without a backslash": (
        {"type": "string", "pattern": r"^(?:[^\\\n]|[^]\\]x)$"}, ["a", '"', "\\", "\n", "]", "ax", "]x", "\\x", '"x']
    ),
    "names without a quote": (
        {"type": "object", "patternProperties": {'^[^"]$': {"type": "null"}}, "additionalProperties": False},
        [{"a": None}, {'"': None}, {"\\": None}],
    ),
    "above a whole number": ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, [0, 0.5, 0.25, 0.001, 0.51]),
    "above another": ({"type": "number", "exclusiveMinimum": 3, "exclusiveMaximum": 3.25}, [3, 3.001, 3.25, 3.125]),
    "below a whole number": ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, [0, -0.0, -0.5, -0.25]),
    "between multiples": (
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.05, "multipleOf": 0.01}, [0, 0.01, 0.05, 0.015, 0.06]
    ),
    "zeros": ({"type": "number"}, [0, -0.0, 0.5, -1.5, 1e300, 100000, 2**63 + 1]),
    "integers that are floats": ({"type": "integer"}, [1, -5, 1.5, "1"]),
    "negative bounds": ({"type": "number", "exclusiveMinimum": -2.5, "maximum": -1}, [-2.5, -2.4, -1, -0.9, -2]),
    "multiples of a cent": ({"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 1}, [0.25, 0.255, 1, 1.01]),
    "minimum and multipleOf": ({"type": "integer", "minimum": 7, "multipleOf": 5}, [5, 10, 12]),
    "mixed enum": ({"enum": ["a", 1, None, True, [1], {"k": 2}]}, ["a", 1, None, True, False, [1], {"k": 2}, "b"]),
    "enum with quotes": ({"enum": ['say "a"', "b\\c"]}, ['say "a"', "b\\c", "say"]),
    "enum against type": ({"enum": [1, "1"], "type": "string"}, [1, "1"]),
    "anyOf of shared beginnings": (
        {"anyOf": [{"const": "abc"}, {"const": "abd"}, {"type": "integer"}]}, ["abc", "abd", "ab", 3]
    ),
    "integer or number": ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, [1, 1.5, "a"]),
    "oneOf that overlap": ({"type": "integer", "oneOf": [{"minimum": 5}, {"maximum": 7}]}, [3, 6, 9]),
    "allOf of objects": (
        {"allOf": [
            {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "string"}}, "required": ["b"]},
        ], "type": "object"},
        [{"a": 1, "b": "x"}, {"a": 1}, {"b": "x"}, {"a": "x", "b": "x"}],
    ),
    "if then else": (
        {"type": "object", "properties": {"k": {"enum": ["a", "b"]}, "v": {"type": "integer"}}, "required": ["k"],
         "if": {"properties": {"k": {"const": "a"}}}, "then": {"required": ["v"]}},
        [{"k": "a", "v": 1}, {"k": "a"}, {"k": "b"}],
    ),
    "references of all spellings": (
        {"$defs": {"a/b": {"type": "integer"}, "c%d": {"type": "null"}, "e": {"$anchor": "here", "type": "string"}},
         "type": "array", "prefixItems": [{"$ref": "#/$defs/a~1b"}, {"$ref": "#/$defs/c%25d"}, {"$ref": "#here"}],
         "items": False, "minItems": 3},
        [[1, None, "x"], [1, 1, "x"], ["1", None, "x"]],
    ),
    "references with siblings": (
        {"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n", "minimum": 3}, [2, 3, "a"]
    ),
    "a recursive tree": (
        {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}, "required": ["kids"],
         "additionalProperties": False},
        [{"kids": []}, {"kids": [{"kids": []}, {"kids": [{"kids": []}]}]}, {"kids": [1]}, {}],
    ),
    "optional properties": (
        {"type": "object", "properties": {n: {"type": "null"} for n in "abc"}, "additionalProperties": False},
        [{}, {"a": None}, {"c": None}, {"a": None, "c": None}, {"a": None, "b": None, "c": None}, {"d": None}],
    ),
    "required that is not listed": ({"type": "object", "required": ["x"]}, [{"x": 1}, {}]),
    "additional of a type": (
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
        [{"a": "x"}, {"a": 1, "b": 2}, {"b": "x"}, {"b": 3}],
    ),
    "names by pattern": (
        {"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
        [{"x-1": 1}, {"x-1": "a"}, {"y": 1}, {}],
    ),
    "names of a form": ({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}}, [{"ab": 1}, {"A": 1}, {}]),
    "as many properties": (
        {"type": "object", "properties": {n: {"type": "null"} for n in "abc"}, "additionalProperties": False,
         "minProperties": 1, "maxProperties": 2},
        [{}, {"a": None}, {"b": None, "c": None}, {"a": None, "b": None, "c": None}],
    ),
    "dependent names": (
        {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
         "dependentRequired": {"a": ["b"]}, "additionalProperties": False},
        [{}, {"b": None}, {"a": None, "b": None}, {"a": None}],
    ),
    "names with signs": (
        {"type": "object", "properties": {'a"b': {"type": "null"}, "c\\d": {"type": "null"}, "": {"type": "null"}},
         "additionalProperties": False},
        [{'a"b': None}, {"c\\d": None}, {"": None}, {"x": None}],
    ),
    "unevaluated": (
        {"type": "object", "allOf": [{"properties": {"a": {"type": "null"}}}], "unevaluatedProperties": False},
        [{}, {"a": None}, {"b": None}],
    ),
    "tuples": (
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False},
        [[], [1], [1, None], [1, None, 2], ["a"]],
    ),
    "old tuples": (
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "integer"}],
         "additionalItems": {"type": "null"}},
        [[], [1], [1, None], [1, 2]],
    ),
    "lengths of arrays": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}, [[1], [1, 2], [1, 2, 3]]
    ),
    "unique items of a list": (
        {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True}, [[], ["b", "a"], ["a", "a"]]
    ),
    "contains": (
        {"type": "array", "items": {"type": "integer"}, "contains": {"const": 3}, "maxContains": 1, "maxItems": 4},
        [[3], [1, 3], [3, 3], [1], []],
    ),
    "nested empty arrays": ({"type": "array", "items": {"type": "array", "maxItems": 0}}, [[], [[]], [[], []], [[1]]]),
}  # fmt: skip


def is_valid(found: Any, value: Any) -> bool:
    kind = validator_for(found, default=jsonschema.Draft202012Validator)
    return bool(kind(found, format_checker=kind.FORMAT_CHECKER).is_valid(value))


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_takes_what_is_valid(name: str, kind: str) -> None:
    found, values = SCHEMAS[name]
    said = words(kind)
    grammar = said.grammar(schema(found))
    for value in values:
        assert said.says(grammar, written(value)) is is_valid(found, value), value


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_takes_what_has_it(name: str) -> None:
    valid, others = FORMATS[name]
    said = words("byte-level")
    grammar = said.grammar(schema({"type": "string", "format": name}))
    assert [said.says(grammar, written(value)) for value in valid] == [True] * len(valid)
    assert not any(said.says(grammar, written(value)) for value in others)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"type": "number"}, "01"),
        ({"type": "number"}, "1."),
        ({"type": "number"}, "+1"),
        ({"type": "number"}, ".5"),
        ({"type": "number"}, "NaN"),
        ({"type": "string"}, '"\n"'),
        ({"type": "string"}, '"\x00"'),
        ({"type": "string"}, '"\\x"'),
        ({"type": "string"}, '"\\ud800"'),
        ({"type": "string"}, '"a'),
        ({"type": "object"}, "{,}"),
        ({"type": "object"}, '{"a": 1,}'),
        ({"type": "array"}, "[1 2]"),
        ({"type": "array"}, "[1, ]"),
        ({"type": "null"}, "nil"),
        ({"type": "object"}, " {}"),
        ({"type": "object"}, "{} "),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, '{"a": null, "a": null}'),
    ],
)
def test_what_is_no_json_cannot_be_said(found: Any, text: str) -> None:
    said = words("bytes")
    assert not said.says(said.grammar(schema(found)), text)


@pytest.mark.parametrize("text", ["1e5", "1E-5", "-0", "-0.0", "0.5", "123456789.25", "1.0"])
def test_numbers_are_written_in_every_way_that_json_has(text: str) -> None:
    said = words("byte-level")
    assert said.says(said.grammar(schema({"type": "number"})), text)


def test_a_tree_may_be_fifty_deep() -> None:
    found: dict[str, Any] = {"type": "object", "properties": {"a": {"$ref": "#"}}, "additionalProperties": False}
    value: dict[str, Any] = {}
    for _ in range(50):
        value = {"a": value}
    said = words("byte-level")
    assert said.says(said.grammar(schema(found)), written(value))


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ({"minLength": 3, "maxLength": 2, "type": "string"}, "unsatisfiable_schema"),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 1, "type": "number"}, "unsatisfiable_schema"),
        ({"allOf": [{"const": 1}, {"const": 2}]}, "unsatisfiable_schema"),
        ({"multipleOf": 99_999_989, "type": "integer"}, "schema_too_large"),
        ({"$ref": "https://example.com/a.json"}, "unresolvable_ref"),
        ({"$ref": "#"}, "unresolvable_ref"),
        ({"const": "a\x7fb"}, "unsupported_schema_keyword"),
        ({"type": "string", "pattern": "^a\\x7Fb$"}, "unsupported_schema_keyword"),
        ({"type": "array", "uniqueItems": True}, "unsupported_schema_keyword"),
        (False, "unsatisfiable_schema"),
    ],
)
def test_what_cannot_be_held_is_refused_and_not_dropped(found: Any, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(schema(found), "auto")
    assert caught.value.code == code


def test_an_error_of_the_engine_is_no_end() -> None:
    said = words("bytes")
    matcher = said.grammar(schema({"type": "integer"}), "llguidance").matcher()
    matcher.advance(ord("1"))
    assert matcher.is_accepting
    with pytest.raises(EngineError):
        matcher.advance(ord("x"))
    with pytest.raises(EngineError):
        said.allowed(matcher)


def test_masks_are_the_same_when_they_are_asked_for_again_and_copies_go_their_own_way() -> None:
    said = words("byte-level")
    matcher = said.grammar(schema({"type": "object", "properties": {"a": {"type": "string"}}})).matcher()
    first = said.allowed(matcher)
    twin = matcher.copy()
    twin.advance(said.encode("{")[0])
    assert said.allowed(matcher) == first
    assert said.allowed(twin) != first
    twin.rollback(1)
    assert said.allowed(twin) == first
