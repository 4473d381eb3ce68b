"""Thoughts and tool calls read from answers: the same wherever the text is cut, and nothing lost or said twice."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stolon.runtime.server.formats.choose import Reading, ToolFormat, new_call_id, opens_thought, thinks, tool_format
from stolon.runtime.server.formats.json_scan import JsonScanner
from stolon.runtime.server.formats.python_values import python_to_json
from stolon.runtime.server.formats.source import Arguments, Call, Piece, Text, Thought

NAMES = frozenset({"f", "get_weather", "a-b"})
FORMATS: tuple[ToolFormat, ...] = ("hermes", "llama3", "mistral", "pythonic")


@dataclass
class Read:
    """What came out of one answer, in all."""

    text: str = ""
    thought: str = ""
    calls: list[list[str]] = field(default_factory=list)

    def add(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            match piece:
                case Text(text):
                    assert text
                    self.text += text
                case Thought(text):
                    assert text
                    self.thought += text
                case Call(name):
                    self.calls.append([name, ""])
                case Arguments(text):
                    assert text
                    self.calls[-1][1] += text


def read(reading: Reading, *parts: str) -> Read:
    parser, found = reading.parser(), Read()
    for part in parts:
        found.add(parser.feed(part))
    found.add(parser.finish())
    return found


def of(format: ToolFormat) -> Reading:
    return Reading(tools=format, names=NAMES)


ARGUMENTS = '{"city": "Paris \\"x\\" }", "n": [1, -2.5e3, {"k": null}], "t": true}'
AS_OBJECT = '{"name": "f", "arguments": ' + ARGUMENTS + "}"
# format, answer, text, calls
EXAMPLES: list[tuple[ToolFormat, str, str, list[list[str]]]] = [
    ("hermes", f"<tool_call>\n{AS_OBJECT}\n</tool_call>", "", [["f", ARGUMENTS]]),
    ("hermes", f"Let me see.\n<tool_call>{AS_OBJECT}</tool_call>\n", "Let me see.", [["f", ARGUMENTS]]),
    (
        "hermes",
        f'<tool_call>{AS_OBJECT}</tool_call>\n<tool_call>\n{{"name": "a-b", "arguments": {{}}}}\n</tool_call>',
        "",
        [["f", ARGUMENTS], ["a-b", "{}"]],
    ),
    ("hermes", f"<tool_call>{AS_OBJECT}</tool_call> so", "so", [["f", ARGUMENTS]]),
    ("hermes", '<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>', "", [["f", '{"x": 1}']]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [["f", '{"x": 1}']]),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', "", [["f", "{}"]]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1}</tool_call>', "", [["f", '{"x": 1}']]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1}, "id": "a"}</tool_call>', "", [["f", '{"x": 1}']]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1, ', "", [["f", '{"x": 1, ']]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x" 1}}</tool_call> a', "a", [["f", '{"x" 1}}']]),
    ("llama3", '{"name": "f", "parameters": {"x": 1}}', "", [["f", '{"x": 1}']]),
    ("llama3", f'\n{AS_OBJECT}; {{"name": "a-b", "parameters": {{}}}}', "", [["f", ARGUMENTS], ["a-b", "{}"]]),
    ("llama3", f"<|python_tag|>{AS_OBJECT}", "", [["f", ARGUMENTS]]),
    ("llama3", f"I call <|python_tag|>{AS_OBJECT}", "I call", [["f", ARGUMENTS]]),
    ("mistral", f"[TOOL_CALLS] [{AS_OBJECT}]", "", [["f", ARGUMENTS]]),
    (
        "mistral",
        f'a [TOOL_CALLS][{AS_OBJECT}, {{"name": "a-b", "arguments": {{}}, "id": "abcdefghi"}}]',
        "a",
        [["f", ARGUMENTS], ["a-b", "{}"]],
    ),
    ("mistral", '[TOOL_CALLS]f{"x": 1}[TOOL_CALLS]a-b[ARGS]{}', "", [["f", '{"x": 1}'], ["a-b", "{}"]]),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]abc123DEF[ARGS]{"x": 1}', "", [["f", '{"x": 1}']]),
    ("pythonic", "[f()]", "", [["f", "{}"]]),
    (
        "pythonic",
        "[get_weather(city='Par\\'is', n=[1, 2.5, -3], o={'a': None, \"b\": (True,)}), f( x = \"),]\" )]",
        "",
        [
            ["get_weather", '{"city": "Par\'is", "n": [1, 2.5, -3], "o": {"a": null, "b": [true]}}'],
            ["f", '{"x": "),]"}'],
        ],
    ),
    ("pythonic", "[f(x=1, y=2", "", [["f", '{"x": 1y=2']]),
]
# answers that hold no call: all of each is text
TEXTS: list[tuple[ToolFormat, str]] = [
    *((format, text) for format in FORMATS for text in ("", " ", "Hello.\n", "{}", "[1, 2]", "[", "{", "é😀 <tool_")),
    ("hermes", "<tool_call>nothing</tool_call>"),
    ("hermes", '<tool_call>{"name": "other", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": 5}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": "no"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f"'),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
    ("hermes", "  <tool_call> \n "),
    ("hermes", "a < b <tool> <tool_cal"),
    ("llama3", '{"name": "other", "parameters": {}}'),
    ("llama3", '{"answer": 42}\n'),
    ("llama3", '{"name": "f", "parameters"'),
    ("mistral", "[TOOL_CALLS] none"),
    ("mistral", "[TOOL_CALLS]f(1)"),
    ("pythonic", "[f] is a list"),
    ("pythonic", "[f(x) is what I call"),
    ("pythonic", "[f(x=open('a'))]"),
    ("pythonic", "[other(x=1)]"),
    ("pythonic", "[f(x=1+1)]"),
]


def every_cut(text: str) -> list[tuple[str, ...]]:
    """The text whole, by single characters, and cut in two at every place."""
    return [(text,), tuple(text), *((text[:at], text[at:]) for at in range(1, len(text)))]


@pytest.mark.parametrize(("format", "answer", "text", "calls"), EXAMPLES)
def test_calls_are_read_wherever_the_text_is_cut(
    format: ToolFormat, answer: str, text: str, calls: list[list[str]]
) -> None:
    for parts in every_cut(answer):
        assert read(of(format), *parts) == Read(text, "", calls), parts


@pytest.mark.parametrize(("format", "answer"), TEXTS)
def test_what_is_no_call_is_text_to_the_last_character(format: ToolFormat, answer: str) -> None:
    for parts in every_cut(answer):
        assert read(of(format), *parts) == Read(answer), parts


THOUGHTS: list[tuple[bool, str, str, str]] = [
    (False, "<think>\nhm\n</think>\n\nyes", "hm", "yes"),
    (False, "\n<think>a < b </think>", "a < b", ""),
    (False, "no thought <think>", "", "no thought <think>"),
    (False, " plain", "", " plain"),
    (False, "<think>never ends </thin", "never ends </thin", ""),
    (True, "hm\n</think>\nyes </think> too", "hm", "yes </think> too"),
    (True, "</think>yes", "", "yes"),
    (True, "<thin", "<thin", ""),
]


@pytest.mark.parametrize(("inside", "answer", "thought", "text"), THOUGHTS)
def test_thoughts_are_told_from_the_answer(inside: bool, answer: str, thought: str, text: str) -> None:
    for parts in every_cut(answer):
        assert read(Reading(thinks=True, inside=inside), *parts) == Read(text, thought), parts


def test_a_call_in_a_thought_is_a_thought_and_one_after_it_is_a_call() -> None:
    answer = f"<think>maybe <tool_call>{AS_OBJECT}</tool_call></think>\n<tool_call>{AS_OBJECT}</tool_call>"
    reading = Reading(thinks=True, tools="hermes", names=NAMES)
    for parts in every_cut(answer):
        found = read(reading, *parts)
        assert found == Read("", f"maybe <tool_call>{AS_OBJECT}</tool_call>", [["f", ARGUMENTS]])


MARKS = (
    "<tool_call> </tool_call> <think> </think> [TOOL_CALLS] [ARGS] [CALL_ID] <|python_tag|> [ ] { } ( ) , ; : = \\ ' \""
)
WORDS = '"name" "arguments" "parameters" "f" f other x 1 -2.5e3 true None [f( {"name": x=1, {"x":1} é 😀 "\\u12'
LONGER = (
    " ",
    "\n",
    "<tool_call>\n",
    '{"name": "f", "arguments": ',
    '{"name": "f", "arguments": {"x": [1, "a\\u0041"]}}',
    '[f(x=1, y="a")]',
    '{"arguments": {"x": 1}, "name": "f"}',
)
PIECES = st.sampled_from([*MARKS.split(), *WORDS.split(), *LONGER])
answers = st.lists(PIECES, max_size=14).map("".join)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("inside", [None, False, True])
@settings(max_examples=60)
@given(answer=answers, cuts=st.lists(st.integers(0, 60), max_size=8))
@example(answer="<tool_call>" + " " * 80 + "<tool_call>" + AS_OBJECT, cuts=[20, 11, 50])
def test_any_split_of_any_text_gives_the_same(
    format: ToolFormat, inside: bool | None, answer: str, cuts: list[int]
) -> None:
    reading = Reading(thinks=inside is not None, inside=bool(inside), tools=format, names=NAMES)
    places = sorted({min(cut, len(answer)) for cut in cuts} | {0, len(answer)})
    parts = [answer[low:high] for low, high in itertools.pairwise(places)]
    whole = read(reading, answer)
    assert read(reading, *parts) == whole
    assert read(reading, *answer) == whole


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=100)
@given(answer=answers)
def test_text_comes_out_in_order_and_no_more_of_it_than_went_in(format: ToolFormat, answer: str) -> None:
    found = read(of(format), answer)
    rest = iter(answer)
    assert all(char in rest for char in found.text)
    if not found.calls:
        assert found.text.split() == answer.split() or found.text == answer


def test_arguments_are_passed_on_before_their_end() -> None:
    heads: dict[ToolFormat, str] = {"hermes": "<tool_call>", "llama3": "", "mistral": "[TOOL_CALLS] ["}
    for format, head in heads.items():
        parser, found = of(format).parser(), Read()
        found.add(parser.feed(head + '{"name": "f", "arguments": {"text": "Once upon'))
        assert found.calls == [["f", '{"text": "Once upon']]
        found.add(parser.feed(" a time"))
        assert found.calls == [["f", '{"text": "Once upon a time']]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=4), each, max_size=3),
    max_leaves=8,
)


@given(arguments=st.dictionaries(st.text(max_size=5), json_values, max_size=4), ascii=st.booleans())
def test_any_json_is_carried_through_unchanged(arguments: dict[str, Any], ascii: bool) -> None:
    raw = json.dumps(arguments, ensure_ascii=ascii)
    if not ascii:
        raw = raw.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be in an answer
    written: dict[ToolFormat, str] = {
        "hermes": f'<tool_call>\n{{"name": "f", "arguments": {raw}}}\n</tool_call>',
        "llama3": f'{{"name": "f", "parameters": {raw}}}',
        "mistral": f"[TOOL_CALLS]f{raw}",
    }
    for format, answer in written.items():
        assert read(of(format), answer) == Read("", "", [["f", raw]])


@given(value=json_values)
def test_python_literals_become_the_json_of_the_same_value(value: Any) -> None:
    written = python_to_json(repr(value))
    if any(ord("\ud800") <= ord(char) <= ord("\udfff") for char in json.dumps(value, ensure_ascii=False)):
        return
    assert written is not None
    assert json.loads(written) == value


@pytest.mark.parametrize(
    "text", ["", "x", "1+1", "f()", "[1", "{1: 2}", "'a", "1e999", "[" * 1000 + "]" * 1000, "1.2.3"]
)
def test_what_json_does_not_have_is_refused(text: str) -> None:
    assert python_to_json(text) is None


def accepted(text: str) -> bool:
    try:
        json.loads(text, parse_constant=lambda name: [][0])
    except (ValueError, IndexError):
        return False
    return True


@given(st.text(alphabet='{}[]",:\\0123456789.eE+-trufalsn \n', max_size=25) | json_values.map(json.dumps))
def test_the_scanner_takes_what_json_takes(text: str) -> None:
    scanner = JsonScanner()
    # a value that is no container ends only with what comes after it
    end = scanner.scan(f"[{text}]", 0)
    assert (scanner.state == "done" and end == len(text) + 2) == accepted(f"[{text}]")


HOSTILE: list[Callable[[int], str]] = [
    lambda n: '{"a":' * n,
    lambda n: "[" * n,
    lambda n: "\\" * n,
    lambda n: "<tool_call>" * n,
    lambda n: '<tool_call>{"name"' * n,
    lambda n: '<tool_call>{"arguments": "' * n,
    lambda n: "<tool_call>" + '{"arguments":' * n,
    lambda n: '<tool_call>{"name": "f", "arguments": ' + '{"a":' * n,
    lambda n: "[f(x=" + "(" * n,
    lambda n: "[f(x=" + "'\\" * n,
    lambda n: "[TOOL_CALLS][" * n,
    lambda n: "<" * n + " " * n,
    lambda n: " " * n + "<tool_call>",
    lambda n: "<tool_cal" * n,
    lambda n: "<think>" * n,
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("hostile", range(len(HOSTILE)))
def test_v28_hostile_answers_cost_time_in_proportion_to_their_length(format: ToolFormat, hostile: int) -> None:
    """Counted in calls of Python functions rather than seconds: ten times the text, about ten times the work."""

    def work(count: int) -> int:
        text, calls = HOSTILE[hostile](count), 0

        def count_call(frame: object, event: str, arg: object) -> None:
            nonlocal calls
            calls += 1

        parser = of(format).parser()
        parts = [text[at : at + 4] for at in range(0, len(text), 4)]
        sys.setprofile(count_call)
        try:
            for part in parts:
                parser.feed(part)
            parser.finish()
        finally:
            sys.setprofile(None)
        return calls

    assert work(1000) < 13 * work(100) + 500


def test_the_format_is_found_where_the_template_is_sure() -> None:
    assert tool_format("auto", '... <tool_call>\n{"name": <function-name>') == "hermes"
    assert tool_format("auto", "[AVAILABLE_TOOLS] ... [TOOL_CALLS]") == "mistral"
    assert tool_format("auto", "<|python_tag|>") == "llama3"
    assert tool_format("auto", "<tool_call><function=example>") is None
    assert tool_format("auto", "{{ messages }}") is None
    assert tool_format("none", "<tool_call>") is None
    assert tool_format("qwen25", "") == "hermes"
    assert tool_format("llama3_json", "") == "llama3"


def test_thinking_is_found_in_template_and_prompt() -> None:
    assert thinks("auto", "{{ content.split('</think>')[-1] }}")
    assert not thinks("auto", "{{ content }}")
    assert not thinks("none", "</think>")
    assert thinks("deepseek-r1", "")
    assert opens_thought("assistant\n<think>\n") is True
    assert opens_thought("<think>\n\n</think>\n\n") is False
    assert opens_thought("assistant\n") is None


def test_ids_of_calls_differ_and_those_of_mistral_have_its_form() -> None:
    assert len({new_call_id("hermes") for _ in range(100)}) == 100
    assert all(len(new_call_id("mistral")) == 9 and new_call_id("mistral").isalnum() for _ in range(50))
