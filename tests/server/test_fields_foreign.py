"""Fields of SGLang and vLLM: what asks for nothing is taken, what is honoured is seen."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, GOOD, NATIVE, TEXT

ASKS_NOTHING: dict[str, Any] = {
    "log_metrics": True,
    "no_logs": False,
    "return_cached_tokens_details": False,
    "return_hidden_states": False,
    "return_routed_experts": False,
}
OF_OPENAI_ROUTES: dict[str, Any] = {
    **ASKS_NOTHING,
    "spaces_between_special_tokens": True,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "watermark": False,
    "watermarking": False,
    "kv_transfer_params": {},
    "ec_transfer_params": {},
}


async def post(server: Running, path: str, **more: Any) -> Any:
    async with server.http.post(path, json={**GOOD[path], **more}) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_what_asks_for_nothing_changes_nothing(server: Running, path: str) -> None:
    plain = (await post(server, path))["choices"]
    assert (await post(server, path, **OF_OPENAI_ROUTES))["choices"] == plain
    assert (await post(server, path, **dict.fromkeys(OF_OPENAI_ROUTES)))["choices"] == plain


async def test_nor_does_it_on_the_native_route(server: Running) -> None:
    plain = await post(server, NATIVE)
    assert (await post(server, NATIVE, **ASKS_NOTHING, background=False))["text"] == plain["text"]


@pytest.mark.parametrize("path", [CHAT, TEXT, NATIVE])
@pytest.mark.parametrize("stream", [False, True])
async def test_no_logs_keeps_one_request_out_of_the_log(
    start: StartServer, path: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start(log_requests=True, log_requests_level=3)
    with caplog.at_level(logging.INFO, "stolon.requests"):
        for quiet in (True, False, None, True):  # on one connection
            body = {**GOOD[path], "no_logs": quiet, "stream": stream}
            async with server.http.post(path, json=body, headers={"X-Request-Id": str(quiet)}) as reply:
                assert reply.status == 200
                await reply.read()
    logged = [
        json.loads(record.getMessage())["request_id"] for record in caplog.records if record.name == "stolon.requests"
    ]
    assert logged == ["False", "None"]


async def test_the_native_route_repeats_the_prompts_ids(server: Running) -> None:
    asked: dict[str, Any] = {"text": ["ab", "c"], "return_prompt_token_ids": True}
    found = await post(server, NATIVE, **asked)
    assert [each["prompt_token_ids"] for each in found] == [each.prompt for each in server.engine.asked]
    assert "prompt_token_ids" not in await post(server, NATIVE)
    async with server.http.post(NATIVE, json={"text": "ab", "return_prompt_token_ids": True, "stream": True}) as reply:
        first = json.loads((await reply.text()).split("\n\n")[0].removeprefix("data: "))
    assert first["prompt_token_ids"] == server.engine.asked[0].prompt
