"""Requests have names: in the answer, in its headers, in the log, and to end them by."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import pytest

from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, GOOD, MESSAGES, NATIVE, RESPONSES, TEXT, refused
from tests.server.fake import FakeEngine
from tests.server.raw import until

ABORT = "/abort_request"
ENDLESS: dict[str, dict[str, Any]] = {
    CHAT: {**GOOD[CHAT], "max_tokens": 4000, "ignore_eos": True},
    TEXT: {**GOOD[TEXT], "max_tokens": 4000, "ignore_eos": True},
    NATIVE: {"text": "hello", "sampling_params": {"max_new_tokens": 4000, "ignore_eos": True}},
}


def id_of(found: Any) -> str:
    return found["meta_info"]["id"] if "meta_info" in found else found["id"]


def finish_of(found: Any) -> str:
    return found["meta_info"]["finish_reason"]["type"] if "meta_info" in found else found["choices"][0]["finish_reason"]


async def ended(server: Running, **body: Any) -> int:
    async with server.http.post(ABORT, json=body) as reply:
        assert reply.status == 200, await reply.text()
        return (await reply.json())["aborted"]


@pytest.fixture
async def slow(start: StartServer) -> Running:
    return await start(FakeEngine(pace_s=0.002))


@pytest.mark.parametrize("path", [CHAT, TEXT, NATIVE])
async def test_a_rid_is_the_id_of_answer_header_and_log(
    start: StartServer, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start(log_requests=True)
    names: list[dict[str, Any]] = [{"rid": "mine"}] + ([] if path == NATIVE else [{"request_id": "mine"}])
    for name in names:
        with caplog.at_level(logging.INFO, "stolon"):
            async with server.http.post(path, json={**GOOD[path], **name}, headers={"X-Request-Id": "other"}) as reply:
                assert id_of(await reply.json()) == reply.headers["X-Request-Id"] == "mine"
        (line,) = [each.getMessage() for each in caplog.records if each.name == "stolon.requests"]
        assert json.loads(line)["request_id"] == "mine"
        assert any(each.getMessage().endswith("ms mine") for each in caplog.records)
        caplog.clear()
    async with server.http.post(path, json=GOOD[path]) as reply:  # on the same connection
        assert "mine" not in (reply.headers["X-Request-Id"], id_of(await reply.json()))


@pytest.mark.parametrize("path", [CHAT, TEXT, NATIVE])
async def test_a_rid_must_fit_into_a_header(server: Running, path: str) -> None:
    for wrong in ("a\r\nSet-Cookie: b", "é", "", "a" * 129):
        async with server.http.post(path, json={**GOOD[path], "rid": wrong}) as reply:
            await refused(reply, 400, "invalid_value", "rid")
    if path != NATIVE:
        async with server.http.post(path, json={**GOOD[path], "rid": "a", "request_id": "b"}) as reply:
            await refused(reply, 400, "invalid_value", "request_id")


@pytest.mark.parametrize("path", [CHAT, TEXT, NATIVE])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_ended_by_its_rid_and_no_other_is(slow: Running, path: str, stream: bool) -> None:
    other = asyncio.create_task(answered(slow, path, rid="b", stream=stream))
    mine = asyncio.create_task(answered(slow, path, rid="a", stream=stream))
    await until(lambda: slow.engine.running == 2)
    assert await ended(slow, rid="c") == 0
    assert await ended(slow, rid="a") == 1
    found = await mine
    assert finish_of(found) == "abort"
    assert not other.done()
    assert await ended(slow, rid="b") == 1
    assert finish_of(await other) == "abort"
    assert await ended(slow, rid="a") == 0
    assert slow.engine.running == slow.engine.aborted == 0


async def answered(server: Running, path: str, *, stream: bool = False, **more: Any) -> Any:
    """The answer; of a stream its last event but the end."""
    async with server.http.post(path, json={**ENDLESS[path], **more, "stream": stream}) as reply:
        assert reply.status == 200, await reply.text()
        if not stream:
            return await reply.json()
        *events, done, rest = (await reply.text()).split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return json.loads(events[-1].removeprefix("data: "))


async def test_the_id_that_a_stream_tells_ends_it(slow: Running) -> None:
    async with slow.http.post(CHAT, json={**ENDLESS[CHAT], "stream": True}) as reply:
        first = json.loads((await reply.content.readline()).decode().removeprefix("data: "))
        assert await ended(slow, rid=first["id"]) == 1
        assert '"finish_reason":"abort"' in await reply.text()


async def test_each_prompt_of_a_batch_may_have_its_own_name(slow: Running) -> None:
    asked = asyncio.create_task(answered(slow, NATIVE, text=["a", "b"], rid=["x", "y"]))
    await until(lambda: slow.engine.running == 2)
    assert await ended(slow, rid="x") == 1
    await until(lambda: slow.engine.running == 1)
    assert await ended(slow, rid="y") == 1
    assert [(id_of(each), finish_of(each)) for each in await asked] == [("x", "abort"), ("y", "abort")]


async def test_all_prompts_and_answers_of_a_request_end_together(slow: Running) -> None:
    asked = asyncio.create_task(answered(slow, TEXT, prompt=["a", "b", "c"], n=2, rid="x"))
    await until(lambda: slow.engine.running == 3)
    assert await ended(slow, rid="x") == 3
    assert [choice["finish_reason"] for choice in (await asked)["choices"]] == ["abort"] * 6


@pytest.mark.parametrize(
    ("path", "most", "id"),
    [(RESPONSES, "max_output_tokens", r'"(resp_\w+)"'), (MESSAGES, "max_tokens", r'"(msg_\w+)"')],
)
async def test_the_other_routes_answers_have_ids_that_end_them(slow: Running, path: str, most: str, id: str) -> None:
    said = {"input": "a" * 1900} if path == RESPONSES else {"messages": [{"role": "user", "content": "a" * 1900}]}
    async with slow.http.post(path, json={"model": "fake", **said, most: 1900, "stream": True}) as reply:
        found = None
        while found is None:
            found = re.search(id, (await reply.content.readline()).decode())
        assert await ended(slow, rid=found[1][:-1]) == 0
        assert await ended(slow, rid=found[1]) == 1
        rest = await reply.text()
    assert "response.incomplete" in rest or "pause_turn" in rest


@pytest.mark.parametrize("stream", [False, True])
async def test_all_are_ended_on_every_route(slow: Running, stream: bool) -> None:
    ask = "a" * 1900
    bodies: dict[str, dict[str, Any]] = {
        RESPONSES: {"input": ask, "max_output_tokens": 1900},
        MESSAGES: {"messages": [{"role": "user", "content": ask}], "max_tokens": 1900},
    }

    async def asked(path: str) -> str:
        async with slow.http.post(path, json={"model": "fake", **bodies[path], "stream": stream}) as reply:
            assert reply.status == 200
            return await reply.text()

    tasks = [asyncio.create_task(asked(path)) for path in bodies]
    await until(lambda: slow.engine.running == 2)
    assert await ended(slow, abort_all=True) == 2
    response, message = await asyncio.gather(*tasks)
    assert '"status":"incomplete","incomplete_details":null' in response
    assert "response.incomplete" in response or not stream
    assert '"stop_reason":"pause_turn"' in message


async def test_whom_to_end_must_be_said(server: Running) -> None:
    for body in ({}, {"rid": ""}, {"abort_all": False}):
        async with server.http.post(ABORT, json=body) as reply:
            await refused(reply, 400, "missing_parameter", "rid")
    async with server.http.post(ABORT, json={"rid": "a", "abort_message": "no"}) as reply:
        await refused(reply, 400, "unsupported_parameter", "abort_message")


async def test_only_the_operator_ends_what_is_not_named(start: StartServer) -> None:
    server = await start(key="k", admin="boss")
    assert await ended(server, rid="a") == 0
    async with server.http.post(ABORT, json={"abort_all": True}) as reply:
        await refused(reply, 401, "invalid_api_key", None)
    async with server.http.post(ABORT, json={"abort_all": True}, headers={"Authorization": "Bearer boss"}) as reply:
        assert reply.status == 200
    assert await ended(await start(key="k"), abort_all=True, rid="") == 0


async def test_vllms_routes_say_that_requests_are_running(slow: Running) -> None:
    task = asyncio.create_task(answered(slow, TEXT, rid="a"))
    await until(lambda: slow.engine.running == 1)
    for path, body in (("/reset_prefix_cache", {"success": False}), ("/load", {"server_load": 1})):
        async with slow.http.request("GET" if path == "/load" else "POST", path) as reply:
            assert (reply.status, await reply.json()) == (200, body)
    assert await ended(slow, rid="a") == 1
    await task


async def test_the_peers_names_of_routes(server: Running) -> None:
    for path, body in (("/reset_prefix_cache", {"success": True}), ("/load", {"server_load": 0})):
        async with server.http.request("GET" if path == "/load" else "POST", path) as reply:
            assert (reply.status, await reply.json()) == (200, body)
    async with server.http.post("/v2/rerank", json={"query": "a", "documents": ["b"]}) as reply:
        assert [each["index"] for each in (await reply.json())["results"]] == [0]
