"""OpenAI against a loopback server: what is sent, and what comes back when nothing goes wrong."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from stolon.backends.openai import OpenAI
from stolon.lang.backend import GenerateRequest
from stolon.lang.errors import BackendProtocolError, InvalidRequest, UnsupportedError
from stolon.lang.prompt import EMPTY, Generated, Prompt, RoleClose, RoleOpen, Text
from stolon.lang.types import Delta, SamplingParams, Score, Usage
from tests.backends.speakers import chat_event, chat_events, chat_prompt, usage_event
from tests.backends.upstream import Received, Script, event, reply, upstream

HELLO = chat_prompt(("user", "Hi"))
PLAIN = EMPTY.append(Text("Once "))


def openai(origin: str, model: str = "gpt-3.5-turbo", **options: Any) -> OpenAI:
    return OpenAI(model, base_url=origin + "/v1", api_key="secret", **options)


async def asked(
    script: Script, prompt: Prompt = HELLO, params: SamplingParams | None = None, **options: Any
) -> tuple[list[Delta], Received]:
    """The deltas of one request, and the request as the server got it."""
    async with upstream(script) as server:
        backend = openai(server.origin, **options)
        request = GenerateRequest(prompt=prompt, params=params or SamplingParams())
        try:
            deltas = [delta async for delta in backend.stream(request)]
        finally:
            await backend.close()
    return deltas, server.requests[-1]


def completion(*texts: str, **more: Any) -> bytes:
    said = [event({"choices": [{"index": 0, "text": text, "finish_reason": None}]}) for text in texts]
    end = event({"choices": [{"index": 0, "text": "", "finish_reason": "length", **more}]})
    return b"".join([*said, end, usage_event(3, len(texts)), event("[DONE]")])


CHAT = reply(b"".join(chat_events()))


async def test_a_chat_answer_streams_and_ends_with_its_usage() -> None:
    async with upstream(reply(b"".join(chat_events(["Hel", "lo", " 😀"])))) as server:
        backend = openai(server.origin)
        prompt = chat_prompt(("system", "You are brief."), ("user", "Hi"))
        deltas = [d async for d in backend.stream(GenerateRequest(prompt=prompt, params=SamplingParams(max_tokens=9)))]
        await backend.close()
    assert [d.text for d in deltas] == ["Hel", "lo", " 😀", ""]
    assert [d.finish for d in deltas] == [None, None, None, "stop"]
    assert deltas[-1].usage == Usage(prompt_tokens=7, completion_tokens=3, requests=1)
    assert (backend.token_usage.prompt_tokens, backend.token_usage.completion_tokens) == (7, 3)
    backend.token_usage.reset()
    assert (backend.token_usage.prompt_tokens, backend.token_usage.completion_tokens) == (0, 0)
    (sent,) = server.requests
    assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
    assert sent.headers["authorization"] == "Bearer secret"
    assert sent.body == {
        "model": "gpt-3.5-turbo",
        "messages": [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_what_was_asked_for_is_sent_and_nothing_else() -> None:
    params = SamplingParams(
        max_tokens=5,
        temperature=0.0,
        top_p=0.5,
        frequency_penalty=0.1,
        presence_penalty=-0.1,
        seed=7,
        stop=("\n",),
        logit_bias=((5, -100.0),),
        logprobs=2,
    )
    _, sent = await asked(CHAT, params=params, extra_body={"user": "me"})
    assert sent.body == {
        "model": "gpt-3.5-turbo",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "seed": 7,
        "stop": ["\n"],
        "logit_bias": {"5": -100.0},
        "logprobs": True,
        "top_logprobs": 2,
        "user": "me",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


UNSUPPORTED = [
    {"top_k": 5},
    {"min_p": 0.1},
    {"min_tokens": 1},
    {"ignore_eos": True},
    {"stop_token_ids": (2,)},
    {"stop_regex": ("a",)},
    {"prompt_logprobs": 0},
    {"repetition_penalty": 1.1},
    {"include_stop": True},
    {"skip_special_tokens": False},
]


@pytest.mark.parametrize("field", UNSUPPORTED, ids=lambda field: next(iter(field)))
async def test_what_the_protocol_cannot_say_is_refused_by_name_and_not_sent(field: dict[str, Any]) -> None:
    async with upstream(CHAT) as server:
        backend = openai(server.origin)
        (name,) = field
        assert name not in backend.capabilities.params
        request = GenerateRequest(prompt=HELLO, params=SamplingParams(**field))
        with pytest.raises(UnsupportedError, match=name):
            _ = [d async for d in backend.stream(request)]
        await backend.close()
    assert server.requests == []


@pytest.mark.parametrize(
    ("dialect", "fields", "sent_as"),
    [
        (
            "vllm",
            {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 2, "stop_token_ids": (3,)},
            {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 2, "stop_token_ids": [3]},
        ),
        (
            "vllm",
            {"include_stop": True, "ignore_eos": True, "skip_special_tokens": False},
            {"include_stop_str_in_output": True, "ignore_eos": True, "skip_special_tokens": False},
        ),
        ("sglang", {"include_stop": True, "stop_regex": ("a+",)}, {"no_stop_trim": True, "stop_regex": ["a+"]}),
        ("stolon", {"top_k": 0, "seed": 5}, {"seed": 5}),
    ],
)
async def test_a_dialect_widens_what_is_honoured(dialect: str, fields: dict[str, Any], sent_as: dict[str, Any]) -> None:
    _, sent = await asked(CHAT, params=SamplingParams(**fields), dialect=dialect)
    plain = {"model", "messages", "max_tokens", "stream", "stream_options"}
    # what such a server would take from its checkpoint is always said
    drawing = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert {name: value for name, value in sent.body.items() if name not in plain} == {**drawing, **sent_as}


@pytest.mark.parametrize(
    ("model", "field"),
    [("gpt-4o", "max_tokens"), ("o3-mini", "max_completion_tokens"), ("openai/gpt-5", "max_completion_tokens")],
)
async def test_reasoning_models_get_the_limit_under_its_other_name(model: str, field: str) -> None:
    async with upstream(CHAT) as server:
        backend = openai(server.origin, model)
        _ = [d async for d in backend.stream(GenerateRequest(prompt=HELLO, params=SamplingParams(max_tokens=5)))]
        await backend.close()
    assert server.requests[0].body[field] == 5


# --- roles and plain text -------------------------------------------------------------------------------------------


async def test_an_assistant_turn_that_has_begun_is_refused_where_it_cannot_be_continued() -> None:
    async with upstream(CHAT) as server:
        backend = openai(server.origin)
        assert not backend.capabilities.continue_assistant
        request = GenerateRequest(prompt=HELLO.append(Text("Sure, ")))
        with pytest.raises(UnsupportedError, match="cannot continue the text before the generation"):
            _ = [d async for d in backend.stream(request)]
        await backend.close()
    assert server.requests == []


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "stolon"])
async def test_an_assistant_turn_that_has_begun_is_continued_where_it_can_be(dialect: str) -> None:
    _, sent = await asked(CHAT, HELLO.append(Text("Sure, ")).append(Generated("it")), dialect=dialect)
    assert sent.body["messages"][-1] == {"role": "assistant", "content": "Sure, it"}
    assert sent.body["continue_final_message"] is True
    assert sent.body["add_generation_prompt"] is False


@pytest.mark.parametrize(
    "prompt",
    [
        PLAIN,
        EMPTY,
        EMPTY.append(RoleOpen("assistant")),
        EMPTY.append(RoleOpen("user")).append(Text("Hi")),
        EMPTY.append(RoleOpen("user")).append(Text("Hi")).append(RoleClose()),
        EMPTY.append(Text("Hi")).append(RoleOpen("assistant")),
    ],
)
async def test_what_messages_cannot_say_is_refused_and_never_left_out(prompt: Prompt) -> None:
    async with upstream(CHAT) as server:
        backend = openai(server.origin)
        with pytest.raises(UnsupportedError):
            _ = [d async for d in backend.stream(GenerateRequest(prompt=prompt))]
        await backend.close()
    assert server.requests == []


@pytest.mark.parametrize("model", ["gpt-3.5-turbo-instruct", "davinci-002", "babbage-002"])
async def test_a_completion_model_gets_plain_text(model: str) -> None:
    async with upstream(reply(completion("upon", " a"))) as server:
        backend = openai(server.origin, model)
        assert not backend.capabilities.roles
        deltas = [d async for d in backend.stream(GenerateRequest(prompt=PLAIN, params=SamplingParams(max_tokens=2)))]
        with pytest.raises(UnsupportedError, match="knows no roles"):
            _ = [d async for d in backend.stream(GenerateRequest(prompt=HELLO))]
        await backend.close()
    assert "".join(d.text for d in deltas) == "upon a"
    assert deltas[-1].finish == "length"
    (sent,) = server.requests
    assert sent.path == "/v1/completions"
    assert sent.body == {
        "model": model,
        "prompt": "Once ",
        "max_tokens": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_server_of_a_known_dialect_gets_chats_and_plain_text_alike() -> None:
    _, chat = await asked(CHAT, HELLO, dialect="vllm")
    _, text = await asked(reply(completion("x")), PLAIN, dialect="vllm")
    assert (chat.path, text.path) == ("/v1/chat/completions", "/v1/completions")


# --- what comes back ------------------------------------------------------------------------------------------------


async def test_several_answers_keep_apart() -> None:
    stream = [chat_event("a", index=1), chat_event("b", index=0), chat_event("c", index=1)]
    ends = [chat_event(finish="stop", index=0), chat_event(finish="length", index=1), event("[DONE]")]
    deltas, sent = await asked(reply(b"".join([*stream, *ends])), params=SamplingParams(n=2))
    assert sent.body["n"] == 2
    texts = ["".join(d.text for d in deltas if d.index == index) for index in (0, 1)]
    assert texts == ["b", "ac"]
    assert [(d.index, d.finish) for d in deltas if d.finish] == [(0, "stop"), (1, "length")]


async def test_log_probabilities_of_a_chat_come_with_their_texts() -> None:
    content = [{"token": "Hi", "logprob": -0.1, "top_logprobs": [{"token": "Hi", "logprob": -0.1}]}]
    choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": content}, "finish_reason": None}
    stream = event({"choices": [choice]}) + chat_event(finish="stop") + event("[DONE]")
    deltas, _ = await asked(reply(stream), params=SamplingParams(logprobs=1))
    (token,) = deltas[0].logprobs or []
    assert (token.text, token.logprob, token.top_texts, token.top) == ("Hi", -0.1, ("Hi",), ((-1, -0.1),))


async def test_log_probabilities_of_a_completion_come_with_their_texts() -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -0.9, "a": -0.5}], "text_offset": [0]}
    choice = {"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": "stop"}
    script = reply(event({"choices": [choice]}) + event("[DONE]"))
    deltas, sent = await asked(script, PLAIN, SamplingParams(logprobs=2), is_chat_model=False)
    assert sent.body["logprobs"] == 2
    (token,) = deltas[0].logprobs or []
    assert (token.text, token.logprob, token.top_texts) == ("a", -0.5, ("a", "b"))


@pytest.mark.parametrize("field", ["matched_stop", "stop_reason"])
async def test_what_ended_the_answer_is_told_where_the_server_tells(field: str) -> None:
    script = reply(completion("a", **{field: "\n"}))
    deltas, _ = await asked(script, PLAIN, dialect="vllm")
    assert deltas[-1].matched == "\n"


async def test_a_server_that_answers_whole_is_understood() -> None:
    whole = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
    }
    deltas, _ = await asked(reply(whole))
    assert "".join(d.text for d in deltas) == "Hello"
    assert deltas[-1].usage == Usage(prompt_tokens=1, cached_tokens=1, completion_tokens=2, requests=1)


async def test_a_refusal_of_the_model_is_an_error() -> None:
    stream = event({"choices": [{"index": 0, "delta": {"refusal": "I will not."}, "finish_reason": "stop"}]})
    with pytest.raises(Exception, match="I will not"):
        await asked(reply(stream + event("[DONE]")))


@pytest.mark.parametrize("content", [7, ["x"], {"text": "x"}])
async def test_content_that_is_no_text_is_an_error(content: object) -> None:
    stream = event({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]})
    with pytest.raises(BackendProtocolError, match="where text was expected"):
        await asked(reply(stream))


async def test_an_old_server_that_refuses_to_tell_usage_is_asked_without() -> None:
    refusal = reply({"error": {"message": "unknown field stream_options"}}, 400)
    async with upstream(refusal, CHAT) as server:
        backend = openai(server.origin)
        for _ in range(2):
            assert [d async for d in backend.stream(GenerateRequest(prompt=HELLO))]
        await backend.close()
    assert ["stream_options" in request.body for request in server.requests] == [True, False, False]


# --- choosing and scoring -------------------------------------------------------------------------------------------


async def test_a_choice_is_asked_for_by_a_schema_that_allows_nothing_else() -> None:
    async with upstream(reply(b"".join(chat_events(['{"ans', 'wer":"no"}'])))) as server:
        backend = openai(server.origin)
        assert (backend.capabilities.choose, backend.capabilities.score) == (True, False)
        request = GenerateRequest(prompt=HELLO, params=SamplingParams(max_tokens=1, temperature=0))
        assert await backend.choose(request, ["yes", "no"]) == (
            "no",
            Usage(prompt_tokens=7, completion_tokens=2, requests=1),
        )
        await backend.close()
    assert backend.token_usage.prompt_tokens == 7
    (sent,) = server.requests
    schema = sent.body["response_format"]["json_schema"]["schema"]
    assert sent.body["response_format"]["json_schema"]["strict"] is True
    assert schema["properties"] == {"answer": {"type": "string", "enum": ["yes", "no"]}}
    assert (schema["required"], schema["additionalProperties"]) == (["answer"], False)
    assert sent.body["max_tokens"] > len('{"answer": "yes"}')


@pytest.mark.parametrize("said", ["maybe", '{"answer": "maybe"}', '{"answer": 1}', '["yes"]', '{"answer": "yes'])
async def test_an_answer_that_is_none_of_the_options_is_an_error(said: str) -> None:
    async with upstream(reply(b"".join(chat_events([said])))) as server:
        backend = openai(server.origin)
        with pytest.raises(BackendProtocolError, match=r"did not keep to the (options|form)"):
            await backend.choose(GenerateRequest(prompt=HELLO), ["yes", "no"])
        await backend.close()


async def test_a_chat_api_cannot_score_and_says_where_one_can() -> None:
    async with upstream(CHAT) as server:
        backend = openai(server.origin)
        with pytest.raises(UnsupportedError, match="RuntimeEndpoint"):
            await backend.score(HELLO, ["yes", "no"])
        await backend.close()
    assert server.requests == []


def prompt_logprobs(*rows: tuple[int, float]) -> list[dict[str, Any] | None]:
    return [None, *({str(token): {"logprob": logprob, "rank": 1}} for token, logprob in rows)]


async def test_a_vllm_server_scores_options_after_what_they_share() -> None:
    rows = {
        "Once ": prompt_logprobs((1, -1.0)),
        "Once upon": prompt_logprobs((1, -1.0), (5, -0.25), (6, -0.5)),
        "Once more": prompt_logprobs((1, -1.0), (7, -2.0)),
    }

    async def scored(connection: Any) -> None:
        prompt = server.requests[-1].body["prompt"]
        choice = {"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": rows[prompt]}
        await reply({"choices": [choice]})(connection)

    async with upstream(scored) as server:
        backend = openai(server.origin, dialect="vllm", max_retries=0)
        scores = await backend.score(PLAIN, ["upon", "more"])
        await backend.close()
    assert scores == [Score((5, 6), (-0.25, -0.5)), Score((7,), (-2.0,))]
    assert all(request.body["prompt_logprobs"] == 0 for request in server.requests)


async def test_a_completion_server_that_echoes_scores_options_by_their_texts() -> None:
    rows = {
        "Once ": (["Once", " "], [None, -1.0]),
        "Once upon": (["Once", " upon"], [None, -0.25]),
        "Once more": (["Once", " ", "more"], [None, -1.0, -2.0]),
    }

    async def scored(connection: Any) -> None:
        tokens, values = rows[server.requests[-1].body["prompt"]]
        logprobs = {"tokens": tokens, "token_logprobs": values}
        await reply({"choices": [{"index": 0, "text": "", "logprobs": logprobs}]})(connection)

    async with upstream(scored) as server:
        backend = openai(server.origin, dialect="sglang", is_chat_model=False, max_retries=0)
        scores = await backend.score(PLAIN, ["upon", "more"])
        await backend.close()
    # " upon" spans the border, so everything after "Once" counts
    assert [score.logprobs for score in scores] == [(-0.25,), (-1.0, -2.0)]
    assert all((request.body["echo"], request.body["max_tokens"]) == (True, 0) for request in server.requests)


# --- accounts, loops and threads ------------------------------------------------------------------------------------


def test_a_missing_key_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InvalidRequest, match="OPENAI_API_KEY"):
        OpenAI("gpt-3.5-turbo")


async def test_a_server_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with upstream(CHAT) as server:
        backend = OpenAI("tiny", base_url=server.origin + "/v1")
        assert [d async for d in backend.stream(GenerateRequest(prompt=HELLO))]
        await backend.close()


@pytest.mark.parametrize("url", ["127.0.0.1:30000", "", "ftp://host/v1", "http://", "http://host:99999"])
def test_a_base_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidRequest, match="base_url"):
        OpenAI("tiny", base_url=url, api_key="x")


def test_a_dialect_that_nobody_speaks_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="openai, vllm, sglang, stolon"):
        OpenAI("tiny", base_url="http://127.0.0.1:1/v1", dialect="klingon")  # type: ignore[arg-type]


async def test_azure_addresses_a_deployment_with_its_own_key_header() -> None:
    async with upstream(CHAT) as server:
        backend = OpenAI("my-gpt", azure_endpoint=server.origin, api_version="2024-10-21", api_key="secret")
        assert [d async for d in backend.stream(GenerateRequest(prompt=HELLO))]
        await backend.close()
    (sent,) = server.requests
    assert sent.path == "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"
    assert sent.headers["api-key"] == "secret"


async def test_organization_is_told() -> None:
    _, sent = await asked(CHAT, organization="org-1")
    assert sent.headers["openai-organization"] == "org-1"


async def test_one_backend_answers_on_several_loops_at_once() -> None:
    """Each loop has connections of its own; what one made is never used by another."""
    results: list[str] = []

    async def ask(backend: OpenAI) -> None:
        for _ in range(3):
            deltas = [d.text async for d in backend.stream(GenerateRequest(prompt=HELLO))]
            results.append("".join(deltas))

    async with upstream(CHAT) as server:
        backend = openai(server.origin)
        threads = [threading.Thread(target=asyncio.run, args=(ask(backend),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        await ask(backend)
        while any(thread.is_alive() for thread in threads):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await backend.close()
        await backend.close()  # a second call does nothing
    assert len(set(results)) == 1
    assert len(results) == 12


async def test_half_a_character_is_refused_with_its_place() -> None:
    backend = OpenAI("m", base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0)
    request = GenerateRequest(prompt=chat_prompt(("system", "Be brief."), ("user", "a\ud800b")))
    with pytest.raises(InvalidRequest, match=r"messages\[1\]\.content: unpaired surrogate") as caught:
        async for _ in backend.stream(request):
            pass
    assert caught.value.param == "messages[1].content"
    await backend.close()
