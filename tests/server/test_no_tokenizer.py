"""`--skip-tokenizer-init`: token ids in, token ids out, and a clear refusal of whatever needs text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from stolon import Runtime
from stolon.lang.errors import InvalidRequest
from stolon.lang.types import SamplingParams
from stolon.runtime.config import EngineConfig
from stolon.runtime.embed import EmbeddingEngine
from stolon.runtime.engine import Engine
from tests.server.conftest import Running, StartServer
from tests.server.fake import FakeEngine

IDS = [5, 60, 70, 80, 90]
HELLO = [{"role": "user", "content": "Hello"}]
GREEDY = {"temperature": 0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def bare(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint without any file of a tokenizer."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(tiny_checkpoint / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def engines(tiny_checkpoint: Path, bare: Path) -> Iterator[tuple[Engine, Engine]]:
    whole = Engine(EngineConfig(model_path=str(tiny_checkpoint), kv_tokens=2048, threads=1))
    without = Engine(EngineConfig(model_path=str(bare), kv_tokens=2048, threads=1, skip_tokenizer_init=True))
    yield whole, without
    whole.shutdown()
    without.shutdown()


class Kept:
    """An engine that outlives the servers of a test."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def close(self, drain_s: float = 0.0) -> None: ...


async def served(start: StartServer, engine: Engine, **fields: object) -> Running:
    return await start(cast("FakeEngine", Kept(engine)), **fields)


async def post(server: Running, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with server.http.post(path, json=body) as reply:
        return reply.status, await reply.json()


async def test_ids_go_in_and_the_same_ids_come_out_without_text(
    start: StartServer, engines: tuple[Engine, Engine]
) -> None:
    body = {"input_ids": IDS, "sampling_params": GREEDY, "return_logprob": True, "return_text_in_logprobs": True}
    (_, whole), (status, without) = [await post(await served(start, each), "/generate", body) for each in engines]
    assert status == 200
    assert without["output_ids"] == whole["output_ids"]
    assert (without["text"], bool(whole["text"])) == ("", True)
    first = without["meta_info"]["output_token_logprobs"][0]
    assert first[1:] == [without["output_ids"][0], f"token_id:{without['output_ids'][0]}"]


async def test_completions_have_the_ids_where_they_are_asked_for(
    start: StartServer, engines: tuple[Engine, Engine]
) -> None:
    body = {"model": "default", "prompt": [IDS, IDS[:2]], "temperature": 0, "max_tokens": 6}
    server = await served(start, engines[1])
    _, plain = await post(server, "/v1/completions", body)
    assert not {"token_ids", "prompt_token_ids"} & set(plain["choices"][0])
    _, found = await post(server, "/v1/completions", {**body, "return_token_ids": True})
    assert [choice["prompt_token_ids"] for choice in found["choices"]] == [IDS, IDS[:2]]
    assert all(choice["text"] == "" and len(choice["token_ids"]) == 6 for choice in found["choices"])
    streamed: dict[int, list[int]] = {}
    prompts: list[tuple[int, list[int]]] = []
    async with server.http.post("/v1/completions", json={**body, "return_token_ids": True, "stream": True}) as reply:
        async for line in reply.content:
            if line.startswith(b"data: {"):
                (choice,) = json.loads(line[6:])["choices"]
                streamed.setdefault(choice["index"], []).extend(choice["token_ids"])
                prompts += [(choice["index"], choice["prompt_token_ids"])] if "prompt_token_ids" in choice else []
    assert [streamed[index] for index in range(2)] == [choice["token_ids"] for choice in found["choices"]]
    assert sorted(prompts) == [(0, IDS), (1, IDS[:2])]


async def test_the_ends_of_answers_are_those_of_the_models_files(bare: Path, tmp_path: Path) -> None:
    def made(folder: Path) -> Engine:
        return Engine(EngineConfig(model_path=str(folder), kv_tokens=512, threads=1, skip_tokenizer_init=True))

    async def answer(engine: Engine) -> list[int]:
        params = SamplingParams(max_tokens=8, temperature=0)
        found = [token async for delta in engine.generate(IDS, params) for token in delta.tokens]
        await engine.close()
        return found

    said = await answer(made(bare))
    folder = shutil.copytree(bare, tmp_path / "ending")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [said[3]]}))
    assert await answer(made(folder)) == said[: said.index(said[3]) + 1]


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"model": "default", "messages": HELLO}),
    ("/v1/responses", {"model": "default", "input": "Hello"}),
    ("/v1/messages", {"model": "default", "messages": HELLO, "max_tokens": 5}),
    ("/v1/messages/count_tokens", {"model": "default", "messages": HELLO}),
    ("/v1/completions", {"model": "default", "prompt": "Hello"}),
    ("/v1/completions", {"model": "default", "prompt": IDS, "stop": "a"}),
    ("/v1/completions", {"model": "default", "prompt": IDS, "stop_regex": "a+"}),
    ("/v1/completions", {"model": "default", "prompt": IDS, "regex": "a+"}),
    ("/v1/completions", {"model": "default", "prompt": IDS, "response_format": {"type": "json_object"}}),
    ("/generate", {"text": "Hello"}),
    ("/generate", {"messages": HELLO}),
    ("/generate", {"input_ids": IDS, "sampling_params": {"ebnf": 'root ::= "a"'}}),
    ("/score", {"text": "a", "options": ["b"]}),
    ("/score", {"messages": HELLO, "options": ["b"]}),
    ("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": [5]}),
    ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ("/tokenize", {"prompt": "a"}),
    ("/tokenize", {"messages": HELLO}),
    ("/detokenize", {"tokens": IDS}),
]


