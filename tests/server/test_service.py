"""Health, overload, time limits, a dying engine, stopping, and what the log says of it all."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

import aiohttp
import pytest

from stolon.lang.errors import BackendTimeout, EngineClosedError, EngineError, OverloadedError
from stolon.runtime.server import auth
from stolon.runtime.server.app import App
from stolon.runtime.server.connection import listen
from stolon.runtime.server.service import Service
from stolon.runtime.server.settings import ServerConfig
from tests.server.conftest import Running, StartServer
from tests.server.expected import GOOD, refused
from tests.server.fake import FakeEngine
from tests.server.raw import until

TEXT = "/v1/completions"
ROUTES = list(GOOD)


async def status(server: Running, path: str) -> int:
    async with server.http.get(path) as reply:
        return reply.status


async def test_a_living_engine_is_healthy_and_ready(server: Running) -> None:
    assert await status(server, "/health") == await status(server, "/ready") == 200


async def test_a_dead_engine_is_neither(server: Running) -> None:
    server.engine.heartbeat.alive = False
    async with server.http.get("/health") as reply:
        await refused(reply, 503, "engine_unavailable", None)
    assert await status(server, "/ready") == 503
    for route in ROUTES:
        async with server.http.post(route, json=GOOD[route]) as reply:
            await refused(reply, 503, "engine_unavailable", None)
            assert int(reply.headers["Retry-After"]) >= 1


async def test_an_engine_that_has_nothing_to_do_need_not_beat(start: StartServer) -> None:
    server = await start(heartbeat_s=5.0)
    server.engine.heartbeat.at_s = time.monotonic() - 1000
    assert await status(server, "/health") == 200


async def test_a_step_may_take_long_but_not_for_ever(start: StartServer) -> None:
    server = await start(heartbeat_s=5.0)
    server.engine.heartbeat.busy = True
    server.engine.heartbeat.at_s = time.monotonic() - 4
    assert await status(server, "/health") == 200
    server.engine.heartbeat.at_s = time.monotonic() - 6
    assert await status(server, "/health") == 503


async def test_health_is_quick_while_many_streams_run(start: StartServer) -> None:
    server = await start(FakeEngine(pace_s=0.01))

    async def one() -> None:
        body = {**GOOD["/generate"], "stream": True, "sampling_params": {"max_new_tokens": 50, "ignore_eos": True}}
        async with server.http.post("/generate", json=body) as reply:
            await reply.read()

    streams = [asyncio.create_task(one()) for _ in range(64)]
    await until(lambda: server.engine.running == 64)
    took: list[float] = []
    for _ in range(20):
        began = time.monotonic()
        assert await status(server, "/health") == 200
        took.append(time.monotonic() - began)
    await asyncio.gather(*streams)
    assert sorted(took)[len(took) // 2] < 0.1


async def test_health_is_quick_while_long_prompts_are_read(server: Running) -> None:
    """A megabyte of text is read by another thread; the fake tokenizer is slowed to what a real one needs."""
    fast = server.engine.tokenizer.encode

    def slow(text: str, *, bos: bool = True) -> list[int]:
        time.sleep(0.5)
        return fast(text, bos=bos)

    server.engine.tokenizer.encode = slow
    asked = asyncio.create_task(server.http.post(TEXT, json={"model": "fake", "prompt": "a" * 70_000}))
    await until(lambda: server.service.in_flight == 1)
    began = time.monotonic()
    assert await status(server, "/health") == 200
    assert time.monotonic() - began < 0.3
    async with await asked as reply:
        await refused(reply, 400, "context_length_exceeded", "prompt")


@pytest.mark.parametrize("wait_s", [None, 0.2, 2.4])
async def test_a_full_queue_says_when_to_come_again(server: Running, wait_s: float | None) -> None:
    server.engine.fail_at, server.engine.failure = 0, OverloadedError("the queue is full", retry_after_s=wait_s)
    for body in (GOOD[TEXT], {**GOOD[TEXT], "stream": True}):
        async with server.http.post(TEXT, json=body) as reply:
            await refused(reply, 503, "overloaded", None)
            assert reply.headers["Retry-After"] == ("3" if wait_s == 2.4 else "1")
            assert len(await reply.read()) <= 1024


async def test_a_time_limit_is_504_before_the_stream_and_an_event_in_it(server: Running) -> None:
    server.engine.fail_at, server.engine.failure = 0, BackendTimeout("the request took longer than 600 s")
    async with server.http.post(TEXT, json=GOOD[TEXT]) as reply:
        await refused(reply, 504, "timeout", None)
    server.engine.fail_at = 2
    async with server.http.post(TEXT, json={**GOOD[TEXT], "stream": True}) as reply:
        raw = await reply.text()
    assert reply.status == 200
    assert '"code": "timeout"' in raw
    assert raw.endswith("\n\n")
    assert "[DONE]" not in raw


@pytest.mark.parametrize(
    "failure", [EngineError("the engine stopped (RuntimeError('x'))"), EngineClosedError("closed")]
)
async def test_an_engine_that_dies_says_so_to_those_in_flight(server: Running, failure: Exception) -> None:
    engine = server.engine

    engine.fail_at, engine.failure = 2, failure
    engine.heartbeat.alive = True
    engine.hold.clear()
    asked = [
        asyncio.create_task(server.http.post(TEXT, json={**GOOD[TEXT], "stream": stream})) for stream in (True, False)
    ]
    await until(lambda: engine.running == 2)
    engine.heartbeat.alive = False
    engine.hold.set()
    async with await asked[0] as stream:
        assert '"code": "engine_died"' in await stream.text()
    async with await asked[1] as whole:
        await refused(whole, 503, "engine_died", None)


async def test_a_failure_of_one_request_by_name_is_told(server: Running) -> None:
    server.engine.fail_at, server.engine.failure = 0, EngineError("the logits are not numbers", code="nan_logits")
    async with server.http.post(TEXT, json=GOOD[TEXT]) as reply:
        assert "not numbers" in await refused(reply, 500, "nan_logits", None)
    server.engine.failure = EngineError("the engine failed at this request: OSError('/home/x/y.py')")
    async with server.http.post(TEXT, json=GOOD[TEXT]) as reply:
        await refused(reply, 500, "internal_error", None)
    # of too much at once: a later try may go well
    server.engine.failure = EngineError("no memory left", code="out_of_memory")
    async with server.http.post(TEXT, json=GOOD[TEXT]) as reply:
        await refused(reply, 503, "out_of_memory", None)
        assert int(reply.headers["Retry-After"]) >= 1


async def test_while_draining_old_requests_end_and_new_ones_are_refused(start: StartServer) -> None:
    server = await start(FakeEngine(pace_s=0.02))
    body = {"text": "abc", "stream": True, "sampling_params": {"max_new_tokens": 20, "ignore_eos": True}}
    old = asyncio.create_task(server.http.post("/generate", json=body))
    await until(lambda: server.engine.running == 1)
    server.service.refuse_new()
    for route in ROUTES:
        async with server.http.post(route, json=GOOD[route]) as reply:
            await refused(reply, 503, "shutting_down", None)
            assert int(reply.headers["Retry-After"]) >= 1
            assert reply.headers["Connection"] == "close"
    assert await status(server, "/ready") == 503
    assert await status(server, "/health") == 200
    async with await old as reply:
        assert (await reply.text()).endswith("data: [DONE]\n\n")
    await asyncio.wait_for(server.service.idle(), 1)


async def test_what_has_not_ended_at_the_deadline_ends_with_an_error(start: StartServer) -> None:
    server = await start(FakeEngine(pace_s=0.01))
    body = {**GOOD["/generate"], "sampling_params": {"max_new_tokens": 4000, "ignore_eos": True}}
    asked = [
        asyncio.create_task(server.http.post("/generate", json={**body, "stream": stream})) for stream in (True, False)
    ]
    await until(lambda: server.engine.running == 2 and server.engine.heartbeat.steps > 6)
    server.service.refuse_new()
    await server.service.end()
    async with await asked[0] as stream:
        raw = await stream.text()
    assert '"code": "shutting_down"' in raw
    assert "[DONE]" not in raw
    async with await asked[1] as whole:
        await refused(whole, 503, "shutting_down", None)
    assert server.service.in_flight == 0


async def test_while_the_model_is_loaded_every_route_says_so() -> None:
    settings = ServerConfig()
    service = Service(settings)
    sock = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    listener = await listen(App(service, auth.Keys((auth.digest("k"),))).answer, settings, sock)
    try:
        async with aiohttp.ClientSession(url, headers={"Authorization": "Bearer k"}) as http:
            for path in ("/health", "/ready", "/v1/models", "/get_server_info"):
                async with http.get(path) as reply:
                    await refused(reply, 503, "engine_unavailable", None)
            for route in ROUTES:
                async with http.post(route, json=GOOD[route]) as reply:
                    await refused(reply, 503, "engine_unavailable", None)
                    assert reply.headers["Retry-After"]
            service.serve(FakeEngine())
            async with http.get("/ready") as reply:
                assert reply.status == 200
    finally:
        await listener.close()


async def test_the_server_describes_itself(server: Running) -> None:
    for path in ("/get_model_info", "/model_info"):
        async with server.http.get(path) as reply:
            info = await reply.json()
        assert (info["served_model_name"], info["context_length"], info["is_generation"]) == ("fake", 4096, True)
    for path in ("/get_server_info", "/server_info"):
        async with server.http.get(path) as reply:
            assert (await reply.json())["internal_states"] == [server.engine.stats()]


async def test_the_cache_is_flushed_unless_it_is_in_use(start: StartServer) -> None:
    server = await start(FakeEngine(pace_s=0.01))
    assert await status(server, "/flush_cache") == 200
    async with server.http.post("/flush_cache") as reply:
        assert reply.status == 200
    asked = asyncio.create_task(server.http.post("/generate", json={"text": "abcdef"}))
    await until(lambda: server.engine.running == 1)
    async with server.http.post("/flush_cache") as reply:
        await refused(reply, 400, "cache_in_use", None)
    (await asked).release()


async def test_one_line_is_logged_for_each_request_and_nothing_that_clients_wrote(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stolon")
    headers = {"User-Agent": "evil\u2028agent", "X-Request-Id": "mine"}
    async with server.http.post("/generate?q=SECRET", json={"text": "PRIVATE"}, headers=headers) as reply:
        assert reply.headers["X-Request-Id"] == "mine"
    async with server.http.get("/wibble\u2028SECRET") as reply:
        assert reply.status == 404
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("POST /generate 200 ")
    assert lines[0].endswith(" mine")
    assert lines[1].startswith("GET (no route) 404 ")
    assert not any("SECRET" in line or "PRIVATE" in line or "evil" in line for line in lines)
