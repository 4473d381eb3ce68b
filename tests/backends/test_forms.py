"""Forms of answers over the wire: what each kind of server is sent, what comes back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Optional

import pytest
from pydantic import BaseModel

from stolon import (
    GenerationError,
    OpenAI,
    RuntimeEndpoint,
    State,
    UnsupportedError,
    assistant,
    function,
    gen,
    user,
)
from stolon.lang.backend import Backend
from stolon.lang.errors import BackendProtocolError
from tests.backends.speakers import chat_events, cumulative_events, native_events
from tests.backends.test_programs import served
from tests.backends.upstream import Upstream, reply


class City(BaseModel):
    name: str
    mayor: Optional[str] = None  # noqa: UP045
    people: int = 0


@function
def ask(s: State, node: Any, in_chat: bool = True) -> None:
    if in_chat:
        s += user("Ask.") + assistant(node)
    else:
        s += "Ask: " + node


@contextmanager
def openai(*answers: Sequence[str], **options: Any) -> Iterator[tuple[Upstream, Backend]]:
    scripts = [reply(b"".join(chat_events(words))) for words in answers]
    with served(*scripts) as server, OpenAI("m", base_url=f"{server.origin}/v1", **options) as backend:
        yield server, backend


def format_of(server: Upstream) -> Any:
    return server.requests[-1].body["response_format"]["json_schema"]


@pytest.mark.parametrize(
    ("node", "words", "value", "schema"),
    [
        (gen("x", int), ['{"answer"', ': "4', '2"}'], 42, {"type": "string"}),
        (gen("x", Literal["a", "b"]), ['{"answer": "b"}'], "b", {"type": "string", "enum": ["a", "b"]}),
        (gen("x", list[int]), ['{"answer": [1', ", 2]}"], [1, 2], {"type": "array", "items": {"type": "integer"}}),
        (gen("x", regex="a+"), ['{"answer": "aa"}'], "aa", {"type": "string", "pattern": "^(?:a+)$"}),
        (gen("x", dict[str, int]), ['{"answer": [{"key": "a", ', '"value": 1}]}'], {"a": 1}, {"type": "array"}),
    ],
)
def test_openai_is_sent_an_object_in_strict_mode_and_the_answer_is_taken_out_of_it(
    node: Any, words: list[str], value: Any, schema: Any
) -> None:
    with openai(words) as (server, backend):
        state = ask.run(node, backend=backend, max_tokens=10)
        assert state["x"] == value
    sent = format_of(server)
    assert (sent["strict"], sent["schema"]["required"]) == (True, ["answer"])
    assert schema.items() <= sent["schema"]["properties"]["answer"].items()
    assert server.requests[-1].body["max_tokens"] == 26


def test_optional_properties_are_null_on_the_wire_and_gone_in_the_answer_also_while_it_streams() -> None:
    with openai(['{"name": "Os', 'lo", "mayor": nu', 'll, "people"', ": null}"]) as (server, backend):
        state = ask.run(gen("x", City), backend=backend, stream=True)
        assert list(state.stream("x")) == [{"name": "Os"}, {"name": "Oslo"}, {"name": "Oslo", "mayor": None}]
        assert state["x"] == City(name="Oslo")
        assert state.messages()[-1]["content"] == '{"name": "Oslo", "mayor": null}'
    schema = format_of(server)["schema"]
    assert schema["required"] == ["name", "mayor", "people"]
    assert schema["properties"]["people"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}


def test_a_json_object_is_openais_json_mode() -> None:
    with openai(['{"a": 1}']) as (server, backend):
        assert ask.run(gen("x", json_object=True), backend=backend)["x"] == '{"a": 1}'
    assert server.requests[-1].body["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("node", "said", "words"),
    [
        (gen("x", int), "forty-two", "did not keep to the form"),
        (gen("x", int), '{"answer": "4.5"}', "does not match"),
        (gen("x", City), '{"name": 3, "mayor": null, "people": 1}', "/name must be of type"),
        (gen("x", Literal["a", "b"]), '{"answer": "c"}', "none of the 2 choices"),
        (gen("x", json_object=True), "[1]", "no JSON object"),
    ],
)
def test_an_answer_of_a_server_that_has_not_the_form_is_an_error(node: Any, said: str, words: str) -> None:
    with openai([said]) as (_, backend), pytest.raises(GenerationError, match=words) as caught:
        ask.run(node, backend=backend)
    assert isinstance(caught.value.__cause__, BackendProtocolError)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (gen("x", grammar="start: A"), "no grammars"),
        (gen("x", dict), "#/additionalProperties"),
        (gen("x", json_schema={"type": "string", "not": {"const": "a"}}), "#/not"),
        (gen("x", regex=r"\p{Lu}"), "cannot be checked"),
        (gen("x", int, reasoning=True), "reasoning"),
    ],
)
def test_what_openai_cannot_hold_an_answer_to_is_refused_before_anything_is_sent(node: Any, words: str) -> None:
    with openai(["x"]) as (server, backend):
        with pytest.raises((UnsupportedError, GenerationError), match=words) as caught:
            ask.run(node, backend=backend)
        assert isinstance(caught.value, UnsupportedError) or isinstance(caught.value.__cause__, UnsupportedError)
        assert "test_forms.py" in str(caught.value)
    assert server.requests == []


def test_what_openai_cannot_hold_an_answer_to_may_be_checked_and_asked_for_again() -> None:
    with openai(["a list?"], ['```json\n{"any": "thing"}\n```']) as (server, backend):
        assert ask.run(gen("x", dict, fallback="retry"), backend=backend)["x"] == {"any": "thing"}
    assert "response_format" not in server.requests[0].body
    told = server.requests[1].body["messages"]
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert "no JSON" in told[-1]["content"]


def test_a_completion_model_takes_no_form() -> None:
    refused = pytest.raises(UnsupportedError, match="completion models")
    with openai(["x"], is_chat_model=False) as (server, backend), refused:
        ask.run(gen("x", int), in_chat=False, backend=backend)
    assert server.requests == []


SCHEMA = {"type": "array", "items": {"type": "integer"}}
GRAMMAR = 'start: "a"'

FORMS = [
    (gen("x", regex="[a-c]+"), "abc", {"regex": "[a-c]+"}, {"regex": "[a-c]+"}),
    (gen("x", Literal["a.b", "a"]), "a", {"choice": ["a.b", "a"]}, {"regex": r"(?:a\.b)|(?:a)"}),
    (gen("x", json_schema=SCHEMA), "[1]", {"json": SCHEMA}, {"json_schema": json.dumps(SCHEMA)}),
    (gen("x", json_schema="true"), "[1]", {"json": {}}, {"json_schema": "{}"}),
    (gen("x", json_object=True), "{}", {"json_object": True}, {"json_schema": '{"type": "object"}'}),
    (gen("x", grammar=GRAMMAR), "a", {"grammar": GRAMMAR}, {"ebnf": GRAMMAR}),
]


@pytest.mark.parametrize(("node", "said", "structured", "native"), FORMS)
def test_each_server_gets_a_form_under_its_own_names(node: Any, said: str, structured: Any, native: Any) -> None:
    with served(reply(b"".join(chat_events([said]))), kind="vllm") as server, RuntimeEndpoint(server.origin) as backend:
        assert ask.run(node, backend=backend)["x"] == said
        assert server.requests[-1].body["structured_outputs"] == structured
    with served(reply(b"".join(native_events([said]))), kind="stolon") as server:
        with RuntimeEndpoint(server.origin) as backend:
            assert ask.run(node, backend=backend)["x"] == said
        assert native.items() <= server.requests[-1].body["sampling_params"].items()
    with served(reply(b"".join(cumulative_events([said]))), kind="sglang") as server:
        with RuntimeEndpoint(server.origin) as backend:
            assert ask.run(node, in_chat=False, backend=backend)["x"] == said
        assert native.items() <= server.requests[-1].body["sampling_params"].items()


@pytest.mark.parametrize(("node", "said", "structured", "native"), FORMS)
def test_chats_of_sglang_get_it_in_the_body(node: Any, said: str, structured: Any, native: Any) -> None:
    with served(reply(b"".join(chat_events([said]))), kind="sglang") as server:
        with RuntimeEndpoint(server.origin) as backend:
            assert ask.run(node, backend=backend)["x"] == said
        body = server.requests[-1].body
    if "json" in structured:
        assert body["response_format"]["json_schema"]["schema"] == structured["json"]
    elif "json_object" in structured:
        assert body["response_format"] == {"type": "json_object"}
    else:
        assert native.items() <= body.items()


def test_a_server_that_drops_the_form_without_a_word_is_found_out() -> None:
    refused = pytest.raises(GenerationError, match="does not match")
    with served(reply(b"".join(native_events(["many"]))), kind="stolon") as server, refused:
        ask.run(gen("x", int), backend=RuntimeEndpoint(server.origin))


def test_a_server_that_turns_out_to_know_no_such_form_is_asked_again_where_the_program_allows_it() -> None:
    words = (reply(b"".join(chat_events([said]))) for said in ("5", '{"a": 1}'))
    with served(*words, kind="library") as server, RuntimeEndpoint(server.origin) as backend:
        assert ask.run(gen("x", dict[str, Any], fallback="retry"), backend=backend)["x"] == {"a": 1}
    assert len(server.requests) == 2


def test_a_form_after_reasoning_is_for_stolons_server_alone() -> None:
    node = gen("x", Literal["yes", "no"], reasoning=True)
    with served(reply(b"".join(native_events(["<think>hm</think>", "yes"]))), kind="stolon") as server:
        with RuntimeEndpoint(server.origin) as backend:
            assert ask.run(node, backend=backend)["x"] == "yes"
        sent = server.requests[-1].body["sampling_params"]
        assert (sent["constrain_after"], sent["regex"]) == ("</think>", "(?:yes)|(?:no)")
    with (
        served(reply(b"".join(chat_events(["yes"]))), kind="vllm") as server,
        RuntimeEndpoint(server.origin) as backend,
    ):
        with pytest.raises(GenerationError, match="reasoning"):
            ask.run(node, backend=backend)
        assert server.requests == []
