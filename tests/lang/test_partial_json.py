"""An answer that is still being written, as data: what is known only grows, and at the end it is all of it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stolon.lang.partial_json import NOTHING, PartialJSON

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


def grows_into(before: Any, after: Any) -> bool:
    if before is NOTHING:
        return True
    if type(before) is not type(after):
        return False
    if isinstance(before, str):
        return after.startswith(before)
    if isinstance(before, list):
        return len(before) <= len(after) and all(map(grows_into, before, after))
    if isinstance(before, dict):
        return all(name in after and grows_into(one, after[name]) for name, one in before.items())
    return before == after


def read(text: str) -> PartialJSON:
    reader = PartialJSON()
    reader.feed(text)
    return reader


@settings(max_examples=60, deadline=None)
@given(VALUES, st.booleans(), st.sampled_from([None, 2]), st.integers(1, 5))
@example(["\U0001f642", {"a": "\ud800x"}], True, None, 1)
def test_every_prefix_is_read_and_what_is_known_only_grows(value: Any, ascii: bool, indent: int | None, size: int):
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    pieces = PartialJSON()
    before: Any = NOTHING
    for end in range(size, len(text) + size, size):
        pieces.feed(text[end - size : end])
        assert not pieces.broken
        if end % 8 == 0 or len(text) < 50:  # reading a beginning anew takes as long as the beginning is
            at_once = read(text[:end]).value
            assert (at_once is NOTHING) == (pieces.value is NOTHING)
            assert at_once is NOTHING or at_once == pieces.value
        assert grows_into(before, pieces.value)
        assert grows_into(pieces.value, value)
        before = NOTHING if pieces.value is NOTHING else copy.deepcopy(pieces.value)
    pieces.finish()
    assert pieces.value == json.loads(text)


@given(st.text(alphabet='{}[]",:\\u0d8etrufalsn 1-.'))
def test_any_text_is_read_without_an_error_and_what_is_json_wholly(text: str) -> None:
    reader = read(text)
    reader.finish()
    try:
        value = json.loads(text)
    except ValueError:
        return
    assert not reader.broken
    assert reader.value == value


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("", NOTHING),
        ("  ", NOTHING),
        ('"', ""),
        ('"ab', "ab"),
        (r'"ab\u00e', "ab"),
        (r'"\ud83d', ""),
        (r'"\ud83d\ude42', "🙂"),
        ("12", NOTHING),
        ("12 ", 12),
        ("tru", NOTHING),
        ("true", True),
        ("{", {}),
        ('{"na', {}),
        ('{"name"', {}),
        ('{"name":', {}),
        ('{"name": "A', {"name": "A"}),
        ('{"age": 4', {}),
        ('{"age": 42,', {"age": 42}),
        ('{"a": [1, 2', {"a": [1]}),
        ('{"a": [1, 2]', {"a": [1, 2]}),
        ('{"a": {"b": "c', {"a": {"b": "c"}}),
    ],
)
def test_a_beginning_says_what_is_certain(text: str, known: Any) -> None:
    assert read(text).value is known or read(text).value == known


@pytest.mark.parametrize(
    "text", ['{"a": 1} {', "[1 2]", "nulle,", "{1: 2}", '["a\nb"]', r'"\x"', "]", '{"a" 1}', "[01,"]
)
def test_what_is_no_json_stops_the_reading_and_what_was_read_stays(text: str) -> None:
    reader = read(text)
    assert reader.broken
    before = copy.deepcopy(reader.value) if reader.value is not NOTHING else NOTHING
    reader.feed('"more"]}')
    assert reader.value is before or reader.value == before


def test_a_long_text_is_read_in_one_go() -> None:
    value = [{"name": f"n{number}", "text": 'with "quotes"' * 3} for number in range(20_000)]
    assert read(json.dumps(value)).value == value
