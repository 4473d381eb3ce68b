"""The JSON-schema front end, with jsonschema as the referee."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import jsonschema
import pytest
from jsonschema.validators import validator_for

from stolon.lang.errors import EngineError, InvalidRequest
from stolon.runtime.grammar import linter
from stolon.runtime.grammar.llg import LlgGrammar
from stolon.runtime.grammar.llg_compile import compile_schema
from stolon.runtime.grammar.llg_vocabulary import LlgVocabulary
from stolon.runtime.grammar.schema import rewrite_schema

BYTES = LlgVocabulary([bytes([i]) for i in range(256)] + [b""], eos_ids=[256])

TREE: dict[str, Any] = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
}

# each with values of which some are valid and some are not: jsonschema says which
SCHEMAS: dict[str, tuple[Any, list[Any]]] = {
    "true": (True, [1, "a", None, [], {}]),
    "types": ({"type": ["string", "null"]}, ["a", None, 1, [], True]),
    "bounds": ({"type": "integer", "minimum": -3, "exclusiveMaximum": 12}, [-4, -3, 0, 11, 12, "x"]),
    "fractions": ({"type": "number", "minimum": 0.5, "multipleOf": 0.25}, [0.25, 0.75, 0.6, 7.75]),
    "draft 4 bounds": (
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "integer",
            "minimum": 1,
            "exclusiveMinimum": True,
        },
        [1, 2, 0],
    ),
    "lengths": ({"type": "string", "minLength": 2, "maxLength": 3}, ["a", "ab", "äöü", "🙂🙂", "abcd"]),
    "pattern is a search": ({"type": "string", "pattern": "b+c"}, ["abc", "xbbcx", "ac"]),
    "unknown format": ({"type": "string", "format": "snowflake"}, ["a", "", 1]),
    "date": (
        {"type": "string", "format": "date"},
        ["2024-02-29", "2023-02-28", "2023-02-29", "2023-13-01", "0000-01-01"],
    ),
    "enum beside type": ({"type": "string", "enum": ["a", 1, None]}, ["a", 1, None]),
    "enum beside pattern": ({"enum": ["ax", "b", 3], "pattern": "^a"}, ["ax", "b", 3]),
    "nested const": ({"const": {"a": [1, {"b": None}]}}, [{"a": [1, {"b": None}]}, {"a": [1]}, 1]),
    "tuple": (
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}, "maxItems": 3},
        [[], [1], [1, "a"], ["a"], [1, 1], [1, "a", "b", "c"]],
    ),
    "draft 4 tuple": (
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}], "additionalItems": False},
        [[], [None], [1], [None, None], 3],
    ),
    "unique booleans": (
        {"type": "array", "items": {"enum": [True, None]}, "uniqueItems": True},
        [[], [True], [None, True], [True, True]],
    ),
    "contains": ({"type": "array", "contains": {"const": 1}, "maxItems": 3}, [[], [1], [2, 1], [2, 2], [2, 2, 1]]),
    "contains at most": (
        {"type": "array", "contains": {"const": "a"}, "minContains": 1, "maxContains": 2},
        [[], ["a"], ["b", "a", "a"], ["a", "a", "a"], ["b"]],
    ),
    "object": (
        {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["b"]},
        [{}, {"b": 1}, {"a": 1, "b": 1}, {"a": "x", "b": 1}, {"b": 1, "z": 1}],
    ),
    "closed object": ({"properties": {"a": True}, "additionalProperties": False}, [{}, {"a": 1}, {"b": 1}, 3]),
    "pattern properties": (
        {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": {"type": "null"}},
        [{"x1": 1}, {"x1": None}, {"y": None}, {"y": 1}],
    ),
    "pattern meets property": (
        {"type": "object", "properties": {"xa": {"minimum": 3}}, "patternProperties": {"^x": {"type": "integer"}}},
        [{"xa": 3}, {"xa": 2}, {"xa": "s"}, {"xb": 0}],
    ),
    "property names by list": ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, [{}, {"a": 1}, {"c": 1}]),
    "property names by pattern": ({"type": "object", "propertyNames": {"pattern": "^k"}}, [{}, {"k1": 1}, {"c": 1}]),
    "at least one": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1},
        [{}, {"a": 1}, {"z": 1}],
    ),
    "at most one": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "maxProperties": 1},
        [{}, {"b": 1}, {"a": 1, "b": 1}, {"a": 1, "z": 1}, {"z": 1}],
    ),
    "allOf": (
        {"allOf": [{"properties": {"a": {"minimum": 1}}}, {"properties": {"a": {"maximum": 3}}, "required": ["a"]}]},
        [{"a": 1}, {"a": 0}, {"a": 4}, {}, 7],
    ),
    "anyOf beside properties": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}],
    ),
    "oneOf of required": (
        {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}],
    ),
    "oneOf by discriminator": (
        {"oneOf": [{"properties": {"k": {"const": k}, k: {}}, "required": ["k", k]} for k in ("x", "y")]},
        [{"k": "x", "x": 1}, {"k": "y", "x": 1}, {"k": "y", "y": 1}, {}],
    ),
    "oneOf of closed objects": (
        {
            "type": "object",
            "oneOf": [{"properties": {k: {}}, "required": [k], "additionalProperties": False} for k in ("a", "b")],
        },
        [{"a": 1}, {"b": 1}, {"a": 1, "b": 1}, {}],
    ),
    "oneOf of lists": (
        {"oneOf": [{"type": "array", "items": {"type": t}} for t in ("number", "string")]},
        [[], [1], ["a"], [1, "a"]],
    ),
    "oneOf of ranges": ({"type": "integer", "oneOf": [{"minimum": 5}, {"maximum": 9}]}, [4, 5, 9, 10]),
    "not a list": ({"type": "string", "not": {"enum": ["a", "ab", ""]}}, ["", "a", "ab", "b", "abc", "aa"]),
    "not required": ({"type": "object", "not": {"required": ["a"]}}, [{}, {"a": 1}, {"b": 1}]),
    "not a type": ({"not": {"type": ["string", "array"]}}, ["a", [], {}, 1, None]),
    "not a number": ({"type": "integer", "not": {"const": 4}}, [3, 4, 5, 44]),
    "condition": (
        {
            "type": "object",
            "properties": {"k": {"enum": ["x", "y"]}, "v": {}},
            "if": {"properties": {"k": {"const": "x"}}, "required": ["k"]},
            "then": {"required": ["v"]},
            "else": {"properties": {"v": False}},
        },
        [{"k": "x", "v": 1}, {"k": "x"}, {"k": "y"}, {"k": "y", "v": 1}, {}],
    ),
    "dependentRequired": (
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        [{}, {"a": 1}, {"a": 1, "b": 1}, {"b": 1}],
    ),
    "dependencies": (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "dependencies": {"a": {"maxProperties": 1}},
        },
        [{}, {"a": 1}, {"a": 1, "b": 1}, {"b": 1, "c": 1}],
    ),
    "unevaluatedProperties": (
        {
            "type": "object",
            "allOf": [{"properties": {"a": {}}}],
            "anyOf": [{"properties": {"b": {"type": "null"}}, "required": ["b"]}, {"properties": {"c": {}}}],
            "unevaluatedProperties": False,
        },
        [{"a": 1}, {"a": 1, "b": None}, {"a": 1, "c": 1}, {"b": None, "c": 1}, {"z": 1}, {"b": 1}],
    ),
    "unevaluatedItems": (
        {
            "type": "array",
            "prefixItems": [True],
            "anyOf": [{"prefixItems": [True, {"const": 1}]}, True],
            "unevaluatedItems": False,
        },
        [[], [0], [0, 1], [0, 2], [0, 1, 1]],
    ),
    "recursion": (TREE, [{"v": 1}, {"v": 1, "next": {"v": 2}}, {"v": 1, "next": {}}, {}]),
    "references": (
        {
            "properties": {"a": {"$ref": "#/definitions/x~1y"}, "b": {"$ref": "#n"}},
            "definitions": {"x/y": {"type": "null"}, "n": {"$anchor": "n", "const": 1}},
        },
        [{"a": None}, {"a": 1}, {"b": 1}, {"b": 2}],
    ),
    "siblings of a reference": (
        {"$ref": "#/$defs/s", "minLength": 2, "$defs": {"s": {"type": "string"}}},
        ["a", "ab", 3],
    ),
    "siblings of a draft 7 reference": (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "properties": {"a": {"$ref": "#/definitions/s", "minLength": 2}},
            "definitions": {"s": {"type": "string"}},
        },
        [{"a": "x"}, {"a": 1}],
    ),
}


EXPECTED = ("an answer is possible", "schema_too_large", "unsupported_schema_keyword", "unsatisfiable_schema")


def accepts(grammar: LlgGrammar, value: Any) -> bool:
    matcher = grammar.matcher()
    try:
        for byte in json.dumps(value, ensure_ascii=False).encode():
            matcher.advance(byte)
    except EngineError:
        return False
    return matcher.is_accepting


def referee(schema: Any) -> Any:
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_accepts_exactly_the_values_that_are_valid(name: str) -> None:
    schema, values = SCHEMAS[name]
    grammar = compile_schema(json.dumps(schema), BYTES)
    expected = [referee(schema).is_valid(value) for value in values]
    assert any(expected)
    assert [accepts(grammar, value) for value in values] == expected


@pytest.mark.parametrize(
    ("schema", "said", "not_said"),
    [
        # where one way to be valid cannot be written out and others can, answers take the others
        ({"type": ["number", "string"], "not": {"type": "integer"}}, ["a"], [1]),
        ({"items": {"oneOf": [{"type": "integer"}, {"minimum": 2}]}}, [[1], ["a"]], [[2], [2.5, 2]]),
        ({"oneOf": [{"required": ["a"]}, {"additionalProperties": {"type": "null"}}]}, [{"a": 1}], [{"a": None}, 5]),
        ({"type": ["string", "null"], "not": {"type": "string", "pattern": "^a"}}, [None], ["ab"]),
        (
            {"properties": {"k": {"type": "integer"}}, "not": {"properties": {"k": {"type": "integer"}}}},
            [],
            [{}, {"k": 1}],
        ),
    ],
)
def test_a_schema_that_cannot_be_said_in_full_is_said_in_part(
    schema: Any, said: list[Any], not_said: list[Any]
) -> None:
    judge = referee(schema)
    try:
        grammar = compile_schema(json.dumps(schema), BYTES)
    except InvalidRequest:
        assert said == []
        return
    assert all(judge.is_valid(value) and accepts(grammar, value) for value in said)
    assert not any(judge.is_valid(value) or accepts(grammar, value) for value in not_said[:1])
    assert not any(accepts(grammar, value) for value in not_said)


@pytest.mark.parametrize(
    ("schema", "code", "pointer"),
    [
        ([], "invalid_schema", "#"),
        (3, "invalid_schema", "#"),
        (None, "invalid_schema", "#"),
        ("", "invalid_schema", "#"),
        ({"type": "any"}, "invalid_schema", "/type"),
        ({"const": "\ud800"}, "invalid_schema", "/const"),
        ({"items": {"enum": ["x", "\udc00y"]}}, "invalid_schema", "/items/enum/1"),
        ({"properties": {"a": {"pattern": "\udfff"}}}, "invalid_schema", "/properties/a/pattern"),
        ({"properties": {"a\ud800": {"const": "\ud800"}}}, "invalid_schema", "/properties"),
        ({"properties": {"a": {"minLength": -1}}}, "invalid_schema", "/properties/a/minLength"),
        ({"maxLength": 1.5}, "invalid_schema", "/maxLength"),
        ({"multipleOf": 0}, "invalid_schema", "/multipleOf"),
        ({"required": True}, "invalid_schema", "/required"),
        ({"properties": {"a/b": 3}}, "invalid_schema", "/properties/a~1b"),
        (False, "unsatisfiable_schema", "#"),
        ({"enum": []}, "unsatisfiable_schema", "/enum"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "unsatisfiable_schema", "#"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "unsatisfiable_schema", "#"),
        ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, "unsatisfiable_schema", "#"),
        (
            {"required": ["a"], "properties": {"a": {"$ref": "#"}}, "type": "object"},
            "unsatisfiable_schema",
            "/properties/a",
        ),
        ({"$ref": "#"}, "unresolvable_ref", "#"),
        ({"$ref": "#/$defs/missing"}, "unresolvable_ref", "/$ref"),
        ({"items": {"$ref": "http://example.com/s.json"}}, "unresolvable_ref", "/items/$ref"),
        ({"not": {"pattern": "^a"}, "type": "string"}, "unsupported_schema_keyword", "/not"),
        ({"type": "array", "uniqueItems": True}, "unsupported_schema_keyword", "/uniqueItems"),
        ({"properties": {"a": {"format": "regex"}}}, "unsupported_schema_keyword", "/properties/a/format"),
        ({"type": "number", "not": {"type": "integer"}}, "unsupported_schema_keyword", "/not"),
        ({"not": {"not": {"not": {"type": "integer"}}}}, "unsupported_schema_keyword", "/not/not"),
        ({"minProperties": 3}, "unsupported_schema_keyword", "/minProperties"),
        ({"const": "a\x00b"}, "unsupported_schema_keyword", "/const"),
        ({"pattern": "^a\\x00b$"}, "unsupported_schema_keyword", "/pattern"),
        ({"$recursiveRef": "#"}, "unsupported_schema_keyword", "/$recursiveRef"),
        ({"minimum": 2**53 + 1}, "unsupported_schema_keyword", "/minimum"),
        ({"enum": list(range(linter.MAX_ENUM + 1))}, "schema_too_large", "/enum"),
        ({"properties": {f"p{i}": {} for i in range(linter.MAX_PROPERTIES + 1)}}, "schema_too_large", "/properties"),
        ({"minItems": 10**9}, "schema_too_large", "/minItems"),
        ({"multipleOf": 9_999_991}, "schema_too_large", "/multipleOf"),
        ({"description": "x" * linter.MAX_BYTES}, "schema_too_large", "#"),
    ],
)
def test_a_refusal_names_the_place_and_the_reason(schema: Any, code: str, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compile_schema(json.dumps(schema), BYTES)
    assert (caught.value.code, caught.value.param) == (code, pointer)


def test_a_limit_that_is_passed_is_named_with_what_was_got() -> None:
    with pytest.raises(InvalidRequest, match=r"got 1,001, the limit is 1,000"):
        rewrite_schema(json.dumps({"enum": list(range(1001))}))


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": Infinity}', "[" * 100_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        rewrite_schema(text)


def test_a_schema_nested_beyond_the_limit_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(linter.MAX_DEPTH + 1):
        schema = {"properties": {"a": schema}}
    with pytest.raises(InvalidRequest) as caught:
        rewrite_schema(json.dumps(schema))
    assert caught.value.code == "schema_too_large"


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(5)]} for i in range(12)]},
        {
            "$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 10} for i in range(30)}
            | {"d30": {"type": "null"}},
            "$ref": "#/$defs/d0",
        },
        {"properties": {f"p{i}": {"type": "string"} for i in range(1000)}, "maxProperties": 500},
        {"oneOf": [{"properties": {f"p{i}": {}}, "minProperties": i} for i in range(60)]},
        {"type": "string", "pattern": "(a+)+$", "enum": ["a" * 20 + "b"]},
        {"type": "string", "minLength": 10_000, "maxLength": 10**8},
        {"type": "array", "uniqueItems": True, "items": {"enum": list(range(9))}},
        {"type": "array", "contains": True, "minContains": 10_000},
    ],
    ids=["product", "laughs", "choices", "oneOf", "backtracking", "length", "unique", "contains"],
)
def test_a_hostile_schema_ends_soon_in_an_answer_or_a_refusal(schema: Any) -> None:
    outcome: str | None = "an answer is possible"
    try:
        assert compile_schema(json.dumps(schema), BYTES).matcher().distance() > 0
    except InvalidRequest as error:
        outcome = error.code
    assert outcome in EXPECTED


@pytest.mark.parametrize("head", ['{"\\u0061"', '{"a":1,"\\u0061"', '{"a":1,"a"', '{"x","x"', '{"\\n\\u0061"'])
def test_a_listed_name_cannot_be_said_again_or_in_another_spelling(head: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "patternProperties": {"^b": {"type": "null"}}}
    matcher = compile_schema(json.dumps(schema), BYTES).matcher()
    said = head.encode()
    with pytest.raises(EngineError):
        deque(map(matcher.advance, said), maxlen=0)


def test_integers_beyond_what_readers_agree_on_are_not_made() -> None:
    grammar = compile_schema('{"type": "integer", "maximum": 9223372036854775807}', BYTES)
    assert accepts(grammar, 2**53)
    assert not accepts(grammar, 2**53 + 1)


def test_schemas_that_refer_to_each_other_in_a_long_chain_are_taken() -> None:
    chain: dict[str, Any] = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(300)}
    chain["d300"] = {"type": "null"}
    grammar = compile_schema(json.dumps({"$defs": chain, "$ref": "#/$defs/d0"}), BYTES)
    matcher = grammar.matcher()
    for byte in b"[" * 300 + b"null, null" + b"]" * 300:
        matcher.advance(byte)
    assert matcher.is_accepting


def test_a_schema_that_is_used_often_is_written_once() -> None:
    shared = {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": i} for i in range(50)}}
    users = {f"u{i}": {"$ref": "#/$defs/shared"} for i in range(200)}
    plain = rewrite_schema(json.dumps({"type": "object", "properties": users, "$defs": {"shared": shared}}))
    assert plain.text.count("maxLength") == 50
