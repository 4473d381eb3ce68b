"""Metrics and the request log: what they count, and that nobody's text is in them unless it is asked for."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stolon.runtime.config import EngineConfig
from stolon.runtime.engine import Engine
from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, EMBED, TEXT
from tests.server.fake import FakeEngine
from tests.server.fake_embedder import FakeEmbedder

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scraped(server: Running) -> Samples:
    async with server.http.get("/metrics") as reply:
        assert reply.status == 200
        assert reply.content_type == "text/plain"
        text = await reply.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_answers_are_counted_and_timed(server: Running) -> None:
    for stream in (False, True):
        body = {"model": "fake", "prompt": "abc", "max_tokens": 3, "n": 2, "stream": stream}
        async with server.http.post(TEXT, json=body) as reply:
            await reply.read()
    async with server.http.post(TEXT, json={"model": "other"}) as reply:
        assert reply.status == 404
    found = await scraped(server)
    assert found["stolon:request_success_total", (("finished_reason", "length"),)] == 4
    assert found["stolon:http_requests_total", (("route", TEXT), ("status", "200"))] == 2
    assert found["stolon:http_requests_total", (("route", TEXT), ("status", "404"))] == 1
    assert found["stolon:time_to_first_token_seconds_count", ()] == 2
    assert found["stolon:inter_token_latency_seconds_count", ()] == 2 * 2 * 2
    assert found["stolon:request_prompt_tokens_sum", ()] == 2 * 4
    assert found["stolon:request_generation_tokens_sum", ()] == 2 * 6
    assert found["stolon:http_requests_in_flight", ()] == 0


async def test_the_engines_counters_are_those_of_the_engine(start: StartServer, tiny_checkpoint: Any) -> None:
    engine = Engine(EngineConfig(model_path=str(tiny_checkpoint), served_model_name="fake", kv_tokens=512, threads=1))
    server = await start(engine)
    prompt = list(range(5, 45))
    for _ in range(2):
        async with server.http.post(TEXT, json={"model": "fake", "prompt": prompt, "max_tokens": 4}) as reply:
            assert reply.status == 200
    found = await scraped(server)
    stats: dict[str, Any] = engine.stats()
    assert found["stolon:prompt_tokens_total", ()] == stats["prompt"] == 80
    assert found["stolon:prefix_cache_hits_total", ()] == stats["cached"] == 39
    assert found["stolon:cache_hit_rate", ()] == pytest.approx(39 / 80)
    assert found["stolon:generation_tokens_total", ()] == stats["generated"]
    assert found["stolon:kv_cache_usage_perc", ()] == 0
    assert found["stolon:engine_up", ()] == 1
    assert len({name for name, _ in found}) > 20
    await engine.close()


async def test_embeddings_are_counted_by_route(start: StartServer) -> None:
    server = await start(embedder=FakeEmbedder())
    async with server.http.post(EMBED, json={"model": "fake", "input": "a"}) as reply:
        await reply.read()
    assert (await scraped(server))["stolon:http_requests_total", (("route", EMBED), ("status", "200"))] == 1


async def test_metrics_need_the_key_and_can_be_turned_off(start: StartServer) -> None:
    server = await start(key="k")
    async with server.http.get("/metrics", headers={"Authorization": "Bearer x"}) as reply:
        assert reply.status == 401
    server = await start(metrics=False)
    async with server.http.get("/metrics") as reply:
        assert reply.status == 404


def entries(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "stolon.requests"]


async def asked(server: Running, text: str, **fields: Any) -> None:
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], "max_tokens": 3, **fields}
    async with server.http.post(CHAT, json=body, headers={"X-Request-Id": "mine"}) as reply:
        assert reply.status == 200
        await reply.read()


async def test_nothing_is_logged_of_a_request_unless_asked(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await asked(server, "CANARY")
    assert entries(caplog) == []
    assert "CANARY" not in caplog.text


@pytest.mark.parametrize("level", [0, 1, 2, 3])
async def test_a_level_adds_to_what_a_line_says(
    start: StartServer, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    caplog.set_level(logging.INFO)
    server = await start(log_requests=True, log_requests_level=level)
    await asked(server, "CANARY\u2028" + "x" * 3000, temperature=0.5)
    (entry,) = entries(caplog)
    assert (entry["request_id"], entry["outcome"], entry["finish"]) == ("mine", "done", ["length"])
    assert (entry["completion_tokens"], entry["cached_tokens"]) == (3, 1)
    assert entry["prompt_tokens"] > 3000
    assert entry["ms"] >= entry["first_token_ms"] >= 0
    assert entry.get("sampling") == (None if level == 0 else {"max_tokens": 3, "temperature": 0.5})
    assert ("CANARY" in caplog.text) == (level >= 2)
    assert level < 2 or len(entry["prompt"]) == (2048 if level == 2 else len(entry["prompt"]))
    assert level < 3 or len(entry["prompt"]) > 3000
    assert caplog.text.isascii()


async def test_what_goes_wrong_is_named(start: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = FakeEngine()
    engine.fail_at = 1
    server = await start(engine, log_requests=True)
    async with server.http.post(TEXT, json={"model": "fake", "prompt": "abc", "max_tokens": 3}) as reply:
        assert reply.status == 500
    (entry,) = entries(caplog)
    assert (entry["outcome"], entry["completion_tokens"], entry["finish"]) == ("ValueError", 1, [])
