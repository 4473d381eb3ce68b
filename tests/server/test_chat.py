"""The official client, unmodified, against /v1/chat/completions and /v1/models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessage
from pydantic import BaseModel

from stolon.lang.types import SamplingParams
from tests.server.conftest import Running
from tests.server.fake import END, TURN, FakeEngine


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


ASKED: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "abc"}]}


async def test_an_answer_has_text_reason_and_usage(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(**ASKED, max_tokens=4)
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == " :tn"
    assert choice.finish_reason == "length"
    assert reply.object == "chat.completion"
    assert reply.model == "fake"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 4
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 4
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 1


@pytest.mark.parametrize("n", [1, 3])
async def test_a_stream_says_what_the_whole_answer_says(client: AsyncOpenAI, n: int) -> None:
    asked = {**ASKED, "n": n}
    whole = await client.chat.completions.create(**asked)
    stream = await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    texts = [""] * n
    roles: list[str | None] = [None] * n
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] = roles[choice.index] or choice.delta.role
    assert texts == [choice.message.content for choice in whole.choices]
    assert roles == ["assistant"] * n
    finishes = [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason]
    assert finishes == [c.finish_reason for c in whole.choices] == ["stop"] * n
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_without_the_option_has_no_usage(client: AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await client.chat.completions.create(**ASKED, stream=True)]
    assert all(chunk.choices for chunk in chunks)


@pytest.mark.parametrize("route", ["chat", "text"])
async def test_a_stream_can_say_in_every_event_what_it_has_cost(client: AsyncOpenAI, route: str) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    more: dict[str, Any] = {"stream": True, "stream_options": options, "max_tokens": 5}
    if route == "chat":
        stream: Any = await client.chat.completions.create(**ASKED, **more)
    else:
        stream = await client.completions.create(model="fake", prompt="abcdefgh", **more)
    chunks = [chunk async for chunk in stream]
    made = [chunk.usage.completion_tokens for chunk in chunks]
    assert made == sorted(made)
    assert made[-1] == made[-2] == 5
    assert len(set(made)) >= 5
    assert len({chunk.usage.prompt_tokens for chunk in chunks}) == 1
    assert chunks[-1].choices == []


async def test_a_stream_is_plain_events_that_end_with_done(server: Running) -> None:
    async with server.http.post("/v1/chat/completions", json={**ASKED, "stream": True}) as reply:
        assert reply.content_type == "text/event-stream"
        raw = await reply.text()
    events = raw.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    for event in events[:-2]:
        assert event.startswith("data: {")
        json.loads(event[6:], parse_constant=pytest.fail)


async def test_every_parameter_reaches_the_engine(server: Running, client: AsyncOpenAI) -> None:
    await client.chat.completions.create(
        **ASKED,
        max_completion_tokens=9,
        n=2,
        temperature=0.5,
        top_p=0.25,
        frequency_penalty=-1.5,
        presence_penalty=1.5,
        seed=-7,
        stop=["xx", "yy"],
        logit_bias={"65": -100, "66": 2},
        logprobs=True,
        top_logprobs=2,
        user="someone",
        store=False,
        metadata={"a": "b"},
        extra_body={
            "top_k": 40,
            "min_p": 0.125,
            "repetition_penalty": 1.25,
            "min_tokens": 3,
            "stop_token_ids": [END],
            "allowed_token_ids": [65, END],
            "stop_regex": "z+",
            "ignore_eos": True,
            "skip_special_tokens": False,
            "no_stop_trim": True,
            "cache_salt": "tenant",
            "priority": 3,
        },
    )
    (asked,) = server.engine.asked
    assert asked.params == SamplingParams(
        max_tokens=9,
        min_tokens=3,
        n=2,
        temperature=0.5,
        top_p=0.25,
        top_k=40,
        min_p=0.125,
        frequency_penalty=-1.5,
        presence_penalty=1.5,
        repetition_penalty=1.25,
        logit_bias=((65, -100.0), (66, 2.0)),
        stop=("xx", "yy"),
        stop_token_ids=(END,),
        allowed_token_ids=(65, END),
        stop_regex=("z+",),
        include_stop=True,
        ignore_eos=True,
        skip_special_tokens=False,
        seed=-7,
        logprobs=2,
    )
    assert (asked.salt, asked.priority, asked.timeout_s) == ("tenant", 3, server.service.settings.request_timeout_s)


async def test_without_a_limit_the_answer_may_use_what_is_left(server: Running, client: AsyncOpenAI) -> None:
    await client.chat.completions.create(**ASKED)
    (asked,) = server.engine.asked
    assert len(asked.prompt) + asked.params.max_tokens == server.engine.context_length
    assert asked.params.seed is None


async def test_log_probabilities_are_whole_finite_and_the_same_streamed(client: AsyncOpenAI) -> None:
    asked = {**ASKED, "max_tokens": 5, "logprobs": True, "top_logprobs": 4}
    whole = await client.chat.completions.create(**asked)
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == whole.choices[0].message.content
    for entry in logprobs.content:
        assert entry.bytes == list(entry.token.encode())
        assert entry.logprob == pytest.approx(-ord(entry.token) / 100)
        assert len(entry.top_logprobs) == 4
        assert entry.top_logprobs[3].logprob == -9999.0
    streamed = [
        entry
        async for chunk in await client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or ()
    ]
    assert streamed == logprobs.content


async def test_zero_ranked_log_probabilities_are_those_of_the_tokens_alone(client: AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(**ASKED, max_tokens=3, logprobs=True)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [len(entry.top_logprobs) for entry in logprobs.content] == [0, 0, 0]


async def test_parts_of_text_are_one_text_and_a_developer_is_the_system(server: Running, client: AsyncOpenAI) -> None:
    await client.chat.completions.create(
        model="fake",
        messages=[
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": ""},
        ],
    )
    (asked,) = server.engine.asked
    text = server.engine.tokenizer.decode(asked.prompt, skip_special_tokens=False)
    assert text == "<s><turn>system: be kind<turn>user: ab<turn>assistant: <turn>assistant: "


async def test_the_last_message_is_continued_where_that_is_asked_for(server: Running, client: AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "so "}]
    for extra in ({}, {"add_generation_prompt": False}):
        await client.chat.completions.create(
            model="fake", messages=messages, extra_body={"continue_final_message": True, **extra}
        )
    for asked in server.engine.asked:
        assert asked.prompt[-len("so ") :] == list(b"so ")
        assert asked.prompt.count(TURN) == 2


async def test_fields_of_openais_that_change_nothing_are_taken(client: AsyncOpenAI) -> None:
    more: dict[str, Any] = {"modalities": ["text"], "safety_identifier": "somebody"}
    more |= {"prompt_cache_key": "a", "prompt_cache_retention": "24h"}
    whole = await client.chat.completions.create(**ASKED, **more)
    text = ""
    options: Any = {"include_obfuscation": False}
    async for chunk in await client.chat.completions.create(**ASKED, stream=True, stream_options=options):
        text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content


async def test_the_synchronous_client_works_too(server: Running) -> None:
    def talk() -> tuple[str | None, str]:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            whole = client.chat.completions.create(**ASKED)
            parts = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**ASKED, stream=True)]
            return whole.choices[0].message.content, "".join(parts)

    whole, streamed = await asyncio.to_thread(talk)
    assert whole == streamed == "user: abcassistant: "[::-1]


async def test_models_can_be_listed_and_asked_for(client: AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    assert (model.id, model.object, model.owned_by) == ("fake", "model", "stolon")
    assert (await client.models.retrieve("fake")).id == "fake"
    assert (await client.models.retrieve("default")).id == "fake"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("org/other")
    assert caught.value.code == "model_not_found"


async def test_errors_reach_the_client_as_its_own_kinds(server: Running, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(**ASKED, temperature=9)
    assert (bad.value.param, bad.value.type, bad.value.code) == (
        "temperature",
        "invalid_request_error",
        "invalid_value",
    )
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(**{**ASKED, "model": "x"})
    server.engine.fail_at = 0
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(**ASKED)


async def test_an_error_before_the_first_token_of_a_stream_has_a_status(server: Running, client: AsyncOpenAI) -> None:
    server.engine.fail_at = 0
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(**ASKED, stream=True)


async def _until_error(stream: Any, caught: list[openai.APIError]) -> AsyncIterator[Any]:
    try:
        async for chunk in stream:
            yield chunk
    except openai.APIError as error:
        caught.append(error)


async def test_an_error_in_a_stream_is_its_last_event(server: Running, client: AsyncOpenAI) -> None:
    server.engine.fail_at = 3
    stream = await client.chat.completions.create(**ASKED, stream=True)
    caught: list[openai.APIError] = []
    texts = [chunk.choices[0].delta.content async for chunk in _until_error(stream, caught)]
    assert "".join(text or "" for text in texts) == " :t"
    assert [error.code for error in caught] == ["internal_error"]
    async with server.http.post("/v1/chat/completions", json={**ASKED, "stream": True}) as reply:
        raw = await reply.text()
    assert "[DONE]" not in raw
    assert "secret" not in raw
    assert json.loads(raw.split("\n\n")[-2].removeprefix("data: "))["error"]["type"] == "server_error"


async def test_a_text_of_any_characters_arrives_as_it_is(server: Running, client: AsyncOpenAI) -> None:
    """The fake engine answers in Latin letters of all codes, so quotes, controls and accents are among them."""
    text = "".join(map(chr, range(1, 128)))
    stream = await client.completions.create(model="fake", prompt=text, max_tokens=127, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == text[::-1]
    assert isinstance(server.engine, FakeEngine)


def back(message: ChatCompletionMessage) -> list[dict[str, Any]]:
    """A message as programs keep it, in each of the ways in which they do."""
    # pydantic does not expect what its own client has put into `parsed`
    ways: list[dict[str, Any]] = [{}, {"exclude_none": True}, {"exclude_unset": True}, {"mode": "json"}]
    return [message.model_dump(**way, warnings=False) for way in ways]


@pytest.mark.parametrize("calls", [False, True], ids=["text", "calls"])
async def test_an_answer_can_be_sent_back_as_the_client_keeps_it(
    server: Running, client: AsyncOpenAI, calls: bool
) -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    server.engine.script = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' if calls else "Four."
    message = (await client.chat.completions.create(**ASKED, tools=[tool])).choices[0].message
    assert (message.tool_calls is not None) is calls
    for kept in back(message):
        await client.chat.completions.create(**{**ASKED, "messages": [*ASKED["messages"], kept]})
        text = server.engine.tokenizer.decode(server.engine.asked[-1].prompt, skip_special_tokens=False)
        said = text.split("<turn>")[2]
        if calls:
            assert '"arguments": {"a": 1}' in said
        else:
            assert said == "assistant: Four."


async def test_a_parsed_answer_can_be_sent_back(server: Running, client: AsyncOpenAI) -> None:
    class Sum(BaseModel):
        value: int

    server.engine.script = '{"value": 4}'
    message = (await client.chat.completions.parse(**ASKED, response_format=Sum)).choices[0].message
    assert message.parsed == Sum(value=4)
    for kept in back(message):
        await client.chat.completions.create(**{**ASKED, "messages": [*ASKED["messages"], kept]})
        assert server.engine.tokenizer.decode(server.engine.asked[-1].prompt).count("value") == 1


@pytest.mark.parametrize(
    "said",
    [
        {"content": [{"type": "text", "text": "I "}, {"type": "refusal", "refusal": "cannot"}]},
        {"content": None, "refusal": "I cannot", "audio": None, "function_call": None, "name": None},
        {"content": "I cannot", "refusal": None, "annotations": []},
    ],
)
async def test_a_refusal_is_what_the_assistant_said(server: Running, said: dict[str, Any]) -> None:
    asked = {**ASKED, "messages": [*ASKED["messages"], {"role": "assistant", **said}]}
    async with server.http.post("/v1/chat/completions", json=asked) as reply:
        assert reply.status == 200, await reply.text()
    text = server.engine.tokenizer.decode(server.engine.asked[-1].prompt, skip_special_tokens=False)
    assert text.split("<turn>")[2] == "assistant: I cannot"
