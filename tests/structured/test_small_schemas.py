"""Schemas that an automaton has: the texts are those of llguidance, and which engine has one is by counts alone."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from stolon.lang.errors import InvalidRequest, UnsupportedError
from stolon.lang.typed import type_form
from stolon.runtime.grammar.dfa import Dfa
from stolon.runtime.grammar.form_dfa import TooLargeError, form_dfa
from stolon.runtime.grammar.llg_source import Source
from stolon.runtime.grammar.prepare import SMALL_STATES, SMALL_WIDTH, prepare
from stolon.runtime.grammar.schema import IrregularSchema, regular_form
from tests.lang.typed_values import TYPED, Point, User
from tests.runtime.test_grammar_schema import SCHEMAS as OTHERS
from tests.structured.byte_walk import by_llguidance, difference
from tests.structured.edges import VOCABULARIES, schema, words, written
from tests.structured.forms import SCHEMAS as IN_USE
from tests.structured.test_budget import budgets, draw
from tests.structured.test_edges_json import FORMATS, SCHEMAS, is_valid


def _closed(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_FLAG, _NULL, _WHOLE = {"type": "boolean"}, {"type": "null"}, {"type": "integer"}
REGULAR: list[Any] = [
    _NULL, _FLAG, {"const": True}, {"enum": ["red", "dark green"]}, {"enum": ["a", 1, None, True, 2.5]},
    {"const": 'q"\\\né😀'}, {"enum": [[1, "a"], {"k": [2]}]},
    {"type": "string"}, {"type": "string", "minLength": 2}, {"type": "string", "minLength": 2, "maxLength": 4},
    _closed("ab", a=_WHOLE, b=_FLAG), _closed("b", a=_FLAG, b=_FLAG, c=_FLAG, d=_FLAG), _closed("", a=_FLAG, b=_FLAG),
    _closed("", **{'a"b': _NULL, "c\\d": _NULL, "": _NULL, "é\n": _NULL}), _closed(""), _closed("", a=False, b=_NULL),
    _closed("a", a=_closed("", b={"type": "array", "items": _closed("c", c=_FLAG)})),
    {**_closed("b", ab=_NULL, b=_NULL), "additionalProperties": _FLAG},
    *({"type": "object", "additionalProperties": _NULL, **rest}
      for rest in ({}, {"minProperties": 1}, {"maxProperties": 2})),
    {**_closed("", a=_NULL, b=_NULL), "minProperties": 1}, {**_closed("a", a=_NULL, b=_NULL), "maxProperties": 1},
    {"type": "array", "items": _WHOLE}, {"type": "array", "items": _FLAG, "minItems": 2},
    {"type": "array", "items": _FLAG, "minItems": 1, "maxItems": 3}, {"type": "array", "items": _NULL, "maxItems": 2},
    {"type": "array", "items": False}, {"type": "array", "items": {"type": "array", "maxItems": 0}},
    *({"type": "array", "prefixItems": [_WHOLE, _NULL], **rest} for rest in (
        {"items": False}, {"items": False, "minItems": 2}, {"items": _FLAG, "minItems": 1},
        {"items": _FLAG, "minItems": 3}, {"items": _FLAG, "maxItems": 4}, {"items": _FLAG, "maxItems": 1},
    )),
    {"type": "array", "prefixItems": [_WHOLE, False, _NULL], "items": _FLAG},
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True},
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "contains": {"const": 3}},
    {"anyOf": [_WHOLE, {"type": "string", "maxLength": 3}, _NULL]}, {"anyOf": [_WHOLE, {"type": "number"}]},
    {"oneOf": [_closed("kn", k={"const": "cat"}, n=_WHOLE), _closed("km", k={"const": "car"}, m=_FLAG)]},
    {"$defs": {"n": _WHOLE}, "type": "array", "prefixItems": [{"$ref": "#/$defs/n"}, {"$ref": "#/$defs/n"}]
     , "items": False, "minItems": 2},
    *({"type": "string", "format": name} for name in (
        "date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "duration", "json-pointer",
        "relative-json-pointer", "uri-reference",
    )),
    *({"type": "string", "pattern": pattern} for pattern in (
        "^[A-Z]{3}-[0-9]{4}$", "^a", "b$", "a", "^(x|y)$|z", r"^\d+(\.\d{1,2})?$", "^[^a]{2}$", "^.{2,3}$", "^[-+]?$",
        '^[^"\\\\]*$', '^a"\\\\b$', r"^\w+$", "^a|b$", "(^a|b)", "^[a-z][a-z0-9-]{0,9}$", "^$", "", "x{2,}",
        r"^[\w.+-]+@[\w-]+\.[\w.]+$", "^é|[а-я]$", "^/[^/]*$", "^[ -~]$", "^(?:ab)*?c$", "^(?:){3}a$", "^[^~&|]+$",
    )),
    {"type": "string", "pattern": "^a*$", "minLength": 2, "maxLength": 3},
    {"type": "string", "format": "date", "pattern": "^2"},
    {"type": "string", "pattern": "a", "maxLength": 5, "allOf": [{"pattern": "b$"}]},
    {"type": "string", "not": {"enum": ["a", 'a"b', "-]^"]}, "maxLength": 4},
    {"type": "integer", "multipleOf": 7}, {"type": "integer", "multipleOf": 3, "minimum": -20},
    {"type": "integer", "multipleOf": 5, "minimum": 10, "maximum": 120},
    {"type": "integer", "not": {"enum": [0, 12]}}, {"type": "number", "not": {"const": 1}, "minimum": 0, "maximum": 3},
]  # fmt: skip
# with the place of what has no form
IRREGULAR: list[tuple[Any, str]] = [
    ({}, "#"),
    ({"type": "object"}, "#"),
    (IN_USE["a tree"], "/$defs/node/properties/children/items/$ref"),
    (_closed("", a={"type": "string", "pattern": "^\\S+$"}), "/properties/a/pattern"),
    ({"type": "string", "pattern": f"^[{'a' * 5_000}]$"}, "/pattern"),
    (_closed("", a={"anyOf": [_NULL, {"type": "string", "format": "uri"}]}), "/properties/a/anyOf/1/format"),
    (_closed("", a={"type": "object", "patternProperties": {"^x": _NULL}}), "/properties/a/patternProperties"),
    ({"type": "array", "items": {"type": "number", "multipleOf": 0.01}}, "/items/multipleOf"),
    ({"properties": {"n" * 2_000: _NULL}, "type": "object", "additionalProperties": _NULL}, "/additionalProperties"),
    ({"$defs": {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(70)} | {"d70": _NULL},
      "$ref": "#/$defs/d0"}, "/$defs/d62/items"),
]  # fmt: skip


def _dfa(found: Any) -> Dfa:
    return form_dfa(regular_form(json.dumps(found)))


@pytest.mark.parametrize("found", REGULAR, ids=lambda found: json.dumps(found)[:80])
def test_an_automaton_takes_the_texts_that_llguidance_takes(found: Any) -> None:
    assert difference(_dfa(found), by_llguidance(json.dumps(found))) is None


def test_schemas_of_all_kinds_are_taken_alike_by_both_engines() -> None:
    compared = 0
    for found, _ in [*SCHEMAS.values(), *OTHERS.values()]:
        try:
            dfa = _dfa(found)
        except IrregularSchema:
            continue
        compared += 1
        assert difference(dfa, by_llguidance(json.dumps(found))) is None, found
    assert compared > 50


_BOUNDS = (
    st.integers(-130, 130) | st.integers(-20_000, 20_000).map(lambda n: n / 100) | st.sampled_from([-0.001, 1e6, 1e-7])
)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["integer", "number"]),
    bounds=st.lists(_BOUNDS, min_size=1, max_size=2).map(sorted),
    names=st.tuples(st.sampled_from(["minimum", "exclusiveMinimum"]), st.sampled_from(["maximum", "exclusiveMaximum"])),
    upper=st.booleans(),
)
def test_numbers_between_bounds_are_spelled_as_llguidance_spells_them(
    kind: str, bounds: list[float], names: tuple[str, str], upper: bool
) -> None:
    found = {"type": kind, **dict(zip(names if len(bounds) == 2 else names[upper:], bounds, strict=False))}
    try:
        judge = by_llguidance(json.dumps(found))
    except InvalidRequest:  # nothing lies between them
        assert not _dfa(found).start
        return
    assert difference(_dfa(found), judge) is None


@pytest.mark.parametrize(
    "found", [_closed("b", a=_WHOLE, b=_FLAG), {"type": "number", "minimum": 0.25}, {"type": "string"}]
)
def test_no_way_or_end_less_goes_unnoticed(found: Any) -> None:
    dfa, judge = _dfa(found), by_llguidance(json.dumps(found))
    for state, of in np.argwhere(dfa.table).tolist():
        cut = dfa.table.copy()
        cut[state, of] = 0
        assert difference(replace(dfa, table=cut), judge) is not None
    for state in range(1, dfa.states):
        ends = dfa.accepting.copy()
        ends[state] = not ends[state]
        assert difference(replace(dfa, accepting=ends), judge) is not None


@pytest.mark.parametrize(("found", "place"), IRREGULAR, ids=lambda value: json.dumps(value)[:60])
def test_what_has_no_automaton_is_refused_with_its_place_or_left_to_llguidance(found: Any, place: str) -> None:
    with pytest.raises(UnsupportedError, match="use auto or llguidance") as caught:
        prepare(schema(found), "automaton")
    assert (caught.value.code, caught.value.param) == ("unsupported_constraint", place)
    assert isinstance(prepare(schema(found), "auto"), Source)


@pytest.mark.parametrize("pattern", [r"^\x{110000}$", r"^\x{d800}$", "^(a$", "^a{5,2}$"])
def test_a_pattern_that_nobody_reads_is_refused_whoever_is_asked(pattern: str) -> None:
    for backend in ("auto", "automaton", "llguidance"):
        with pytest.raises(InvalidRequest) as caught:
            prepare(schema({"type": "string", "pattern": pattern}), backend)
        assert caught.value.param == "/pattern"


def test_a_schema_without_a_value_is_refused_as_such_by_either_engine() -> None:
    for found in (False, {"type": "string", "pattern": "^a+$", "maxLength": 0}):
        for backend in ("auto", "automaton", "llguidance"):
            with pytest.raises(InvalidRequest) as caught:
                prepare(schema(found), backend)
            assert caught.value.code == "unsatisfiable_schema"


@pytest.mark.parametrize(
    "found",
    [
        {"type": "array", "items": {"type": "array", "items": _NULL, "minItems": 9_000}, "minItems": 9_000},
        {"type": "string", "minLength": 9_000, "maxLength": 100_000},
        {"type": "string", "pattern": "^(a|b)*a(a|b){20}$"},
        {"type": "string", "pattern": "^((a{99}){99}){99}$"},
        {"type": "string", "pattern": ".*x.{0,5000}", "maxLength": 10_000},
        {"type": "string", "pattern": "^(?:(?:){9999}){9999}a{9999}$", "minLength": 5_000},
        {"type": "integer", "multipleOf": 9_973, "minimum": 1},
        _closed("", **{f"name{i}": {"type": "string", "maxLength": 200} for i in range(300)}),
        {"$defs": {f"d{i}": _closed("ab", a={"$ref": f"#/$defs/d{i + 1}"}, b={"$ref": f"#/$defs/d{i + 1}"})
                   for i in range(30)} | {"d30": _WHOLE}, "$ref": "#/$defs/d0"},
        {"$defs": {f"d{i}": {"type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}, _closed(
            "a", a={"$ref": f"#/$defs/d{i + 1}"})]}} for i in range(30)} | {"d30": _WHOLE}, "$ref": "#/$defs/d0"},
        {"type": "array", "minItems": 999, "items": {"type": "string", "pattern": "x.{9}$", "maxLength": 30}},
        _closed("", **{f"n{i}": {"type": "string", "pattern": f"x.{{{i}}}$", "maxLength": 9} for i in range(300)}),
    ],
    ids=lambda found: json.dumps(found)[:60],
)  # fmt: skip
def test_what_would_be_too_large_is_not_built(found: Any) -> None:
    form = regular_form(json.dumps(found))
    with pytest.raises(TooLargeError):
        form_dfa(form, SMALL_STATES)


def test_which_engine_has_a_schema_is_by_the_counts_of_its_automaton() -> None:
    counted = set[bool]()
    for found in [*REGULAR, *IN_USE.values()]:
        try:
            dfa = _dfa(found)
        except IrregularSchema:
            is_small = False
        else:
            width = np.bincount(dfa.byte_class, minlength=dfa.table.shape[1])
            is_small = dfa.states <= SMALL_STATES and ((dfa.table != 0) @ width).max() <= SMALL_WIDTH
        assert isinstance(prepare(schema(found), "auto"), Dfa) == is_small, found
        counted.add(is_small)
    assert counted == {True, False}


def test_values_of_a_few_scalars_are_small_and_free_strings_are_not() -> None:
    for kind, is_small in ((Point, True), (User, False)):
        constraint = type_form(kind).constraint
        assert constraint is not None
        assert isinstance(prepare(constraint, "auto"), Dfa) == is_small


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_an_automaton_takes_what_is_valid_under_a_schema(kind: str) -> None:
    said, taken = words(kind), 0
    for found, values in SCHEMAS.values():
        try:
            grammar = said.grammar(schema(found), "automaton")
        except UnsupportedError:
            continue
        taken += 1
        for value in values:
            assert said.says(grammar, written(value)) is is_valid(found, value), (found, value)
    assert taken > 30


def test_an_automaton_takes_what_has_a_format() -> None:
    said = words("byte-level")
    for name, (valid, others) in FORMATS.items():
        grammar = said.grammar(schema({"type": "string", "format": name}), "automaton")
        assert all(said.says(grammar, written(value)) for value in valid)
        assert not any(said.says(grammar, written(value)) for value in others)


def test_values_of_most_types_are_said_by_an_automaton() -> None:
    said, taken = words("byte-level"), 0
    for kind, value in TYPED:
        form = type_form(kind)
        if form.constraint is None or form.constraint.kind != "json_schema":
            continue
        try:
            grammar = said.grammar(form.constraint, "automaton")
        except UnsupportedError:
            continue
        taken += 1
        text = _json(value)
        assert said.says(grammar, text)
        assert form.read(text) == value
    assert taken > 35


def _json(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps(json.loads(to_json(value)), ensure_ascii=False)


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
@pytest.mark.parametrize(
    "name", ["a record", "an event", "a pair", "formats", "a code", "mixed", "a number", "lengths"]
)
def test_answers_of_an_automaton_end_in_time_and_are_valid(name: str, kind: str) -> None:
    said = words(kind)
    grammar = said.grammar(schema(IN_USE[name]), "automaton")
    judge = jsonschema.Draft202012Validator(IN_USE[name])
    chance = random.Random(name)
    least = grammar.matcher().distance()
    assert least <= said.grammar(schema(IN_USE[name]), "llguidance").matcher().distance()
    for budget in budgets(grammar):
        judge.validate(json.loads(draw(said, grammar, budget, chance)))
