"""/v1/responses with the official client: whole and streamed, text, thoughts and calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from stolon.lang.constraint import Constraint
from tests.server.conftest import Running, StartServer
from tests.server.expected import GOOD, RESPONSES, refused
from tests.server.fake import FakeEngine, Turns

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture
async def server(start: StartServer) -> Running:
    """A model that may think, and call tools."""
    engine = FakeEngine()
    engine.chat = Turns('enable_thinking </think> <tool_call>{"name"')
    return await start(engine)


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def prompt(server: Running) -> str:
    return server.engine.tokenizer.decode(server.engine.asked[-1].prompt, skip_special_tokens=False)


async def test_a_response_has_text_status_and_usage(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = "Hello."
    reply = await client.responses.create(
        model="fake", input="hi", instructions="Be kind.", temperature=0.5, metadata={"a": "b"}, store=False
    )
    assert reply.output_text == "Hello."
    assert (reply.status, reply.object, reply.model, reply.metadata) == ("completed", "response", "fake", {"a": "b"})
    assert reply.id.startswith("resp_")
    assert reply.usage is not None
    assert reply.usage.output_tokens == len("Hello.") + 1
    assert prompt(server) == "<s><turn>system: Be kind.<turn>user: hi<turn>assistant: "
    assert server.engine.asked[-1].params.temperature == 0.5


async def test_a_response_that_is_cut_is_incomplete(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = "Hello."
    reply = await client.responses.create(model="fake", input="hi", max_output_tokens=3)
    assert (reply.status, reply.output_text) == ("incomplete", "Hel")
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    async with client.responses.stream(model="fake", input="hi", max_output_tokens=3) as stream:
        events = [event async for event in stream]
    assert events[-1].type == "response.incomplete"


def shape(response: Response) -> list[dict[str, Any]]:
    """The output without what is made anew each time."""
    items = [item.model_dump(exclude_none=True) for item in response.output]
    return [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in items]


@pytest.mark.parametrize(
    "script",
    ["Hello.", f"So: {CALL}\n{CALL}", f"<think>\nhm\n</think>\nWell. {CALL}", "<think>one</think>two", ""],
    ids=["text", "text and calls", "all", "thought", "nothing"],
)
async def test_a_stream_makes_the_response_of_the_whole_answer(
    server: Running, client: AsyncOpenAI, script: str
) -> None:
    server.engine.script = script
    asked: dict[str, Any] = {"model": "fake", "input": "hi", "tools": [WEATHER]}
    whole = await client.responses.create(**asked)
    raw: list[Any] = [event async for event in await client.responses.create(**asked, stream=True)]
    assert [event.sequence_number for event in raw] == list(range(len(raw)))
    assert [event.type for event in raw[:2]] == ["response.created", "response.in_progress"]
    last = raw[-1]
    assert last.type == "response.completed"
    assert shape(last.response) == shape(whole)
    assert last.response.usage == whole.usage
    texts: dict[str, str] = {}
    for event in raw:
        if event.type in (
            "response.output_text.delta",
            "response.reasoning_text.delta",
            "response.function_call_arguments.delta",
        ):
            texts[event.item_id] = texts.get(event.item_id, "") + event.delta
        elif event.type == "response.function_call_arguments.done":
            assert event.arguments == texts[event.item_id]
        elif event.type in ("response.output_text.done", "response.reasoning_text.done"):
            assert event.text == texts[event.item_id]
    added = [event.item.id for event in raw if event.type == "response.output_item.added"]
    assert added == [item.id for item in last.response.output]
    async with client.responses.stream(**asked) as stream:
        final = await stream.get_final_response()
    assert shape(final) == shape(whole)


async def test_calls_and_results_can_be_sent_back(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = f"<think>hm</think>{CALL}"
    first = await client.responses.create(model="fake", input="hi", tools=[WEATHER])  # pyright: ignore[reportArgumentType]
    thought, call = first.output
    assert (thought.type, call.type) == ("reasoning", "function_call")
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Paris"}
    history: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    server.engine.script = "It is sunny."
    second = await client.responses.create(model="fake", input=history, tools=[WEATHER])  # pyright: ignore[reportArgumentType]
    assert second.output_text == "It is sunny."
    seen = prompt(server)
    assert "<turn>user: hi<turn>assistant: {" in seen
    assert '"reasoning_content": "hm"' in seen
    assert '"arguments": {"city": "Paris"}' in seen
    assert f'<turn>tool: sunny{{"tool_call_id": "{call.call_id}"}}' in seen


async def test_choices_of_tools_are_those_of_chat(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = f"</think>{CALL}"
    choices: list[Any] = ["required", {"type": "function", "name": "get_weather"}]
    for choice in choices:
        await client.responses.create(model="fake", input="hi", tools=[WEATHER], tool_choice=choice)  # pyright: ignore[reportArgumentType]
        constraint = server.engine.asked[-1].constraint
        assert constraint is not None
        assert (constraint.kind, constraint.after) == ("tags", "</think>")


async def test_how_hard_to_think_is_a_variable_of_the_template(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = "<think>hm</think>Four."
    reply = await client.responses.create(model="fake", input="hi", reasoning={"effort": "low", "summary": "auto"})
    assert 'variables: {"reasoning_effort": "low"}' in prompt(server)
    assert reply.reasoning is not None
    assert (reply.reasoning.effort, reply.reasoning.summary) == ("low", None)
    assert [item.type for item in reply.output] == ["reasoning", "message"]
    await client.responses.create(model="fake", input="hi", reasoning={"effort": "none"})
    assert '"enable_thinking": false' in prompt(server)
    await client.responses.create(model="fake", input="hi", reasoning={})
    assert "variables" not in prompt(server)


async def test_what_is_to_be_stored_is_said_not_to_be(server: Running, client: AsyncOpenAI) -> None:
    reply = await client.responses.create(
        model="fake", input="hi", store=True, include=["reasoning.encrypted_content", "file_search_call.results"]
    )
    assert reply.model_dump()["store"] is False
    with pytest.raises(openai.BadRequestError, match="send the whole conversation"):
        await client.responses.create(model="fake", input="more", previous_response_id=reply.id)


async def test_only_allowed_tools_are_called_though_all_are_shown(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = f"</think>{CALL}"
    tools: Any = [WEATHER, {"type": "function", "name": "time"}]
    allowed: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]}
    response = await client.responses.create(model="fake", input="hi", tools=tools, tool_choice=allowed)
    assert response.tool_choice.model_dump() == allowed  # pyright: ignore[reportAttributeAccessIssue]
    constraint = server.engine.asked[-1].constraint
    assert constraint is not None
    assert [tag["schema"] for tag in json.loads(constraint.text)["tags"]] == [WEATHER["parameters"]]
    assert '"time"' in prompt(server)


class Answer(BaseModel):
    a: int


async def test_a_pydantic_model_is_parsed_from_the_response(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = '</think>{"a": 5}'
    reply = await client.responses.parse(model="fake", input="5?", text_format=Answer)
    assert reply.output_parsed == Answer(a=5)
    constraint = server.engine.asked[-1].constraint
    assert constraint is not None
    assert json.loads(constraint.text)["properties"]["a"]["type"] == "integer"
    await client.responses.create(model="fake", input="x", text={"format": {"type": "json_object"}})
    assert server.engine.asked[-1].constraint == Constraint("json_object", after="</think>")


async def test_an_error_in_a_stream_is_an_event(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = "Hello."
    server.engine.fail_at = 3
    stream = await client.responses.create(model="fake", input="hi", stream=True)
    seen = [await anext(stream) for _ in range(7)]
    assert [event.type for event in seen[4:]] == ["response.output_text.delta"] * 3
    with pytest.raises(openai.APIError):
        await anext(stream)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
    ({"store": "yes"}, "invalid_type", "store"),
    ({"background": True}, "unsupported_parameter", "background"),
    ({"truncation": "auto"}, "invalid_value", "truncation"),
    ({"reasoning": {"effort": "huge"}}, "invalid_value", "reasoning.effort"),
    ({"reasoning": {"mode": "pro"}}, "invalid_value", "reasoning.mode"),
    ({"reasoning": {"max_tokens": 5}}, "unknown_parameter", "reasoning.max_tokens"),
    ({"max_tokens": 5}, "unsupported_parameter", "max_tokens"),
    ({"input": 5}, "invalid_type", "input"),
    ({"input": []}, "invalid_value", "input"),
    ({"input": [{"type": "reasoning", "id": "r", "summary": []}]}, "invalid_value", "input"),
    ({"input": [{"role": "root", "content": "x"}]}, "invalid_value", "input[0].role"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_content", "input[0].type"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://127.0.0.1:9/"}]}]},
        "unsupported_content",
        "input[0].content[0].type",
    ),
    ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0].type"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "invalid_value", "tool_choice.name"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "missing_parameter", "text.format.schema"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": None}}},
        "invalid_schema",
        "text.format.schema",
    ),
    ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
    ({"include": ["message.output_text.logprobs"]}, "invalid_value", "include[0]"),
]


@pytest.mark.parametrize(("fields", "code", "param"), BAD, ids=[str(fields)[:50] for fields, _, _ in BAD])
async def test_what_cannot_be_is_refused_by_name(
    server: Running, fields: dict[str, Any], code: str, param: str
) -> None:
    async with server.http.post(RESPONSES, json={**GOOD[RESPONSES], **fields}) as reply:
        await refused(reply, 400, code, param)
    assert server.engine.asked == []
