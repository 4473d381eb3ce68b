"""Tagged pieces of JSON: tool calls inside free text, and answers that are nothing but pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stolon.lang.constraint import Constraint
from stolon.lang.errors import EngineError, InvalidRequest
from stolon.runtime.grammar.llg import LlgGrammar
from stolon.runtime.grammar.llg_source import BYTES, Source
from stolon.runtime.grammar.prepare import prepare

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"begin": '<tool_call>\n{"name": "weather", "arguments": ', "schema": CITY, "end": "}\n</tool_call>"},
    {"begin": '<tool_call>\n{"name": "now", "arguments": ', "schema": {"type": "object"}, "end": "}\n</tool_call>"},
]
WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


def grammar(**given: Any) -> LlgGrammar:
    described = {"tags": TOOLS, "free": True, "least": 0, "most": None, "separator": "", **given}
    found = prepare(Constraint("tags", json.dumps(described)), "auto")
    assert isinstance(found, Source)
    return LlgGrammar(found, BYTES)


def accepts(grammar: LlgGrammar, text: str) -> bool:
    return accepts_bytes(grammar, text.encode())


def accepts_bytes(grammar: LlgGrammar, text: bytes) -> bool:
    matcher = grammar.matcher()
    try:
        for byte in text:
            matcher.advance(byte)
    except EngineError:
        return False
    return matcher.is_accepting


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("", True),
        ("Just text, a < b and <tool.", True),
        (f"Let me see.\n{WEATHER}", True),
        (f"{WEATHER}\n{NOW} Done.", True),
        ("<tool_call>", False),
        (WEATHER[:-1], False),
        (WEATHER.replace("city", "town"), False),
        (WEATHER.replace("weather", "whether"), False),
        (WEATHER.replace("Oslo", 'Os"lo'), False),
    ],
)
def test_free_text_may_hold_whole_calls_of_the_tools_and_no_others(text: str, is_right: bool) -> None:
    assert accepts(grammar(), text) is is_right


@pytest.mark.parametrize(
    ("least", "most", "counts"),
    [(1, 1, {1}), (0, 1, {0, 1}), (1, None, {1, 2, 3, 4}), (2, 3, {2, 3}), (0, None, {0, 1, 2, 3, 4}), (0, 0, {0})],
)
@pytest.mark.parametrize("separator", ["", ", "])
@pytest.mark.parametrize("free", [False, True])
def test_there_are_as_many_pieces_as_asked_for(
    least: int, most: int | None, counts: set[int], separator: str, free: bool
) -> None:
    made = grammar(least=least, most=most, separator=separator, free=free)
    said = {count for count in range(5) if accepts(made, separator.join([WEATHER, NOW, NOW, WEATHER][:count]))}
    assert said == counts


def test_answers_that_are_not_free_hold_nothing_but_pieces() -> None:
    made = grammar(free=False, least=1, separator=";")
    assert accepts(made, f"{NOW};{NOW}")
    assert not accepts(made, f" {NOW}")
    assert not accepts(made, f"{NOW};")
    assert not accepts(made, f"{NOW}{NOW}")


def test_a_piece_that_stands_alone_is_all_of_the_answer() -> None:
    answer = {"begin": "", "schema": {"type": "array", "items": {"enum": [1]}}, "end": "", "alone": True}
    made = grammar(tags=[*TOOLS, answer], free=False, least=1, separator=";")
    for text in ("[1, 1]", "[]", NOW, f"{WEATHER};{NOW}"):
        assert accepts(made, text), text
    for text in ("", "[1", f"[1];{NOW}", f"{NOW};[1]", "[1][1]", "[2]"):
        assert not accepts(made, text), text
    assert made.matcher().distance() == len("[]")


def test_a_call_that_was_begun_is_ended_within_the_budget() -> None:
    matcher = grammar().matcher()
    for byte in b"ok <tool_call>":
        matcher.advance(byte)
    assert matcher.distance() <= len(NOW) + 64


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"tags": []}, "invalid_grammar"),
        ({"tags": [{"begin": "", "schema": {}, "end": ""}]}, "invalid_grammar"),
        ({"tags": [{"begin": "", "schema": {}, "end": "", "alone": True}], "free": False}, "invalid_grammar"),
        ({"tags": [*TOOLS, {"begin": "", "schema": {}, "end": "", "alone": True}]}, "invalid_grammar"),
        ({"tags": [{"begin": "a", "schema": {}, "end": "", "alone": 1}]}, "invalid_grammar"),
        ({"least": 2, "most": 1}, "invalid_grammar"),
        ({"least": True}, "invalid_grammar"),
        ({"separator": 5}, "invalid_grammar"),
        ({"tags": [{"begin": "<a>", "schema": {"type": "text"}, "end": ""}]}, "invalid_schema"),
    ],
)
def test_a_wrong_description_is_refused(given: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar(**given)
    assert caught.value.code == code


def test_the_error_of_a_schema_names_its_tag_and_its_place_in_it() -> None:
    wrong = {"begin": "<b>", "schema": {"properties": {"x": {"type": "text"}}}, "end": "</b>"}
    with pytest.raises(InvalidRequest) as caught:
        grammar(tags=[TOOLS[0], wrong])
    assert caught.value.param == "tags/1/schema/properties/x/type"


@pytest.mark.parametrize("broken", [b"\xa3", b"a\xff", b"\xc3("])
def test_free_text_is_made_of_whole_characters(broken: bytes) -> None:
    assert not accepts_bytes(grammar(), broken)
    assert accepts_bytes(grammar(), "é数".encode())
