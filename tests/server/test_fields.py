"""Whatever bytes, and whatever JSON in whatever field: a value of ours, or a refusal with 400."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from stolon.runtime.server import chat, completions, errors, generate, messages, responses, scoring
from stolon.runtime.server.body import parse
from stolon.runtime.server.errors import HttpError
from stolon.runtime.server.fields import Field
from tests.server.expected import CHAT, GOOD, MESSAGES, RESPONSES, SCORE, TEXT

BODIES: dict[str, Field[dict[str, Any]]] = {
    "chat": chat.request_body(300),
    "completions": completions.request_body(300),
    "generate": generate.request_body(300),
    "score": scoring.REQUEST_BODY,
    "responses": responses.request_body(300),
    "messages": messages.REQUEST_BODY,
}
NEEDED: dict[str, dict[str, Any]] = {
    "chat": GOOD[CHAT],
    "completions": GOOD[TEXT],
    "generate": {},
    "score": GOOD[SCORE],
    "responses": GOOD[RESPONSES],
    "messages": GOOD[MESSAGES],
}
FIELDS = {name: sorted(cast("dict[str, Any]", body.schema["properties"])) for name, body in BODIES.items()}
SCHEMAS = {name: Draft202012Validator(body.schema) for name, body in BODIES.items()}

numbers = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 10**400, 1e308, 0.0, -0.0])
leaves = st.none() | st.booleans() | numbers | st.text(max_size=20) | st.just("x" * 300)
keys = st.sampled_from(["role", "content", "type", "text", "n", "1", "299", "-1", "stop"]) | st.text(max_size=5)
values = st.recursive(leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(keys, v, max_size=4), max_leaves=12)


def outcome(call: Callable[[], dict[str, Any]]) -> dict[str, Any] | HttpError:
    """What comes back, or the refusal, which has the shape that every refusal has."""
    try:
        return call()
    except HttpError as error:
        refusal = error
    assert 400 <= refusal.status < 500
    assert refusal.message
    assert len(errors.body(refusal)) <= 4096
    return refusal


@given(
    st.binary(max_size=60) | st.text(alphabet='{}[]":,0123456789eE+-.\\\\udNaInfinity \n', max_size=60).map(str.encode)
)
def test_any_bytes_are_an_object_or_refused(raw: bytes) -> None:
    found = outcome(lambda: parse(raw))
    assert isinstance(found, HttpError) or found == json.loads(raw)


@given(st.dictionaries(keys, values, max_size=4))
def test_what_json_can_say_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    found = outcome(lambda: parse(json.dumps(value).encode()))
    if isinstance(found, HttpError):
        assert any(word in found.message for word in ("finite", "large", "surrogate"))
    else:
        assert found == value


@pytest.mark.parametrize("name", BODIES)
@settings(max_examples=100)
@given(data=st.data())
def test_any_value_in_any_field_is_taken_or_refused(name: str, data: st.DataObject) -> None:
    field, value = data.draw(st.sampled_from(FIELDS[name])), data.draw(values)
    found = outcome(lambda: BODIES[name]("", {**NEEDED[name], field: value}))
    if isinstance(found, HttpError):
        assert (found.param or "").startswith(field)
    else:
        assert (field in found) == (value is not None)
        assert not isinstance(found.get(field), float) or math.isfinite(found[field])


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_an_error_is_json_and_short_whatever_it_repeats(message: str, param: str) -> None:
    raw = errors.body(HttpError(400, "x", message, param))
    assert len(raw) <= 4096
    assert set(json.loads(raw)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", BODIES)
@settings(max_examples=100)
@given(data=st.data())
def test_what_is_taken_fits_the_schema_and_what_breaks_it_is_refused(name: str, data: st.DataObject) -> None:
    value = {**NEEDED[name], data.draw(st.sampled_from(FIELDS[name])): data.draw(values)}
    found = outcome(lambda: BODIES[name]("", value))
    if not isinstance(found, HttpError):
        SCHEMAS[name].validate(value)


@pytest.mark.parametrize("name", BODIES)
def test_the_schema_of_a_body_is_one(name: str) -> None:
    Draft202012Validator.check_schema(BODIES[name].schema)
