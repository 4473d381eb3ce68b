"""Metrics and the request log: what they count, and that nobody's text is in them unless it is asked for."""

from __future__ import annotations

import asyncio
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
from tests.server.raw import until

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
    engine = Engine(
        EngineConfig(model_path=str(tiny_checkpoint), served_model_name=("fake",), kv_tokens=512, threads=1)
    )
    server = await start(engine)
    async with server.http.get("/v1/models") as reply:
        assert (await reply.json())["data"][0]["max_model_len"] == 512 < engine.context_length
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


@pytest.mark.parametrize("level", [0, 2])
async def test_work_that_writes_no_text_has_a_line_of_its_own(
    start: StartServer, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    caplog.set_level(logging.INFO)
    server = await start(log_requests=True, log_requests_level=level)
    embeds = await start(embedder=FakeEmbedder(), log_requests=True, log_requests_level=level)
    embed_input = {"model": embeds.service.served.model_name, "input": ["ab", "c"]}
    for each, path, body, kind, texts in (
        (server, "/tokenize", {"prompt": "CANARY"}, "tokenize", 1),
        (server, "/detokenize", {"tokens": [67, 68]}, "detokenize", 1),
        (server, "/score", {"text": "a", "options": ["b", "cd"]}, "score", 2),
        (embeds, EMBED, embed_input, "embed", 2),
        (embeds, "/rerank", {"query": "a", "documents": ["b", "c"]}, "embed", 3),
        (embeds, "/v1/score", {"text_1": "a", "text_2": "b"}, "embed", 2),
    ):
        caplog.clear()
        async with each.http.post(path, json=body, headers={"X-Request-Id": "mine"}) as reply:
            assert reply.status == 200, await reply.text()
        (entry,) = entries(caplog)
        assert (entry["request_id"], entry["kind"], entry["outcome"]) == ("mine", kind, "done")
        assert entry["texts"] == texts
        assert entry["prompt_tokens"] >= texts
        assert entry["ms"] >= 0
        assert len(entry.get("prompts", ())) == (texts if level == 2 else 0)
        assert ("CANARY" in caplog.text) == (level == 2 and kind == "tokenize")
        assert "sampling" not in entry


async def test_work_that_fails_or_is_left_is_named_in_the_log(
    start: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    embedder = FakeEmbedder()
    server = await start(embedder=embedder, log_requests=True)
    async with server.http.post(EMBED, json={"model": "fake", "input": "x" * 65}) as reply:
        assert reply.status == 400
    embedder.hold.clear()
    asked = asyncio.create_task(server.http.post(EMBED, json={"model": "fake", "input": "x"}))
    await until(lambda: embedder.running == 1)
    asked.cancel()
    await until(lambda: embedder.running == 0)
    assert [entry["outcome"] for entry in entries(caplog)] == ["ContextLengthError", "abort"]