@pytest.mark.parametrize(("path", "body"), REFUSED)
async def test_what_needs_text_is_refused_with_the_flag(
    start: StartServer, engines: tuple[Engine, Engine], path: str, body: dict[str, Any]
) -> None:
    status, found = await post(await served(start, engines[1]), path, body)
    assert (status, found["error"]["code"]) == (400, "no_tokenizer"), found
    assert "--skip-tokenizer-init" in found["error"]["message"]


async def test_the_log_of_requests_and_the_health_of_the_model_need_no_text(
    start: StartServer, engines: tuple[Engine, Engine]
) -> None:
    server = await served(start, engines[1], log_requests=True, log_requests_level=3)
    assert (await post(server, "/generate", {"input_ids": IDS, "sampling_params": GREEDY}))[0] == 200
    body = {"query": IDS, "items": [[60]], "label_token_ids": [5, 60]}
    assert (await post(server, "/v1/score", body))[0] == 200
    async with server.http.get("/health_generate") as reply:
        assert reply.status == 200
    async with server.http.get("/get_model_info") as reply:
        assert (await reply.json())["has_chat_template"] is False


async def test_vectors_are_made_of_ids(start: StartServer, tiny_checkpoint: Path, bare: Path) -> None:
    found: list[Any] = []
    for folder, skips in ((tiny_checkpoint, False), (bare, True)):
        config = EngineConfig(model_path=str(folder), is_embedding=True, threads=1, skip_tokenizer_init=skips)
        server = await start(embedder=EmbeddingEngine(config))
        status, reply = await post(server, "/v1/embeddings", {"model": "default", "input": [IDS]})
        assert status == 200
        found.append(reply["data"])
        async with server.http.get("/health_generate") as health:
            assert health.status == 200
        if skips:
            status, reply = await post(server, "/v1/embeddings", {"model": "default", "input": "Hello"})
            assert (status, reply["error"]["code"]) == (400, "no_tokenizer")
    assert found[0] == found[1]


def test_a_program_in_the_process_is_told_why_it_cannot_be(bare: Path) -> None:
    with pytest.raises(InvalidRequest, match="skip-tokenizer-init"):
        Runtime(str(bare), kv_tokens=64, threads=1, skip_tokenizer_init=True)
