"""`--allow-auto-truncate`: of a prompt that is too long the beginning is read, and the answer is as long as fits."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from stolon.runtime import limits
from tests.server.conftest import Running, StartServer
from tests.server.fake import BOS, TURN, FakeEngine, Turns
from tests.server.fake_embedder import FakeEmbedder

CONTEXT = 32
LONG = "abcdefgh" * 8
FAR = "abcdefgh" * (limits.OFF_LOOP_CHARACTERS // 8 + 1)
BEGINNING = [BOS, *LONG.encode()][: CONTEXT - 1]
TURNS = [BOS, TURN, *f"user: {LONG}".encode()][: CONTEXT - 1]
ASK = [{"role": "user", "content": LONG}]

ROUTES: list[tuple[str, dict[str, Any], list[int]]] = [
    ("/v1/completions", {"model": "fake", "prompt": LONG}, BEGINNING),
    ("/v1/completions", {"model": "fake", "prompt": [*range(64)]}, [*range(CONTEXT - 1)]),
    ("/v1/completions", {"model": "fake", "prompt": LONG, "max_tokens": 5}, BEGINNING),
    ("/v1/chat/completions", {"model": "fake", "messages": ASK}, TURNS),
    ("/v1/chat/completions", {"model": "fake", "messages": ASK, "max_tokens": 5}, TURNS),
    ("/v1/responses", {"model": "fake", "input": LONG, "max_output_tokens": 5}, TURNS),
    ("/v1/messages", {"model": "fake", "messages": ASK, "max_tokens": 5}, TURNS),
    ("/generate", {"text": LONG}, BEGINNING),
    ("/generate", {"input_ids": [*range(64)], "sampling_params": {"max_new_tokens": 5}}, [*range(CONTEXT - 1)]),
    ("/generate", {"messages": ASK}, TURNS),
]


@pytest.fixture
async def cutting(start: StartServer) -> Running:
    return await start(FakeEngine(context_length=CONTEXT), allow_auto_truncate=True)


async def post(server: Running, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with server.http.post(path, json=body) as reply:
        return reply.status, await reply.json()


@pytest.mark.parametrize(("path", "body", "kept"), ROUTES)
async def test_the_beginning_of_a_prompt_that_is_too_long_is_read(
    cutting: Running,
    start: StartServer,
    path: str,
    body: dict[str, Any],
    kept: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "stolon"):
        status, _ = await post(cutting, path, body)
    assert status == 200
    (asked,) = cutting.engine.asked
    assert (asked.prompt, asked.params.max_tokens) == (kept, 1)
    assert f"a prompt was cut to {CONTEXT - 1} of at least" in caplog.text
    status, error = await post(await start(FakeEngine(context_length=CONTEXT)), path, body)
    assert (status, error["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_max_tokens_that_does_not_fit_is_lowered_and_what_fits_is_as_it_was(cutting: Running) -> None:
    fits = {"model": "fake", "prompt": [*range(28)]}
    for wanted, expected in ((2, 2), (4, 4), (9, 4)):
        assert (await post(cutting, "/v1/completions", {**fits, "max_tokens": wanted}))[0] == 200
        asked = cutting.engine.asked[-1]
        assert (len(asked.prompt), asked.params.max_tokens) == (28, expected)


async def test_the_echo_is_what_was_read(cutting: Running) -> None:
    body = {"model": "fake", "prompt": LONG, "echo": True, "logprobs": 0, "max_tokens": 0}
    _, found = await post(cutting, "/v1/completions", body)
    (choice,) = found["choices"]
    assert choice["text"] == LONG[: CONTEXT - 2]
    assert len(choice["logprobs"]["tokens"]) == CONTEXT - 1


async def test_what_is_only_counted_or_scored_is_not_cut(cutting: Running) -> None:
    _, counted = await post(cutting, "/v1/messages/count_tokens", {"model": "fake", "messages": ASK})
    assert counted["input_tokens"] > len(LONG)
    _, tokenized = await post(cutting, "/tokenize", {"messages": ASK})
    assert tokenized["count"] == counted["input_tokens"]
    for path, body in (
        ("/score", {"text": LONG, "options": ["a"]}),
        ("/v1/score", {"query": LONG, "items": ["a"], "label_token_ids": [1]}),
        ("/v1/rerank", {"query": LONG, "documents": ["a"]}),
    ):
        assert (await post(cutting, path, body))[0] == 400, path


async def test_of_a_text_that_is_far_too_long_only_the_beginning_is_tokenized(cutting: Running) -> None:
    sizes: list[int] = []
    encode = cutting.engine.tokenizer.encode

    def measured(text: str, *, bos: bool = True) -> list[int]:
        sizes.append(len(text))
        return encode(text, bos=bos)

    cutting.engine.tokenizer.encode = measured
    assert (await post(cutting, "/generate", {"text": FAR}))[0] == 200
    assert cutting.engine.asked[-1].prompt == BEGINNING
    assert max(sizes) == CONTEXT * limits.CHARACTERS_A_TOKEN


async def test_of_a_conversation_that_is_far_too_long_only_the_beginning_is_rendered(start: StartServer) -> None:
    sizes: list[int] = []

    class Measured(Turns):
        def encode(self, messages: Any, **more: Any) -> list[int]:
            sizes.append(sum(len(message["content"]) for message in messages))
            return super().encode(messages, **more)

    engine = FakeEngine(context_length=CONTEXT)
    engine.chat = Measured()
    cutting = await start(engine, allow_auto_truncate=True)
    for more in ({}, {"continue_final_message": True}):
        talk = [*ASK, {"role": "user", "content": FAR}, *ASK, {"role": "assistant", "content": "so"}]
        assert (await post(cutting, "/generate", {"messages": talk, **more}))[0] == 200
        assert cutting.engine.asked[-1].prompt == TURNS
    assert max(sizes) == CONTEXT * limits.CHARACTERS_A_TOKEN
    # and to count them it is still refused
    body = {"model": "fake", "messages": [{"role": "user", "content": FAR}]}
    status, error = await post(cutting, "/v1/messages/count_tokens", body)
    assert (status, error["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_cut_prompt_begins_no_thought(start: StartServer) -> None:
    engine = FakeEngine(context_length=CONTEXT)
    engine.chat = Turns("enable_thinking </think>", opening="<think>\n")
    engine.script = "x"
    cutting = await start(engine, allow_auto_truncate=True)
    _, found = await post(cutting, "/v1/chat/completions", {"model": "fake", "messages": ASK})
    assert found["choices"][0]["message"]["content"] == "x"


async def test_texts_that_become_vectors_are_cut_too(start: StartServer) -> None:
    cutting = await start(embedder=FakeEmbedder(context_length=CONTEXT), allow_auto_truncate=True)
    for given in (LONG, [*range(64)]):
        for more, kept in (({}, CONTEXT), ({"truncate_prompt_tokens": 9}, 9)):
            status, found = await post(cutting, "/v1/embeddings", {"model": "fake", "input": given, **more})
            assert (status, found["usage"]["prompt_tokens"]) == (200, kept)
    status, found = await post(cutting, "/v1/score", {"text_1": "abc", "text_2": LONG})
    assert (status, found["usage"]["prompt_tokens"]) == (200, 3 + CONTEXT)
