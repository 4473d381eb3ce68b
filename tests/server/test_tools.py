"""Tools over HTTP with the official client: what the model is shown, what it must say, and what comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from stolon.lang.errors import InvalidRequest
from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, HELLO, refused
from tests.server.fake import FakeEngine, Turns

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time"}}
ASKED: dict[str, Any] = {"model": "fake", "messages": HELLO, "tools": [WEATHER, TIME]}
PARIS = '{"city": "Paris"}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>'


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def prompt(server: Running) -> str:
    return server.engine.tokenizer.decode(server.engine.asked[-1].prompt, skip_special_tokens=False)


async def test_the_model_sees_the_tools_and_its_call_comes_back(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = f"Let me see.\n{CALL}"
    reply = await client.chat.completions.create(**ASKED)
    (choice,) = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("get_weather", PARIS)
    assert call.id.startswith("call_")
    shown = json.loads(prompt(server).split("<turn>tools: ")[1].split("<turn>")[0])
    assert shown[0] == WEATHER
    assert shown[1]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert server.engine.asked[-1].constraint is None


async def test_a_call_alone_has_no_content(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = CALL
    reply = await client.chat.completions.create(**ASKED)
    assert reply.choices[0].message.content is None


@pytest.mark.parametrize("n", [1, 2])
async def test_streamed_fragments_make_the_calls_of_the_whole_answer(
    server: Running, client: AsyncOpenAI, n: int
) -> None:
    second = CALL.replace("get_weather", "time").replace("Paris", "Rome")
    server.engine.script = f"So: {CALL}\n{second}"
    whole = await client.chat.completions.create(**ASKED, n=n)
    texts, calls, finishes = [""] * n, [{} for _ in range(n)], [""] * n
    fragments = 0
    async for chunk in await client.chat.completions.create(**ASKED, n=n, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        for part in choice.delta.tool_calls or ():
            assert part.function is not None
            known: dict[str, Any] = calls[choice.index].setdefault(part.index, {"id": part.id, "name": "", "args": ""})
            known["name"] += part.function.name or ""
            known["args"] += part.function.arguments or ""
            fragments += 1
        finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    assert fragments > 4 * n
    assert finishes == ["tool_calls"] * n
    for index, choice in enumerate(whole.choices):
        assert choice.message.content == texts[index]
        assert choice.message.tool_calls is not None
        assert [(c.function.name, c.function.arguments) for c in choice.message.tool_calls if c.type == "function"] == [
            (call["name"], call["args"]) for call in calls[index].values()
        ]
        assert all(call["id"] for call in calls[index].values())
        assert list(calls[index]) == [0, 1]


async def test_without_parallel_calls_the_answer_ends_with_the_first(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = f"{CALL}\n{CALL} and more"
    asked = {**ASKED, "parallel_tool_calls": False}
    reply = await client.chat.completions.create(**asked)
    assert reply.choices[0].message.tool_calls is not None
    assert len(reply.choices[0].message.tool_calls) == 1
    assert reply.choices[0].message.content is None
    parts = [
        part
        async for chunk in await client.chat.completions.create(**asked, stream=True)
        for part in chunk.choices[0].delta.tool_calls or ()
    ]
    assert {part.index for part in parts} == {0}


@pytest.mark.parametrize("script", [CALL.replace("get_weather", "other"), "<tool_call>{]</tool_call>", "no call"])
async def test_what_is_no_call_is_content(server: Running, client: AsyncOpenAI, script: str) -> None:
    server.engine.script = script
    for stream in (False, True):
        reply: Any = await client.chat.completions.create(**ASKED, stream=stream)
        if stream:
            chunks = [chunk async for chunk in reply]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            finish = chunks[-1].choices[0].finish_reason
        else:
            text, finish = reply.choices[0].message.content, reply.choices[0].finish_reason
            assert reply.choices[0].message.tool_calls is None
        assert (text, finish) == (script, "stop")


async def test_tool_choice_none_shows_no_tools_and_reads_no_calls(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = CALL
    reply = await client.chat.completions.create(**ASKED, tool_choice="none")
    assert reply.choices[0].message.content == CALL
    assert "tools:" not in prompt(server)


def tags(server: Running) -> dict[str, Any]:
    constraint = server.engine.asked[-1].constraint
    assert constraint is not None
    assert constraint.kind == "tags"
    return json.loads(constraint.text)


async def test_a_required_call_is_made_by_the_constraint(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = CALL
    reply = await client.chat.completions.create(**ASKED, tool_choice="required")
    assert reply.choices[0].message.tool_calls is not None
    found = tags(server)
    assert (found["free"], found["least"], found["most"], found["separator"]) == (False, 1, 128, "\n")
    assert [tag["begin"] for tag in found["tags"]] == [
        f'<tool_call>\n{{"name": "{name}", "arguments": ' for name in ("get_weather", "time")
    ]
    assert found["tags"][0]["schema"] == WEATHER["function"]["parameters"]
    assert found["tags"][1]["schema"]["additionalProperties"] is False
    await client.chat.completions.create(**ASKED, tool_choice="required", parallel_tool_calls=False)
    assert tags(server)["most"] == 1


async def test_an_answer_without_calls_may_have_a_schema(server: Running, client: AsyncOpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    server.engine.script = '{"name": "get_weather", "of": 1}'
    reply = await client.chat.completions.create(**ASKED, response_format=form)
    assert reply.choices[0].message.content == server.engine.script
    assert reply.choices[0].message.tool_calls is None
    found = tags(server)
    assert (found["free"], found["least"], found["most"], found["separator"]) == (False, 1, 128, "\n")
    assert found["tags"][2] == {"begin": "", "schema": {"type": "object"}, "end": "", "alone": True}
    server.engine.script = CALL
    reply = await client.chat.completions.create(**ASKED, response_format={"type": "json_object"})
    assert reply.choices[0].message.tool_calls is not None
    assert reply.choices[0].finish_reason == "tool_calls"
    assert tags(server)["tags"][2]["schema"] == {"type": "object"}
    # where there must be calls, there is no other answer
    await client.chat.completions.create(**ASKED, tool_choice="required", response_format=form)
    assert len(tags(server)["tags"]) == 2


async def test_a_named_tool_is_the_only_one_that_can_be_called(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
    choice: Any = {"type": "function", "function": {"name": "time"}}
    reply = await client.chat.completions.create(**ASKED, tool_choice=choice)
    assert reply.choices[0].message.tool_calls is not None
    found = tags(server)
    assert (len(found["tags"]), found["least"], found["most"]) == (1, 1, 1)
    assert prompt(server).count("get_weather") == 1


def allowed(mode: str, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


async def test_only_allowed_tools_are_called_though_all_are_shown(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = CALL
    await client.chat.completions.create(**ASKED)
    seen = prompt(server)
    reply = await client.chat.completions.create(**ASKED, tool_choice=allowed("required", "get_weather"))
    assert reply.choices[0].message.tool_calls is not None
    found = tags(server)
    assert (found["free"], len(found["tags"]), found["least"], found["most"]) == (False, 1, 1, 128)
    assert '"get_weather"' in found["tags"][0]["begin"]
    await client.chat.completions.create(**ASKED, tool_choice=allowed("auto", "get_weather"))
    found = tags(server)
    assert (found["free"], len(found["tags"]), found["least"]) == (True, 1, 0)
    assert prompt(server) == seen
    # all of them allowed is as good as nothing said
    await client.chat.completions.create(**ASKED, tool_choice=allowed("auto", "time", "get_weather", "time"))
    assert server.engine.asked[-1].constraint is None


@pytest.mark.parametrize("parser", ["llama3", "pythonic"])
async def test_a_call_that_is_not_allowed_is_text(start: StartServer, parser: str) -> None:
    server = await start(tool_call_parser=parser)
    script = {"llama3": '{"name": "get_weather", "parameters": {}}', "pythonic": "[get_weather()]"}[parser]
    server.engine.script = script
    for name, calls in (("time", False), ("get_weather", True)):
        async with server.http.post(CHAT, json={**ASKED, "tool_choice": allowed("auto", name)}) as reply:
            (choice,) = (await reply.json())["choices"]
        assert ("tool_calls" in choice["message"]) is calls
        assert choice["message"]["content"] == (None if calls else script)


async def test_strict_tools_are_kept_to_their_schema_where_the_model_chooses(
    server: Running, client: AsyncOpenAI
) -> None:
    strict: Any = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    await client.chat.completions.create(model="fake", messages=HELLO, tools=[strict, TIME])  # pyright: ignore[reportArgumentType]
    found = tags(server)
    assert (found["free"], found["least"], found["most"]) == (True, 0, None)
    assert found["tags"][0]["schema"] == WEATHER["function"]["parameters"]
    assert found["tags"][1]["schema"] == {"type": "object"}
    assert "strict" not in prompt(server)


async def test_calls_and_results_of_earlier_turns_reach_the_template(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = CALL
    first = await client.chat.completions.create(**ASKED)
    message = first.choices[0].message
    assert message.tool_calls is not None
    server.engine.script = "It is sunny."
    messages: list[Any] = [
        *HELLO,
        message,  # as the client gives it back
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"},
    ]
    reply = await client.chat.completions.create(model="fake", messages=messages, tools=[WEATHER, TIME])  # pyright: ignore[reportArgumentType]
    assert reply.choices[0].message.content == "It is sunny."
    seen = prompt(server)
    assert '"arguments": {"city": "Paris"}' in seen  # an object, as templates write it themselves
    assert f'tool: sunny{{"tool_call_id": "{message.tool_calls[0].id}"}}' in seen


async def test_arguments_that_a_model_got_wrong_stay_as_they_are(server: Running, client: AsyncOpenAI) -> None:
    call: Any = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x'}}
    messages: list[Any] = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    await client.chat.completions.create(model="fake", messages=messages)
    assert '"arguments": "{\\"x"' in prompt(server)


@pytest.mark.parametrize(
    ("parser", "script", "skips"),
    [
        ("llama3_json", '{"name": "get_weather", "parameters": {"city": "Paris"}}', True),
        ("mistral", '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]', False),
        ("pythonic", '[get_weather(city="Paris")]', True),
        ("qwen25", CALL, True),
    ],
)
async def test_the_operator_names_the_format(start: StartServer, parser: str, script: str, skips: bool) -> None:
    server = await start(tool_call_parser=parser)
    server.engine.script = script
    async with server.http.post(CHAT, json=ASKED) as reply:
        (choice,) = (await reply.json())["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": PARIS}
    assert len(call["id"]) == (9 if parser == "mistral" else 29)
    assert server.engine.asked[-1].params.skip_special_tokens is skips


@pytest.mark.parametrize("parameters", [{}, {"properties": {"city": {"type": "string"}}}])
async def test_arguments_are_an_object_also_where_their_schema_does_not_say_so(
    server: Running, client: AsyncOpenAI, parameters: dict[str, Any]
) -> None:
    server.engine.script = CALL
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    await client.chat.completions.create(**{**ASKED, "tools": [tool]}, tool_choice="required")
    constraint = server.engine.asked[-1].constraint
    assert constraint is not None
    assert constraint.text is not None
    assert json.loads(constraint.text)["tags"][0]["schema"] == {"type": "object", **parameters}


async def test_arguments_of_another_type_are_refused(server: Running) -> None:
    tool = {"type": "function", "function": {"name": "say", "parameters": {"type": "string"}}}
    async with server.http.post(CHAT, json={**ASKED, "tools": [tool]}) as reply:
        message = await refused(reply, 400, "invalid_schema", "tools[0].function.parameters")
    assert message.startswith("tools[0].function.parameters.type must be 'object'")


async def test_a_required_call_needs_no_known_format(start: StartServer) -> None:
    engine = FakeEngine()
    engine.chat = Turns("{{ tools }}")
    engine.script = '{"name": "time", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "Paris"}}'
    server = await start(engine)
    async with server.http.post(CHAT, json={**ASKED, "tool_choice": "required"}) as reply:
        (choice,) = (await reply.json())["choices"]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["time", "get_weather"]
    async with server.http.post(CHAT, json=ASKED) as reply:
        assert "--tool-call-parser" in await refused(reply, 400, "unsupported_parameter", "tools")


async def test_a_template_that_shows_no_tools_cannot_be_asked_for_calls(start: StartServer) -> None:
    engine = FakeEngine()
    engine.chat = Turns(takes_tools=False)
    server = await start(engine)
    for choice in ("auto", "required"):
        async with server.http.post(CHAT, json={**ASKED, "tool_choice": choice}) as reply:
            assert "--chat-template" in await refused(reply, 400, "unsupported_parameter", "tools")
    async with server.http.post(CHAT, json={**ASKED, "tool_choice": "none"}) as reply:
        assert reply.status == 200


async def test_strict_tools_are_refused_where_calls_are_no_json(start: StartServer) -> None:
    server = await start(tool_call_parser="pythonic")
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    async with server.http.post(CHAT, json={**ASKED, "tools": [strict]}) as reply:
        await refused(reply, 400, "unsupported_parameter", "tools[0].function.strict")


async def test_a_bad_schema_of_a_tool_is_named_with_its_place(server: Running, client: AsyncOpenAI) -> None:
    server.engine.fail_at = 0
    server.engine.failure = InvalidRequest("tag 1: no", param="tags/1/schema/properties/x", code="invalid_schema")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**ASKED, tool_choice="required")
    assert (caught.value.param, caught.value.code) == (
        "tools[1].function.parameters#/properties/x",
        "invalid_schema",
    )


async def test_log_probabilities_of_calls_are_all_there(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = CALL
    whole = await client.chat.completions.create(**ASKED, logprobs=True)
    chunks = [chunk async for chunk in await client.chat.completions.create(**ASKED, logprobs=True, stream=True)]
    entries = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content or ()]
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.content == entries
    assert "".join(entry.token for entry in entries) == CALL + "<end>"


FIRST_FORM: dict[str, Any] = {"model": "fake", "messages": HELLO, "functions": [WEATHER["function"], TIME["function"]]}


async def test_functions_are_tools_in_their_first_form(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = f"So: {CALL}\n{CALL}"
    await client.chat.completions.create(**ASKED)
    seen = prompt(server)
    reply = await client.chat.completions.create(**FIRST_FORM)
    assert prompt(server) == seen
    (choice,) = reply.choices
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("function_call", "So:", None)
    assert choice.message.function_call is not None
    assert choice.message.function_call.model_dump() == {"name": "get_weather", "arguments": PARIS}
    name, arguments, finishes = "", "", set[str]()
    async for chunk in await client.chat.completions.create(**FIRST_FORM, stream=True):
        (part,) = chunk.choices
        assert part.delta.tool_calls is None
        if part.delta.function_call is not None:
            name += part.delta.function_call.name or ""
            arguments += part.delta.function_call.arguments or ""
        finishes |= {part.finish_reason or ""}
    assert (name, arguments, finishes) == ("get_weather", PARIS, {"", "function_call"})


async def test_a_function_can_be_named_or_kept_from_the_model(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = CALL
    await client.chat.completions.create(**FIRST_FORM, function_call={"name": "get_weather"})
    found = tags(server)
    assert (len(found["tags"]), found["least"], found["most"]) == (1, 1, 1)
    reply = await client.chat.completions.create(**FIRST_FORM, function_call="none")
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (CALL, "stop")
    assert "tools:" not in prompt(server)


async def test_calls_and_results_of_functions_reach_the_template(server: Running, client: AsyncOpenAI) -> None:
    server.engine.script = CALL
    message = (await client.chat.completions.create(**FIRST_FORM)).choices[0].message
    result: Any = {"role": "function", "name": "get_weather", "content": "sunny"}
    server.engine.script = "It is sunny."
    for kept in (message, message.model_dump(), message.model_dump(exclude_none=True)):
        messages: list[Any] = [*HELLO, kept, result]
        reply = await client.chat.completions.create(**{**FIRST_FORM, "messages": messages})
        assert reply.choices[0].message.content == "It is sunny."
        call = (
            '"tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]'
        )
        assert call in prompt(server)
        assert 'tool: sunny{"name": "get_weather"}' in prompt(server)
