"""Routes of embedding models: /v1/embeddings, and what they share with generating ones."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI

from stolon.runtime.config import EngineConfig
from stolon.runtime.embed import EmbeddingEngine
from tests.runtime.embedders import make_embedder
from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, DETOKENIZE, EMBED, GOOD, NATIVE, SCORE, TEXT, TOKENIZE, refused
from tests.server.fake_embedder import FakeEmbedder
from tests.server.raw import until


@pytest.fixture
async def embedding(start: StartServer) -> Running:
    return await start(embedder=FakeEmbedder())


@pytest.fixture(scope="module", params=["qwen2", "bert-mean"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingEngine]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    make_embedder(request.param, folder)
    engine = EmbeddingEngine(EngineConfig(model_path=str(folder), served_model_name=("fake",), threads=1))
    yield engine
    engine.shutdown()


async def asked(server: Running, **body: Any) -> dict[str, Any]:
    async with server.http.post(EMBED, json={"model": "fake", **body}) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def test_an_answer_has_openais_shape(embedding: Running) -> None:
    whole = await asked(embedding, input="Once upon a time")
    assert whole["object"] == "list"
    assert whole["model"] == "fake"
    assert whole["usage"] == {"prompt_tokens": 16, "total_tokens": 16}
    (entry,) = whole["data"]
    assert (entry["object"], entry["index"], len(entry["embedding"])) == ("embedding", 0, 26)


@pytest.mark.parametrize(
    "given", ["abc", ["abc"], [97, 98, 99], [[97, 98, 99]]], ids=["text", "texts", "tokens", "lists of tokens"]
)
async def test_texts_and_tokens_alone_and_in_lists_mean_the_same(embedding: Running, given: Any) -> None:
    (entry,) = (await asked(embedding, input=given))["data"]
    assert np.allclose(entry["embedding"][:4], [3**-0.5] * 3 + [0], atol=0.01)


async def test_the_vectors_of_a_batch_come_in_its_order(embedding: Running) -> None:
    data = (await asked(embedding, input=["a", "b", "c"]))["data"]
    assert [np.argmax(entry["embedding"]) for entry in data] == [0, 1, 2]
    assert [entry["index"] for entry in data] == [0, 1, 2]


async def test_base64_says_the_same_as_numbers(embedding: Running) -> None:
    plain = (await asked(embedding, input="abc"))["data"][0]["embedding"]
    packed = (await asked(embedding, input="abc", encoding_format="base64"))["data"][0]["embedding"]
    assert struct.unpack("<26f", base64.b64decode(packed)) == pytest.approx(plain, abs=1e-7)


async def test_the_openai_client_reads_it(start: StartServer, real: EmbeddingEngine) -> None:
    server = await start(embedder=real)
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        texts = ["Once upon a time", "there was a town", "x"]
        found = await client.embeddings.create(model="fake", input=texts)
        plain = await client.embeddings.create(model="fake", input=texts[0], encoding_format="float")
        short = await client.embeddings.create(model="fake", input=texts[0], dimensions=8)
    assert [entry.index for entry in found.data] == [0, 1, 2]
    assert found.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-5)
    assert np.linalg.norm(found.data[0].embedding) == pytest.approx(1, abs=1e-5)
    kept = np.array(plain.data[0].embedding[:8])
    assert short.data[0].embedding == pytest.approx(kept / np.linalg.norm(kept), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"input": None}, "missing_parameter", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [[]]}, "invalid_value", "input"),
        ({"input": 5}, "invalid_type", "input"),
        ({"input": ["a", 1]}, "invalid_type", "input"),
        ({"input": [259]}, "token_id_out_of_range", "input"),
        ({"input": "a" * 65}, "context_length_exceeded", "input"),
        ({"encoding_format": "int8"}, "invalid_value", "encoding_format"),
        ({"dimensions": 27}, "invalid_value", "dimensions"),
        ({"dimensions": 0}, "invalid_value", "dimensions"),
        ({"dimension": 8}, "unknown_parameter", "dimension"),
        ({"truncate_prompt_tokens": 0}, "invalid_value", "truncate_prompt_tokens"),
        ({"messages": []}, "unsupported_parameter", "messages"),
    ],
)
async def test_a_bad_field_is_refused_by_name(
    embedding: Running, changes: dict[str, Any], code: str, param: str
) -> None:
    async with embedding.http.post(EMBED, json={"model": "fake", "input": "a", **changes}) as reply:
        await refused(reply, 400, code, param)


async def test_a_long_text_is_cut_where_that_is_asked_for(embedding: Running) -> None:
    cut = await asked(embedding, input="a" * 65, truncate_prompt_tokens=-1)
    assert cut["usage"]["prompt_tokens"] == 64
    for given in (["a" * 65, "b"], [[97] * 65, [98]]):
        cut = await asked(embedding, input=given, truncate_prompt_tokens=10)
        assert cut["usage"]["prompt_tokens"] == 11


async def test_another_model_is_not_found(embedding: Running) -> None:
    async with embedding.http.post(EMBED, json={"model": "other", "input": "a"}) as reply:
        await refused(reply, 404, "model_not_found", "model")


@pytest.mark.parametrize("route", [CHAT, TEXT, NATIVE, SCORE])
async def test_an_embedding_model_does_not_generate(embedding: Running, route: str) -> None:
    async with embedding.http.post(route, json=GOOD[route]) as reply:
        message = await refused(reply, 400, "unsupported_route", None)
        assert "makes embeddings" in message


async def test_a_model_that_generates_makes_no_embeddings(server: Running) -> None:
    async with server.http.post(EMBED, json={"model": "fake", "input": "a"}) as reply:
        assert "--is-embedding" in await refused(reply, 400, "unsupported_route", None)


async def test_what_is_asked_of_any_model_is_answered(embedding: Running) -> None:
    for path in ("/health", "/ready", "/health_generate", "/v1/models", "/get_model_info", "/get_server_info"):
        async with embedding.http.get(path) as reply:
            assert reply.status == 200, path
    async with embedding.http.get("/get_model_info") as reply:
        assert (await reply.json())["is_generation"] is False
    for route in (TOKENIZE, DETOKENIZE):
        async with embedding.http.post(route, json=GOOD[route]) as reply:
            assert reply.status == 200, route


async def test_a_client_that_leaves_ends_its_request(embedding: Running) -> None:
    engine: Any = embedding.service.embedder
    engine.hold.clear()
    waiting = asyncio.create_task(embedding.http.post(EMBED, json={"model": "fake", "input": "a"}))
    await until(lambda: engine.running == 1)
    waiting.cancel()
    await until(lambda: engine.running == 0)
    assert engine.aborted == 1
    await until(lambda: embedding.service.in_flight == 0)
