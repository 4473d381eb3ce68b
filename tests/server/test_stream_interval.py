"""`stream_interval`: an event brings at least so many tokens, but for the first and the last of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, GOOD, MESSAGES, NATIVE, RESPONSES, TEXT
from tests.server.fake import FakeEngine

SAID = "abcdefghij"


@pytest.fixture
async def server(start: StartServer) -> Running:
    return await start(saying())


def saying() -> FakeEngine:
    engine = FakeEngine()
    engine.script = SAID
    return engine


async def events(server: Running, path: str, **more: Any) -> list[Any]:
    body = {**GOOD[path], "max_tokens": 100, "stream": True, **more}
    async with server.http.post(path, json=body) as reply:
        assert reply.status == 200, await reply.text()
        lines = (await reply.text()).split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def texts(found: list[Any], index: int = 0) -> list[str]:
    choices = [choice for event in found for choice in event["choices"] if choice["index"] == index]
    said = [choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices]
    return [text for text in said if text]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (1, list(SAID)),
        (None, list(SAID)),
        (2, ["a", "bc", "de", "fg", "hi", "j"]),
        (4, ["a", "bcde", "fghi", "j"]),
        (9, ["a", "bcdefghij"]),
        (500, ["a", "bcdefghij"]),
    ],
)
async def test_events_bring_so_many_tokens(
    server: Running, path: str, interval: int | None, expected: list[str]
) -> None:
    assert texts(await events(server, path, stream_interval=interval)) == expected


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_each_answer_counts_for_itself_and_nothing_is_lost(server: Running, path: str) -> None:
    more: dict[str, Any] = {"logprobs": 1} if path == TEXT else {"logprobs": True, "top_logprobs": 1}
    usage = {"stream_options": {"include_usage": True}}
    found = await events(server, path, n=3, stream_interval=4, return_token_ids=True, **more, **usage)
    for index in range(3):
        assert texts(found, index) == ["a", "bcde", "fghi", "j"]
        choices = [choice for event in found for choice in event["choices"] if choice["index"] == index]
        assert [id for choice in choices for id in choice.get("token_ids", ())] == [*SAID.encode(), 258]
        entries = [choice["logprobs"] for choice in choices if choice.get("logprobs")]
        assert sum(len(each["tokens" if path == TEXT else "content"]) for each in entries) == 11
    assert found[-1]["usage"]["completion_tokens"] == 3 * 11


async def test_the_operators_interval_holds_where_it_is_larger(start: StartServer) -> None:
    server = await start(saying(), stream_interval=4)
    for asked, expected in ((None, 4), (2, 4), (6, 3)):
        assert len(texts(await events(server, TEXT, stream_interval=asked))) == expected
    for path, body in (
        (NATIVE, {"text": "hello", "incremental": True, "stream": True}),
        (RESPONSES, {**GOOD[RESPONSES], "max_output_tokens": 100, "stream": True}),
        (MESSAGES, {**GOOD[MESSAGES], "max_tokens": 100, "stream": True}),
    ):
        async with server.http.post(path, json=body) as reply:
            whole = await reply.text()
        assert '"bcde"' in whole, path
        assert '"fghi"' in whole, path


async def test_an_error_comes_at_once(start: StartServer) -> None:
    engine = saying()
    engine.fail_at = 3
    found = await events(await start(engine), TEXT, stream_interval=100)
    assert texts(found[:-1]) == ["a"]
    assert found[-1]["error"]["code"] == "internal_error"
