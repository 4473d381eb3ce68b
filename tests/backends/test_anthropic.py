"""Claude over a loopback server: what is sent, what comes back, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from stolon import Anthropic, GenerationError, State, UnsupportedError, assistant, function, gen, select, system, user
from stolon.lang.errors import (
    BackendError,
    BackendProtocolError,
    BackendRequestError,
    InvalidRequest,
    StreamTruncatedError,
)
from tests.backends.test_programs import served
from tests.backends.upstream import Script, Upstream, reply


def event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data}, ensure_ascii=False)}\n\n".encode()


def piece(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


START = event(
    "message_start",
    message={"content": [], "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1}},
)


def answer(*words: str, reason: str = "end_turn", stop: str | None = None) -> Script:
    """As the Messages API streams it, pings and all."""
    begin = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    delta = {"stop_reason": reason, "stop_sequence": stop}
    end = event("message_delta", delta=delta, usage={"output_tokens": len(words)})
    pieces = [START, begin, event("ping"), *map(piece, words), event("content_block_stop", index=0), end]
    return reply(b"".join([*pieces, event("message_stop")]))


@contextmanager
def claude(*scripts: Script) -> Iterator[tuple[Upstream, Anthropic]]:
    with served(*scripts) as server, Anthropic("claude", api_key="secret", base_url=server.origin) as backend:
        yield server, backend


@function
def ask(s: State, node: Any) -> None:
    s += system("Be brief.") + user("Ask.") + assistant(node)


def test_a_conversation_reaches_the_messages_api_and_its_answer_comes_back() -> None:
    with claude(answer("Hel", "lo wö😀")) as (server, backend):
        state = ask.run(gen("x", max_tokens=9, temperature=0.5, stop=["\n", "END"]), backend=backend, stream=True)
        assert "".join(state.text_iter("x")) == "Hello wö😀"
        assert state.info("x").finish == "stop"
        usage = state.usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.requests) == (7, 2, 2, 1)
    (sent,) = server.requests
    assert (sent.path, sent.headers["x-api-key"], sent.headers["anthropic-version"]) == (
        "/v1/messages",
        "secret",
        "2023-06-01",
    )
    assert "authorization" not in sent.headers
    assert sent.body == {
        "model": "claude",
        "max_tokens": 9,
        "temperature": 0.5,
        "stop_sequences": ["\n", "END"],
        "stream": True,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Ask."}],
    }


def test_a_second_turn_still_has_its_system_prompt_and_text_of_the_assistant_is_continued() -> None:
    @function
    def twice(s: State) -> None:
        s += system("Be brief.") + user("One?") + assistant(gen("one"))
        s += user("Two?") + assistant("Well, " + gen("two", stop="!"))

    with claude(answer("1"), answer("2", reason="stop_sequence", stop="!")) as (server, backend):
        state = twice.run(backend=backend)
        assert (state["one"], state["two"], state.info("two").matched) == ("1", "2", "!")
        assert state.messages()[0] == {"role": "system", "content": "Be brief."}
    body = server.requests[1].body
    assert body["system"] == "Be brief."
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user", "assistant"]
    assert body["messages"][-1]["content"] == "Well, "


def test_forms_and_choices_are_asked_for_by_a_schema_and_taken_out_of_it() -> None:
    with claude(answer('{"answer": "4', '2"}'), answer('{"answer": "b"}'), answer('{"answer": [1, 2]}')) as (
        _,
        backend,
    ):
        assert ask.run(gen("x", int), backend=backend)["x"] == 42
        assert ask.run(select("x", ["a", "b"]), backend=backend)["x"] == "b"
        assert ask.run(gen("x", list[int]), backend=backend)["x"] == [1, 2]
    with claude(answer('{"answer": "b"}')) as (server, backend):
        assert ask.run(gen("x", Literal["a", "b"]), backend=backend)["x"] == "b"
    sent = server.requests[0].body["output_config"]["format"]
    assert sent["type"] == "json_schema"
    assert sent["schema"]["properties"] == {"answer": {"type": "string", "enum": ["a", "b"]}}


def test_an_answer_that_has_not_the_form_is_an_error() -> None:
    with claude(answer('{"answer": "many"}')) as (_, backend), pytest.raises(GenerationError, match="does not match"):
        ask.run(gen("x", int), backend=backend)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (gen("x", n=2), "n"),
        (gen("x", seed=1), "seed"),
        (gen("x", return_logprob=True), "logprob"),
        (gen("x", grammar="start: A"), "grammars"),
        (gen("x", json_object=True), "json_schema"),
        (gen("x", json_schema={"type": "integer", "minimum": 3}), "minimum"),
    ],
)
def test_what_the_messages_api_cannot_say_is_refused_before_anything_is_sent(node: Any, words: str) -> None:
    with claude(answer("x")) as (server, backend):
        with pytest.raises((UnsupportedError, GenerationError), match=words) as caught:
            ask.run(node, backend=backend)
        assert isinstance(caught.value, UnsupportedError) or isinstance(caught.value.__cause__, UnsupportedError)
    assert server.requests == []


def test_a_system_turn_in_the_middle_is_refused() -> None:
    @function
    def late(s: State) -> None:
        s += user("One?") + system("Now be brief.") + user("Two?") + assistant(gen("x"))

    with claude(answer("x")) as (server, backend), pytest.raises(GenerationError, match="at the beginning"):
        late.run(backend=backend)
    assert server.requests == []


@pytest.mark.parametrize(
    ("script", "cause", "words"),
    [
        (reply({"type": "error", "error": {"message": "no such model"}}, 404), BackendRequestError, "no such model"),
        (reply(START + piece("Hel")), StreamTruncatedError, "3 characters"),
        (reply(START + piece("Hel") + event("error", error={"message": "Overloaded"})), BackendError, "Overloaded"),
        (answer("No", reason="refusal"), BackendError, "refusal"),
        (reply({"type": "message", "content": []}), BackendProtocolError, "stream"),
    ],
)
def test_a_failure_of_the_api_is_told_as_it_is(script: Script, cause: type[Exception], words: str) -> None:
    with claude(script) as (_, backend), pytest.raises(GenerationError, match=words) as caught:
        ask.run(gen("x"), backend=backend)
    assert type(caught.value.__cause__) is cause


def test_an_overloaded_api_is_asked_again() -> None:
    busy = reply({"type": "error", "error": {"message": "Overloaded"}}, 529, retry_after="0")
    with claude(busy, answer("Hello")) as (server, backend):
        assert ask.run(gen("x"), backend=backend)["x"] == "Hello"
    assert len(server.requests) == 2


def test_a_missing_key_is_refused_when_the_backend_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(InvalidRequest, match="ANTHROPIC_API_KEY"):
        Anthropic("claude")
