"""Thoughts apart from answers, and constraints that hold after them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stolon.lang.constraint import Constraint
from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, HELLO, refused
from tests.server.fake import FakeEngine, Turns

ASKED: dict[str, Any] = {"model": "fake", "messages": HELLO}
HYBRID = Turns('enable_thinking </think> <tool_call>"name"')
SELDOM = Turns("</think>")
OPENED = Turns("</think>", opening="<think>\n")
CLOSED = Turns("</think>", opening="<think>\n\n</think>\n\n")


async def server_of(start: StartServer, chat: Turns, script: str, **settings: object) -> Running:
    engine = FakeEngine()
    engine.chat, engine.script = chat, script
    return await start(engine, **settings)


async def whole(server: Running, **more: object) -> dict[str, Any]:
    async with server.http.post(CHAT, json={**ASKED, **more}) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def streamed(server: Running, **more: object) -> list[tuple[str, str]]:
    """(kind, text) of the parts in which an answer came."""
    parts: list[tuple[str, str]] = []
    async with server.http.post(CHAT, json={**ASKED, "stream": True, **more}) as reply:
        for line in (await reply.text()).split("\n\n"):
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    parts += [(kind, text) for kind, text in choice["delta"].items() if kind != "role" and text]
    return parts


def of(parts: list[tuple[str, str]], kind: str) -> str:
    return "".join(text for found, text in parts if found == kind)


@pytest.mark.parametrize(
    ("chat", "script"),
    [(HYBRID, "<think>\nhm, 2\n</think>\n\nFour."), (OPENED, "hm, 2\n</think>\n\nFour.")],
    ids=["begun by the model", "begun by the prompt"],
)
async def test_a_thought_comes_apart_whole_and_streamed(start: StartServer, chat: Turns, script: str) -> None:
    server = await server_of(start, chat, script)
    found = await whole(server)
    message = found["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm, 2", "Four.")
    assert found["usage"]["completion_tokens_details"]["reasoning_tokens"] == script.index("Four.")
    parts = await streamed(server)
    assert (of(parts, "reasoning_content"), of(parts, "content")) == ("hm, 2", "Four.")
    assert len([kind for kind, _ in parts if kind == "reasoning_content"]) > 1


async def test_a_thought_can_come_in_one_piece(start: StartServer) -> None:
    server = await server_of(start, HYBRID, "<think>one two</think>three")
    parts = await streamed(server, stream_reasoning=False)
    assert parts[0] == ("reasoning_content", "one two")
    assert of(parts, "content") == "three"


async def test_a_thought_can_stay_in_the_content(start: StartServer) -> None:
    script = "<think>one</think>three"
    server = await server_of(start, HYBRID, script)
    found = await whole(server, separate_reasoning=False)
    assert found["choices"][0]["message"]["content"] == script
    assert of(await streamed(server, separate_reasoning=False), "content") == script


async def test_a_model_that_does_not_think_has_no_reasoning(start: StartServer) -> None:
    server = await server_of(start, CLOSED, "Four.")
    message = (await whole(server))["choices"][0]["message"]
    assert "reasoning_content" not in message
    assert message["content"] == "Four."


async def test_the_operator_can_say_that_a_model_does_not_think(start: StartServer) -> None:
    script = "<think>one</think>three"
    server = await server_of(start, HYBRID, script, reasoning_parser="none")
    assert (await whole(server))["choices"][0]["message"]["content"] == script


async def test_the_operator_can_say_that_a_model_begins_in_its_thought(start: StartServer) -> None:
    server = await server_of(start, Turns(), "one</think>three", reasoning_parser="deepseek-r1")
    assert (await whole(server))["choices"][0]["message"]["reasoning_content"] == "one"


@pytest.mark.parametrize(
    ("chat", "after", "prompt_ends"),
    [
        (HYBRID, "</think>", "assistant: <think>\n"),
        (OPENED, "</think>", "assistant: <think>\n"),
        (CLOSED, "", "</think>\n\n"),
        (SELDOM, "", "assistant: "),
        (Turns(), "", "assistant: "),
    ],
    ids=["thinks unless told", "thinks", "does not think", "may think", "knows no thoughts"],
)
async def test_a_constraint_holds_after_the_thought(
    start: StartServer, chat: Turns, after: str, prompt_ends: str
) -> None:
    server = await server_of(start, chat, "hm</think>{}" if after else "{}")
    message = (await whole(server, response_format={"type": "json_object"}))["choices"][0]["message"]
    assert message["content"] == "{}"
    assert message.get("reasoning_content") == ("hm" if after else None)
    assert server.engine.asked[-1].constraint == Constraint("json_object", after=after)
    text = server.engine.tokenizer.decode(server.engine.asked[-1].prompt)
    assert text.endswith(prompt_ends)


async def test_a_required_call_comes_after_the_thought(start: StartServer) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    server = await server_of(start, HYBRID, f"I call {call}.</think>\n{call}")
    tools = [{"type": "function", "function": {"name": "f"}}]
    for separate in (True, False):
        found = await whole(server, tools=tools, tool_choice="required", separate_reasoning=separate)
        message = found["choices"][0]["message"]
        assert len(message["tool_calls"]) == 1
        assert message["reasoning_content"] == f"I call {call}."


async def test_template_variables_need_the_operators_word(start: StartServer) -> None:
    kwargs = {"enable_thinking": False}
    server = await start()
    async with server.http.post(CHAT, json={**ASKED, "chat_template_kwargs": kwargs}) as reply:
        message = await refused(reply, 400, "unsupported_parameter", "chat_template_kwargs")
        assert "--allow-chat-template-kwargs" in message
    server = await start(allow_chat_template_kwargs=True)
    await whole(server, chat_template_kwargs=kwargs)
    assert 'variables: {"enable_thinking": false}' in server.engine.tokenizer.decode(server.engine.asked[-1].prompt)
    server = await start(default_chat_template_kwargs='{"enable_thinking": false}', allow_chat_template_kwargs=True)
    await whole(server)
    assert 'variables: {"enable_thinking": false}' in server.engine.tokenizer.decode(server.engine.asked[-1].prompt)
    await whole(server, chat_template_kwargs={"enable_thinking": True, "more": 1})
    said = server.engine.tokenizer.decode(server.engine.asked[-1].prompt)
    assert 'variables: {"enable_thinking": true, "more": 1}' in said
    async with server.http.post(CHAT, json={**ASKED, "chat_template_kwargs": {"messages": []}}) as reply:
        await refused(reply, 400, "invalid_value", "chat_template_kwargs.messages")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_thoughts_of_earlier_answers_reach_the_template(start: StartServer, name: str) -> None:
    server = await server_of(start, HYBRID, "yes")
    await whole(server, messages=[*HELLO, {"role": "assistant", "content": "Four.", name: "hm, 2"}, *HELLO])
    shown = server.engine.tokenizer.decode(server.engine.asked[-1].prompt)
    assert 'assistant: Four.{"reasoning_content": "hm, 2"}' in shown


async def test_how_hard_to_think_is_a_variable_of_the_template(start: StartServer) -> None:
    server = await server_of(start, HYBRID, "yes")

    def shown() -> dict[str, Any]:
        text = server.engine.tokenizer.decode(server.engine.asked[-1].prompt, skip_special_tokens=False)
        found = [part for part in text.split("<turn>") if part.startswith("variables: ")]
        return json.loads(found[0].removeprefix("variables: ")) if found else {}

    for effort in ("minimal", "low", "medium", "high", "xhigh", "max"):
        await whole(server, reasoning_effort=effort)
        assert shown() == {"reasoning_effort": effort}
    await whole(server, reasoning_effort="none")
    assert shown() == {"reasoning_effort": "none", "enable_thinking": False, "thinking": False}
    await whole(server, reasoning_effort=None)
    assert shown() == {}


async def test_what_a_request_says_of_the_template_itself_wins(start: StartServer) -> None:
    server = await server_of(start, HYBRID, "yes", allow_chat_template_kwargs=True)
    await whole(server, reasoning_effort="none", chat_template_kwargs={"thinking": True})
    assert '"thinking": true' in server.engine.tokenizer.decode(server.engine.asked[-1].prompt)


async def test_no_thought_is_begun_where_no_answer_is(start: StartServer) -> None:
    server = await server_of(start, HYBRID, "yes")
    await whole(server, regex="yes|no", add_generation_prompt=False)
    asked = server.engine.asked[-1]
    assert server.engine.tokenizer.decode(asked.prompt) == "user: hello"
    assert asked.constraint == Constraint("regex", "yes|no")


async def test_no_thought_is_begun_for_a_model_that_is_told_not_to_think(start: StartServer) -> None:
    server = await server_of(start, HYBRID, "yes")
    for effort, begun in (("high", True), ("none", False)):
        await whole(server, reasoning_effort=effort, regex="yes|no")
        asked = server.engine.asked[-1]
        assert server.engine.tokenizer.decode(asked.prompt).endswith("<think>\n") is begun
        assert asked.constraint is not None
        assert asked.constraint.after == ("</think>" if begun else "")
