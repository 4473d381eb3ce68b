"""/v1/messages with Anthropic's client: whole and streamed, text, thoughts and calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.server.conftest import Running, StartServer
from tests.server.expected import GOOD, MESSAGES, refused
from tests.server.fake import FakeEngine, Turns

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ASKED: dict[str, Any] = {"model": "fake", "max_tokens": 500, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def server(start: StartServer) -> Running:
    """A model that may think, and call tools, behind a key."""
    engine = FakeEngine()
    engine.chat = Turns('enable_thinking </think> <tool_call>{"name"')
    return await start(engine, key="sk-1")


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=server.url, api_key="sk-1", max_retries=0) as client:
        yield client


def prompt(server: Running) -> str:
    return server.engine.tokenizer.decode(server.engine.asked[-1].prompt, skip_special_tokens=False)


async def test_an_answer_has_text_reason_and_usage(server: Running, client: AsyncAnthropic) -> None:
    server.engine.script = "Hello."
    reply = await client.messages.create(
        **ASKED, system="Be kind.", stop_sequences=["xx"], extra_body={"temperature": 0.5, "top_k": 7}
    )
    (block,) = reply.content
    assert block.type == "text"
    assert block.text == "Hello."
    assert (reply.stop_reason, reply.stop_sequence, reply.role, reply.model) == ("end_turn", None, "assistant", "fake")
    assert reply.usage.output_tokens == 7
    assert reply.usage.cache_read_input_tokens == 1
    assert reply.usage.input_tokens == len(server.engine.asked[-1].prompt) - 1
    assert prompt(server) == "<s><turn>system: Be kind.<turn>user: hi<turn>assistant: "
    params = server.engine.asked[-1].params
    assert (params.temperature, params.top_k, params.stop, params.max_tokens) == (0.5, 7, ("xx",), 500)


async def test_an_answer_that_is_cut_says_so(server: Running, client: AsyncAnthropic) -> None:
    reply = await client.messages.create(**{**ASKED, "max_tokens": 3})
    assert reply.stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("script", "kinds", "reason"),
    [
        ("Hello.", ["text"], "end_turn"),
        (f"So: {CALL}\n{CALL}", ["text", "tool_use", "tool_use"], "tool_use"),
        (f"<think>\nhm\n</think>\nWell. {CALL}", ["thinking", "text", "tool_use"], "tool_use"),
        ("", [], "end_turn"),
    ],
)
async def test_a_stream_makes_the_message_of_the_whole_answer(
    server: Running, client: AsyncAnthropic, script: str, kinds: list[str], reason: str
) -> None:
    server.engine.script = script
    asked = {**ASKED, "tools": [WEATHER]}
    whole = await client.messages.create(**asked)
    assert [block.type for block in whole.content] == kinds
    async with client.messages.stream(**asked) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_message()

    def shape(message: Any) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in block.model_dump(exclude_none=True).items() if key != "id"}
            for block in message.content
        ]

    assert shape(final) == shape(whole)
    assert final.stop_reason == whole.stop_reason == reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    if "tool_use" in kinds:
        assert shape(whole)[-1]["input"] == {"city": "Paris"}
    assert events[0].type == "message_start"
    assert events[-1].type == "message_stop"


async def test_calls_and_results_can_be_sent_back(server: Running, client: AsyncAnthropic) -> None:
    server.engine.script = f"<think>hm</think>I look. {CALL}"
    first = await client.messages.create(**{**ASKED, "tools": [WEATHER]})
    use = first.content[-1]
    assert use.type == "tool_use"
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "sunny"}]}
    failed = {"type": "tool_result", "tool_use_id": "x", "content": "gone", "is_error": True}
    messages: list[Any] = [
        *ASKED["messages"],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result, failed, {"type": "text", "text": "so?"}]},
    ]
    server.engine.script = "It is sunny."
    await client.messages.create(**{**ASKED, "messages": messages, "tools": [WEATHER]})
    seen = prompt(server)
    assert "<turn>assistant: I look." in seen
    assert '"reasoning_content": "hm"' in seen
    assert '"arguments": {"city": "Paris"}' in seen
    assert f'<turn>tool: sunny{{"tool_call_id": "{use.id}"}}<turn>tool: Error: gone' in seen
    assert seen.endswith("<turn>user: so?<turn>assistant: ")


@pytest.mark.parametrize(
    ("choice", "least", "most"),
    [
        ({"type": "any"}, 1, 128),
        ({"type": "any", "disable_parallel_tool_use": True}, 1, 1),
        ({"type": "tool", "name": "get_weather"}, 1, 1),
    ],
)
async def test_a_call_can_be_required(
    server: Running, client: AsyncAnthropic, choice: Any, least: int, most: int
) -> None:
    server.engine.script = f"</think>{CALL}"
    await client.messages.create(**{**ASKED, "tools": [WEATHER]}, tool_choice=choice)
    constraint = server.engine.asked[-1].constraint
    assert constraint is not None
    found = json.loads(constraint.text)
    assert (found["least"], found["most"]) == (least, most)


async def test_an_answer_can_be_begun(server: Running, client: AsyncAnthropic) -> None:
    messages: list[Any] = [*ASKED["messages"], {"role": "assistant", "content": "Well, "}]
    await client.messages.create(**{**ASKED, "messages": messages})
    assert prompt(server).endswith("<turn>assistant: Well, ")


@pytest.mark.parametrize(
    ("thinking", "is_on"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "enabled", "budget_tokens": 1024, "display": "summarized"}, True),
        ({"type": "adaptive"}, True),
        ({"type": "disabled"}, False),
    ],
)
async def test_thinking_is_switched_where_the_template_can(
    server: Running, client: AsyncAnthropic, thinking: Any, is_on: bool
) -> None:
    server.engine.script = "<think>hm</think>Four."
    reply = await client.messages.create(**{**ASKED, "max_tokens": 1025}, thinking=thinking)
    assert [block.type for block in reply.content] == ["thinking", "text"]
    said = {"enable_thinking": is_on, "thinking": is_on}
    assert f"variables: {json.dumps(said)}<turn>" in prompt(server)
    counted = await client.messages.count_tokens(model="fake", messages=ASKED["messages"], thinking=thinking)
    assert counted.input_tokens == len(server.engine.asked[-1].prompt)
    await client.messages.create(**ASKED)
    assert "variables" not in prompt(server)


async def test_a_budget_is_less_than_all_tokens(server: Running, client: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"less than max_tokens \(1024\), got 1024"):
        await client.messages.create(
            **{**ASKED, "max_tokens": 1024}, thinking={"type": "enabled", "budget_tokens": 1024}
        )
    assert server.engine.asked == []


async def test_tokens_are_counted_and_not_computed(server: Running, client: AsyncAnthropic) -> None:
    found = await client.messages.count_tokens(model="fake", messages=ASKED["messages"])
    assert server.engine.asked == []
    await client.messages.create(**ASKED)
    assert found.input_tokens == len(server.engine.asked[-1].prompt)


async def test_an_error_in_a_stream_is_its_last_event(server: Running, client: AsyncAnthropic) -> None:
    server.engine.script = "Hello."
    server.engine.fail_at = 3
    stream = await client.messages.create(**ASKED, stream=True)
    seen = [await anext(stream) for _ in range(5)]
    assert [event.type for event in seen[2:]] == ["content_block_delta"] * 3
    with pytest.raises(anthropic.APIError):
        await anext(stream)


async def test_a_wrong_key_is_refused(server: Running) -> None:
    async with AsyncAnthropic(base_url=server.url, api_key="sk-2", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.create(**ASKED)


def of_user(block: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [block]}]}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"max_tokens": None}, "missing_parameter", "max_tokens"),
    ({"messages": []}, "invalid_value", "messages"),
    ({"messages": [{"role": "user", "content": []}]}, "invalid_value", "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "invalid_value", "messages[0].role"),
    (of_user({"type": "image", "source": {}}), "unsupported_content", "messages[0].content[0].type"),
    (
        of_user({"type": "tool_use", "id": "a", "name": "f", "input": {}}),
        "invalid_value",
        "messages[0].content[0].type",
    ),
    (of_user({"text": "x"}), "missing_parameter", "messages[0].content[0].type"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "invalid_value", "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled"}}, "missing_parameter", "thinking.budget_tokens"),
    ({"thinking": {"type": "adaptive", "budget_tokens": 1024}}, "unknown_parameter", "thinking.budget_tokens"),
    ({"thinking": {"type": "adaptive", "display": "omitted"}}, "invalid_value", "thinking.display"),
    ({"thinking": {"type": "often"}}, "invalid_value", "thinking.type"),
    ({"thinking": {}}, "invalid_value", "thinking.type"),
    ({"thinking": True}, "invalid_type", "thinking"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "unsupported_parameter", "tools[0].type"),
    ({"tools": [{"name": "f"}]}, "missing_parameter", "tools[0].input_schema"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "g"}}, "invalid_value", "tool_choice.name"),
    ({"tool_choice": {"type": "any"}}, "invalid_value", "tool_choice"),
    ({"stop_sequences": [""]}, "invalid_value", "stop_sequences[0]"),
    ({"stop": "x"}, "unsupported_parameter", "stop"),
    ({"mcp_servers": []}, "unsupported_parameter", "mcp_servers"),
]


@pytest.mark.parametrize(("fields", "code", "param"), BAD, ids=[str(fields)[:50] for fields, _, _ in BAD])
async def test_what_cannot_be_is_refused_by_name(
    server: Running, fields: dict[str, Any], code: str, param: str
) -> None:
    async with server.http.post(MESSAGES, json={**GOOD[MESSAGES], **fields}) as reply:
        await refused(reply, 400, code, param)
    assert server.engine.asked == []
