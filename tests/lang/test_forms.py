"""Forms of answers: how they are asked for, refused, checked, streamed, and told apart from reasoning."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from stolon import (
    Constraint,
    GenerationError,
    InvalidRequest,
    Scripted,
    State,
    UnsupportedError,
    assistant,
    function,
    gen,
    select,
    separate_reasoning,
    token_length_normalized,
    user,
)
from stolon.backends.scripted import EVERYTHING
from stolon.lang.reasoning import Marks, Splitter, split


class City(BaseModel):
    name: str
    people: int


CITY = '{"name": "Oslo", "people": 700000}'
PLAIN = replace(EVERYTHING, constraints=frozenset())


def answered(node: Any, script: Any, **options: Any) -> State[Any]:
    @function
    def ask(s: State) -> None:
        s += user("Ask.") + assistant(node)

    return ask.run(backend=script if isinstance(script, Scripted) else Scripted(script), **options)


# -- asking


@pytest.mark.parametrize(
    ("node", "constraint", "answer"),
    [
        (gen("x", regex=r"[a-c]+"), Constraint("regex", r"[a-c]+"), "abc"),
        (gen("x", choices=["a", "b"], max_tokens=5), Constraint("choices", choices=("a", "b")), "b"),
        (gen("x", json_schema={"type": "integer"}), Constraint("json_schema", '{"type": "integer"}'), "12"),
        (gen("x", json_schema='{"type":"integer"}'), Constraint("json_schema", '{"type":"integer"}'), "12"),
        (gen("x", json_object=True), Constraint("json_object"), "{}"),
        (gen("x", grammar='start: "a"+'), Constraint("grammar", 'start: "a"+'), "aa"),
        (gen("x", ebnf='root ::= "a"'), Constraint("grammar", 'root ::= "a"'), "a"),
    ],
)
def test_a_form_travels_with_the_request_and_its_value_is_text(node: Any, constraint: Constraint, answer: str) -> None:
    backend = Scripted(answer)
    assert answered(node, backend)["x"] == answer
    assert backend.requests[0].constraint == constraint


def test_a_schema_may_be_a_type_whose_answer_stays_text() -> None:
    backend = Scripted(CITY)
    assert answered(gen("x", json_schema=City), backend)["x"] == CITY
    constraint = backend.requests[0].constraint
    assert constraint is not None
    assert json.loads(constraint.text)["required"] == ["name", "people"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regex": "a", "choices": ["b"]}, "one form"),
        ({"regex": "a", "json_schema": {}}, "one form"),
        ({"type": int, "grammar": "x"}, "one form"),
        ({"json_object": True, "dtype": int}, "one form"),
        ({"regex": ""}, "non-empty"),
        ({"regex": 3}, "non-empty"),
        ({"grammar": ""}, "non-empty"),
        ({"json_schema": "{"}, "line 1 column 2"),
        ({"json_schema": "[1]"}, "must be an object"),
        ({"json_schema": {"const": object()}}, "JSON"),
        ({"choices": []}, "list of choices"),
        ({"choices": "abc"}, "list of choices"),
        ({"choices": ["a", "a"]}, "differ"),
        ({"choices": ["a", ""]}, "non-empty"),
        ({"choices_method": token_length_normalized}, "choices"),
        ({"choices": ["a"], "choices_method": token_length_normalized, "n": 2}, "n"),
        ({"fallback": "retry"}, "form"),
        ({"fallback": "again", "regex": "a"}, "'retry'"),
        ({"fallback": "retry", "grammar": "x"}, "grammar"),
        ({"fallback": "retry", "regex": "a", "n": 2}, "n=2"),
        ({"reasoning": "gpt-2"}, "qwen3"),
    ],
)
def test_a_form_that_cannot_be_is_refused_where_it_is_written(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        gen("x", **options)


def test_choices_are_picked_by_their_scores_as_in_sglang_and_drawn_where_an_option_asks_for_tokens() -> None:
    backend = Scripted("b", scores=lambda prompt, option: -1.0 if option == "a" else -2.0)
    state = answered(gen("x", choices=["a", "b"]), backend)
    assert state["x"] == "a"
    assert set(state.info("x").probs) == {"a", "b"}
    assert dict(gen("x", choices=["a"], retries=2, seed=3).options) == {"retries": 2, "seed": 3}
    assert answered(gen("x", choices=["a", "b"], n=2), backend, temperature=1.5)["x"] == ["b", "b"]
    assert backend.requests[-1].params.temperature == 0.0
    assert answered(gen("x", choices=["a", "b"], choices_method=token_length_normalized), backend)["x"] == "a"


def test_a_backend_that_cannot_hold_an_answer_to_a_form_refuses_it_at_the_line_of_the_user() -> None:
    backend = Scripted("42", capabilities=PLAIN)
    with pytest.raises(UnsupportedError, match=r"gen\('x'\) at .*test_forms\.py.*int.*fallback='retry'"):
        answered(gen("x", int), backend)
    with pytest.raises(UnsupportedError, match="reasoning"):
        answered(gen("x", int, reasoning=True), Scripted("1", capabilities=replace(EVERYTHING, constrains_after=False)))
    assert backend.asked == 0
    assert answered(gen("x", str), backend)["x"] == "42"


# -- what comes back


@pytest.mark.parametrize(
    ("node", "answer", "words"),
    [
        (gen("x", regex="[a-c]+"), "abcd", "does not match"),
        (gen("x", choices=["a", "b"], n=1), "c", "none of the 2 choices"),
        (gen("x", json_object=True), "[1]", "no JSON object"),
        (gen("x", json_schema={"items": {"type": "integer"}}), '[1, "2"]', "/1 must be of type"),
        (gen("x", json_schema={"type": "number"}), "NaN", "NaN is no JSON"),
        (gen("x", City), '{"name": "Oslo"}', "lacks 'people'"),
    ],
)
def test_a_backend_that_cheats_is_found_out(node: Any, answer: str, words: str) -> None:
    with pytest.raises(GenerationError, match=re.escape(words)) as caught:
        answered(node, answer)
    assert repr(answer) in str(caught.value)


def test_an_answer_that_was_cut_says_which_limit_cut_it() -> None:
    with pytest.raises(GenerationError, match="max_tokens=2 ended the answer before it was a whole City"):
        answered(gen("x", City, max_tokens=2), CITY)


def test_a_stop_of_the_program_may_end_an_answer_and_what_is_left_is_its_text() -> None:
    assert answered(gen("x", regex="[a-z ]+[.]", stop=" "), "some words.")["x"] == "some"
    with pytest.raises(GenerationError, match="no City"):
        answered(gen("x", City, stop=","), CITY)


def test_one_cheating_answer_of_several_is_an_error() -> None:
    with pytest.raises(GenerationError, match="'two'"):
        answered(gen("x", int, n=2), ["1", "two"])


def test_a_check_of_the_backend_refuses_before_anything_is_sent() -> None:
    class Checking(Scripted):
        async def check(self, constraint: Constraint) -> None:
            raise InvalidRequest(f"the regex {constraint.text!r} is wrong at position 1", param="regex")

    backend = Checking("a")
    with pytest.raises(GenerationError, match=r"gen\('x'\) at .*position 1"):
        answered(gen("x", regex="a("), backend)
    assert backend.asked == 0


# -- asking again


def test_asking_again_shows_the_model_what_was_wrong_until_its_answer_has_the_form() -> None:
    backend = Scripted(["Oslo!", '```json\n{"name": "Oslo"}\n```', f"```json\n{CITY}\n```"], capabilities=PLAIN)
    state = answered(gen("x", City, fallback="retry", seed=7), backend)
    assert state["x"] == City(name="Oslo", people=700000)
    assert state.text().endswith(f"{CITY}\n")
    assert state.usage.requests == 3
    first, second, third = backend.requests
    assert first.constraint is None
    assert "Oslo!" in second.prompt.text()
    assert "no JSON" in second.prompt.text()
    assert "lacks 'people'" in third.prompt.text()
    assert "Oslo!" not in third.prompt.text()
    assert len({request.params.seed for request in backend.requests}) == 3
    assert [message["role"] for message in second.prompt.messages()] == ["user", "assistant", "user", "assistant"]


def test_asking_again_ends_after_three_attempts_with_an_error_that_tells_them_all() -> None:
    backend = Scripted(["one", "two", "three"], capabilities=PLAIN)
    with pytest.raises(GenerationError, match=r"attempt 1: .*'one'.*attempt 2: .*'two'.*attempt 3: .*'three'"):
        answered(gen("x", int, fallback="retry"), backend)
    assert backend.asked == 3


def test_asking_again_outside_a_chat_just_tries_again_and_a_reader_hears_the_good_answer_alone() -> None:
    backend = Scripted(["a word", "17\n"], capabilities=PLAIN, tokens_per_delta=1)

    @function
    def ask(s: State) -> None:
        s += "Age: " + gen("x", int, fallback="retry")

    state = ask.run(backend=backend, stream=True)
    assert "".join(state.text_iter("x")) == "17"
    assert state["x"] == 17


def test_a_fallback_is_no_fallback_where_the_backend_holds_an_answer_to_its_form() -> None:
    backend = Scripted("5")
    assert answered(gen("x", int, fallback="retry"), backend)["x"] == 5
    assert backend.requests[0].constraint is not None


# -- partial values


def test_a_stream_of_a_value_shows_what_is_known_of_it() -> None:
    state = answered(gen("x", City), Scripted(CITY, tokens_per_delta=1), stream=True)
    parts = list(state.stream("x"))
    assert parts[0] == {}
    assert {"name": "Oslo"} in parts
    assert parts[-1] == json.loads(CITY)
    assert state["x"] == City(name="Oslo", people=700000)


async def test_a_stream_of_a_value_works_in_an_event_loop() -> None:
    @function
    async def ask(s: State) -> None:
        s += gen("x", list[str])

    state = await ask.arun(backend=Scripted('["a b", "c"]', tokens_per_delta=1), stream=True)
    assert [part async for part in state.stream("x")] == [["a"], ["a b"], ["a b", "c"]]


def test_a_stream_of_text_grows_and_of_a_number_comes_once() -> None:
    backend = Scripted(["some more words", "42\n", "1 2"], tokens_per_delta=1)

    @function
    def ask(s: State) -> None:
        s += gen("text") + gen("number", int) + gen("digits", regex="[0-9 ]+")

    state = ask.run(backend=backend, stream=True)
    assert list(state.stream("text")) == ["some", "some more", "some more words"]
    assert list(state.stream("number")) == [42]
    assert list(state.stream("digits")) == ["1", "1 2"]


def test_a_stream_of_a_value_that_fails_raises_after_what_it_had() -> None:
    state = answered(gen("x", City), Scripted('{"name": "Os", "people": "many"}', tokens_per_delta=1), stream=True)
    parts: list[Any] = []
    with pytest.raises(GenerationError, match="/people"):
        parts.extend(state.stream("x"))
    with pytest.raises(GenerationError):
        state["x"]


# -- reasoning

THOUGHT = "<think>\nSix times seven.\n</think>\n\n"


def test_reasoning_is_told_apart_and_the_form_holds_after_it() -> None:
    backend = Scripted(THOUGHT + "42", tokens_per_delta=1)
    state = answered(gen("x", int, reasoning=True), backend, stream=True)
    assert "".join(state.text_iter("x")) == "42"
    assert state["x"] == 42
    assert state["x_reasoning_content"] == "Six times seven."
    assert state.info("x").reasoning == "Six times seven."
    assert state.messages()[-1]["content"] == "42"
    constraint = backend.requests[0].constraint
    assert constraint is not None
    assert constraint.after == "</think>"


def test_separate_reasoning_works_as_in_sglang_also_for_streams_and_several_answers() -> None:
    script = [THOUGHT + "Yes.", "No.", THOUGHT + "Maybe."]
    state = answered(separate_reasoning(gen("x", n=3), "qwen3"), Scripted(script, tokens_per_delta=1), stream=True)
    assert "".join(state.text_iter("x_reasoning_content")).strip() == "Six times seven."
    assert state["x"] == ["Yes.", "No.", "Maybe."]
    assert state["x_reasoning_content"] == ["Six times seven.", "", "Six times seven."]


def test_reasoning_whose_beginning_is_in_the_prompt_needs_its_end_only() -> None:
    state = answered(separate_reasoning(gen("x"), "deepseek-r1"), "I think so.</think>Yes.")
    assert (state["x"], state["x_reasoning_content"]) == ("Yes.", "I think so.")


def test_reasoning_without_an_end_is_an_error_where_a_form_was_to_follow() -> None:
    with pytest.raises(GenerationError, match=r"no '</think>'.*raise max_tokens"):
        answered(gen("x", int, reasoning=True), "<think> on and on 42")
    state = answered(gen("x", reasoning=True), "<think> on and on")
    assert (state["x"], state.info("x").reasoning) == ("", "on and on")


@given(st.text(alphabet="<think>/ a\n", max_size=40), st.booleans(), st.integers(1, 4))
def test_thoughts_are_the_same_however_they_arrive(text: str, must: bool, size: int) -> None:
    marks = Marks()
    splitter = Splitter(marks, must=must)
    thoughts = answer = ""
    for start in range(0, len(text), size):
        thought, told = splitter.feed(text[start : start + size])
        thoughts, answer = thoughts + thought, answer + told
    thought, told = splitter.finish()
    assert (
        (thoughts + thought).strip(),
        answer + told,
        splitter.ended,
    ) == split(text, marks, must=must)


def test_a_literal_is_drawn_and_a_select_is_scored() -> None:
    backend = Scripted("no", scores=lambda prompt, option: -1.0 if option == "yes" else -2.0)

    @function
    def ask(s: State) -> None:
        s += gen("drawn", Literal["yes", "no"]) + select("scored", ["yes", "no"])

    state = ask.run(backend=backend)
    assert (state["drawn"], state["scored"]) == ("no", "yes")
