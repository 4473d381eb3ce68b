"""OpenAI's strict mode: what is sent is what strict mode takes, and the answer is changed back while it streams."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from stolon.backends.json_events import JSONEvents, NotJSONError
from stolon.backends.strict_schema import StrictForm, strict_form
from stolon.backends.strict_undo import StrictUndo
from stolon.lang.constraint import Constraint
from stolon.lang.errors import BackendProtocolError, UnsupportedError
from stolon.lang.typed import type_form
from tests.lang.typed_values import TYPED, Open, shown

TAKEN = frozenset(  # https://platform.openai.com/docs/guides/structured-outputs, supported schemas
    "type properties required additionalProperties items anyOf enum $ref $defs description pattern format minimum "
    "maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems".split()
)


def form_of(schema: Any) -> StrictForm:
    return strict_form(Constraint("json_schema", json.dumps(schema)))


def check_taken(schema: Any) -> None:
    """Whether strict mode takes `schema`: an object at the root, every property required, nothing else allowed."""
    assert schema["type"] == "object"
    left = [schema]
    while left:
        here = left.pop()
        assert set(here) <= TAKEN, here
        if here.get("type") == "object":
            assert here["additionalProperties"] is False
            assert here["required"] == list(here["properties"])
        left += [*here.get("properties", {}).values(), *here.get("$defs", {}).values(), *here.get("anyOf", [])]
        left += [here["items"]] if "items" in here else []


def strictly(value: Any, schema: Any, root: Any) -> Any:
    """`value` as a model that is held to the strict `schema` would say it."""
    if "$ref" in schema:
        return strictly(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    for way in schema.get("anyOf", ()):
        said = strictly(value, way, root)
        if jsonschema.Draft202012Validator({**way, "$defs": root.get("$defs", {})}).is_valid(said):
            return said
    if schema.get("type") == "object" and isinstance(value, dict):
        return {name: strictly(value.get(name), inner, root) for name, inner in schema["properties"].items()}
    if schema.get("type") == "object" and isinstance(value, list):
        return {
            name: strictly(one, inner, root)
            for (name, inner), one in zip(schema["properties"].items(), value, strict=False)
        }
    if schema.get("type") == "array" and isinstance(value, dict):
        inner = schema["items"]["properties"]["value"]
        return [{"key": name, "value": strictly(one, inner, root)} for name, one in value.items()]
    if schema.get("type") == "array" and isinstance(value, list):
        return [strictly(one, schema["items"], root) for one in value]
    return value


def undone(form: StrictForm, text: str, size: int = 3) -> str:
    undo = StrictUndo(form)
    pieces = [undo.feed(text[start : start + size]) for start in range(0, len(text), size)]
    return "".join([*pieces, undo.finish(whole=True)])


def said_strictly(form: StrictForm, value: Any) -> str:
    wrapped = {"answer": value} if form.wrapped else value
    said = strictly(wrapped, form.schema, form.schema)
    jsonschema.Draft202012Validator(form.schema).validate(said)
    return json.dumps(said, ensure_ascii=False, indent=1)


JSON_TYPES = [
    (kind, value)
    for kind, value in TYPED
    if (constraint := type_form(kind).constraint) is not None and constraint.kind == "json_schema"
]
OPEN = ("list", "dict", "Any", "Pair")  # whose schemas leave something open


@pytest.mark.parametrize(("kind", "value"), JSON_TYPES, ids=[shown(kind) for kind, _ in JSON_TYPES])
def test_a_value_of_a_type_comes_through_strict_mode_as_it_is(kind: Any, value: Any) -> None:
    constraint = type_form(kind).constraint
    assert constraint is not None
    if shown(kind) in OPEN or ("pattern" in constraint.text and "maxLength" in constraint.text):
        with pytest.raises(UnsupportedError, match="strict mode"):
            strict_form(constraint)
        return
    form = strict_form(constraint)
    check_taken(form.schema)
    if kind is Open:
        value = Open(known=1)  # no answer says more than the schema names
    plain = json.loads(str(value) if "Decimal" in str(kind) else to_json(value))
    text = undone(form, said_strictly(form, plain))
    assert json.loads(text) == plain or type_form(kind).read(text) == value
    assert type_form(kind).read(text) == value


@pytest.mark.parametrize("answer", ["a", 'quote " back \\ ∀🙂', "line\nbreak"])
@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("ascii", [True, False])
def test_bare_text_is_taken_out_of_its_wrapper(answer: str, size: int, ascii: bool) -> None:
    for constraint in (Constraint("choices", choices=(answer, "b")), Constraint("regex", r"[\s\S]*")):
        form = strict_form(constraint)
        check_taken(form.schema)
        assert undone(form, json.dumps({"answer": answer}, ensure_ascii=ascii), size) == answer


NAMES = st.text(alphabet='ab"\\é', max_size=2)


def _object(parts: Any) -> st.SearchStrategy[Any]:
    named = st.dictionaries(NAMES, parts, max_size=3)
    return named.flatmap(lambda found: st.tuples(st.just(found), st.sets(st.sampled_from([*found, ""])))).map(_closed)


def _closed(drawn: tuple[dict[str, Any], set[str]]) -> Any:
    """An object of a schema and values for each name. One that may be null is required: left out, it would be null."""
    found, wanted = drawn
    required = [name for name, (schema, _) in found.items() if name in wanted or "anyOf" in schema]
    schema = {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in found.items()},
        "required": required,
        "additionalProperties": False,
    }
    here = {name: values for name, (_, values) in found.items() if name in required}
    return schema, st.fixed_dictionaries(
        here, optional={name: values for name, (_, values) in found.items() if name not in here}
    )


def _tuple(parts: list[Any]) -> Any:
    schema = {"type": "array", "prefixItems": [one for one, _ in parts], "minItems": len(parts), "maxItems": len(parts)}
    return schema, st.tuples(*(values for _, values in parts)).map(list)


LEAVES: Any = st.sampled_from(
    [
        ({"type": "integer"}, st.integers()),
        ({"type": "string"}, st.text()),
        ({"type": "boolean"}, st.booleans()),
        ({"type": "number"}, st.floats(allow_nan=False, allow_infinity=False)),
    ]
)
SCHEMAS: Any = st.recursive(
    LEAVES,
    lambda parts: (
        _object(parts)
        | parts.map(lambda one: ({"type": "array", "items": one[0]}, st.lists(one[1], max_size=3)))
        | parts.map(
            lambda one: (
                {"type": "object", "additionalProperties": one[0]},
                st.dictionaries(NAMES, one[1], max_size=3),
            )
        )
        | parts.map(lambda one: ({"anyOf": [one[0], {"type": "null"}]}, one[1] | st.none()))
        | st.lists(parts, min_size=1, max_size=3).map(_tuple)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(SCHEMAS, st.data(), st.integers(1, 7))
def test_any_value_of_any_schema_comes_through_strict_mode_as_it_is(both: Any, data: st.DataObject, size: int) -> None:
    schema, values = both
    form = form_of(schema)
    check_taken(form.schema)
    value = data.draw(values)
    said = said_strictly(form, value)
    assert json.loads(undone(form, said, size)) == value


def test_an_optional_property_that_may_be_null_itself_keeps_its_null() -> None:
    form = form_of({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": ["string", "null"]}}})
    assert undone(form, '{"a": null, "b": null}') == '{"b": null}'
    named = {"$defs": {"maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}
    form = form_of({**named, "type": "object", "properties": {"c": {"$ref": "#/$defs/maybe"}}})
    assert undone(form, '{"c": null}') == '{"c": null}'


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({}, "#"),
        (True, "#"),
        ({"type": "object"}, "#/additionalProperties"),
        ({"type": "object", "additionalProperties": True}, "#/additionalProperties"),
        ({"properties": {"a": {}}}, "#/properties/a"),
        ({"properties": {"a": {"not": {"type": "null"}}}}, "#/properties/a/not"),
        ({"type": "array", "items": {"allOf": [{"type": "null"}, {}]}}, "#/items/allOf"),
        ({"type": "array", "prefixItems": [{"type": "null"}]}, "#/prefixItems"),
        ({"type": "array", "uniqueItems": True, "items": {"type": "null"}}, "#/uniqueItems"),
        ({"type": "string", "pattern": "a", "minLength": 1}, "#/pattern"),
        ({"$ref": "https://example.com"}, "#/$ref"),
        ({"properties": {"a": {"type": "null"}}, "required": ["b"]}, "#/required"),
        ({"properties": {"a": {"type": "null"}}, "patternProperties": {"b": {}}}, "#"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "minProperties": 1}, "#/minProperties"),
        ({"anyOf": [{"type": "null"}], "type": "string"}, "#/anyOf"),
    ],
)
def test_what_strict_mode_cannot_say_is_refused_with_its_pointer(schema: Any, pointer: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        form_of(schema)
    assert caught.value.param == pointer
    assert "fallback='retry'" in str(caught.value)


def test_ways_that_the_answer_does_not_tell_apart_are_refused() -> None:
    pairs = {"type": "object", "additionalProperties": {"type": "integer"}}
    items = {"type": "array", "items": {"type": "integer"}}
    with pytest.raises(UnsupportedError, match="choice between"):
        form_of({"anyOf": [pairs, items]})
    needed = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    left_out = {"type": "object", "properties": {"a": {"type": "integer"}}}
    with pytest.raises(UnsupportedError, match="'a' may be left out"):
        form_of({"anyOf": [needed, left_out]})


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON at all",
        '{"answer": [1, 2]',
        '{"other": [1]}',
        '{"answer": [1], "answer": [2]}',
        "[1, 2]",
        '"text"',
        "12",
        '{"answer": [1,, 2]}',
        '{"answer": [1]} and more',
        '{"answer": [01]}',
    ],
)
def test_an_answer_that_is_not_what_the_schema_says_is_an_error_that_shows_it(answer: str) -> None:
    form = form_of({"type": "array", "items": {"type": "integer"}})
    with pytest.raises(BackendProtocolError, match="did not keep to the form"):
        undone(form, answer)


@pytest.mark.parametrize("inside", ["[1]", '["k"]', '[{"value": 1}]', '[{"key": 1}]', "[[]]"])
def test_pairs_that_are_none_are_an_error(inside: str) -> None:
    form = form_of({"type": "object", "additionalProperties": {"type": "integer"}})
    with pytest.raises(BackendProtocolError, match="did not keep to the form"):
        undone(form, f'{{"answer": {inside}}}')


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ),
    st.booleans(),
    st.integers(1, 5),
)
def test_events_of_json_spell_the_json_again(value: Any, ascii: bool, size: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii, separators=(",", ":"))
    events = JSONEvents()
    found = [event for start in range(0, len(text), size) for event in events.feed(text[start : start + size])]
    found += events.feed("", last=True)
    assert events.is_over
    assert all(json.loads(f'"{event.text}"') is not None for event in found if event.kind == "piece")
    marks = {"string": '"', "end string": '"'}
    spelled = "".join(f'"{one.text}"' if one.kind == "key" else marks.get(one.kind, one.text) for one in found)
    assert spelled == text.replace(":", "").replace(",", "") or json.loads(text) == value


@given(st.text(alphabet='{}[]",:\\u0d8etrufalsn1-.', max_size=30))
def test_what_is_no_json_is_an_error_and_what_is_json_none(text: str) -> None:
    events = JSONEvents()
    try:
        list(events.feed(text))
        list(events.feed("", last=True))
        is_json = events.is_over
    except NotJSONError:
        is_json = False
    try:
        json.loads(text)
    except ValueError:
        assert not is_json
    else:
        lone = any(f"\\ud{digit}" in text.lower() for digit in "89abcdef")
        assert is_json or lone
