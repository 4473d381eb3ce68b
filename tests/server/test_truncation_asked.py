"""`truncate_prompt_tokens`: a request says how much of its prompt is read, and from which side."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from stolon.runtime import limits
from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, TEXT, refused
from tests.server.fake import BOS, TURN, FakeEngine, Turns

CONTEXT = 64
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
LONG = ALPHABET * 4
ASK = [{"role": "user", "content": LONG}]
TURNS = [BOS, TURN, *f"user: {LONG}".encode(), TURN, *b"assistant: "]


@pytest.fixture
async def server(start: StartServer) -> Running:
    return await start(FakeEngine(context_length=CONTEXT))


async def read(server: Running, path: str, **more: Any) -> list[int]:
    """What of the prompt came to the engine."""
    body = {"model": "fake", **({"prompt": LONG} if path == TEXT else {"messages": ASK}), **more}
    async with server.http.post(path, json=body) as reply:
        assert reply.status == 200, await reply.text()
    return server.engine.asked[-1].prompt


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"truncate_prompt_tokens": 5}, [BOS, *b"wxyz"]),
        ({"truncate_prompt_tokens": 5, "truncation_side": "left"}, [BOS, *b"wxyz"]),
        ({"truncate_prompt_tokens": 5, "truncation_side": "right"}, [BOS, *b"abcd"]),
        ({"truncate_prompt_tokens": 5, "add_special_tokens": False}, [*b"vwxyz"]),
        ({"truncate_prompt_tokens": 1}, [BOS]),
        ({"truncate_prompt_tokens": 48, "prompt": "abc"}, [BOS, *b"abc"]),
        ({"truncate_prompt_tokens": 3, "prompt": [1, 2, 3, 4, 5]}, [3, 4, 5]),
        ({"truncate_prompt_tokens": 3, "prompt": [1, 2, 3, 4, 5], "truncation_side": "right"}, [1, 2, 3]),
        # 16 tokens are the default of a completion
        ({"truncate_prompt_tokens": -1}, [BOS, *LONG.encode()[-(CONTEXT - 16 - 1) :]]),
        ({"truncate_prompt_tokens": -1, "max_tokens": 20}, [BOS, *LONG.encode()[-(CONTEXT - 20 - 1) :]]),
        ({"truncate_prompt_tokens": -1, "max_tokens": 0, "echo": True}, [BOS, *LONG.encode()[-(CONTEXT - 1) :]]),
    ],
)
async def test_of_a_text_the_last_tokens_are_read(server: Running, asked: dict[str, Any], kept: list[int]) -> None:
    assert await read(server, TEXT, **asked) == kept


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"truncate_prompt_tokens": 20}, TURNS[-20:]),
        ({"truncate_prompt_tokens": 20, "truncation_side": "right"}, TURNS[:20]),
        ({"truncate_prompt_tokens": -1}, TURNS[-(CONTEXT - 1) :]),
        ({"truncate_prompt_tokens": -1, "max_tokens": 4}, TURNS[-(CONTEXT - 4) :]),
        ({"truncate_prompt_tokens": 20, "add_special_tokens": False}, TURNS[-20:]),
    ],
)
async def test_of_a_conversation_too(server: Running, asked: dict[str, Any], kept: list[int]) -> None:
    assert await read(server, CHAT, **asked) == kept


async def test_a_text_may_begin_without_the_token_that_starts_it(server: Running) -> None:
    assert await read(server, TEXT, prompt="ab") == [BOS, *b"ab"]
    assert await read(server, TEXT, prompt="ab", add_special_tokens=True) == [BOS, *b"ab"]
    assert await read(server, TEXT, prompt="ab", add_special_tokens=False) == [*b"ab"]
    async with server.http.post(TEXT, json={"model": "fake", "prompt": "", "add_special_tokens": False}) as reply:
        assert "is empty" in await refused(reply, 400, "invalid_value", "prompt")


async def test_more_than_fits_is_refused_unless_the_operator_allows_cutting(
    server: Running, start: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    body: dict[str, Any] = {"model": "fake", "prompt": LONG, "truncate_prompt_tokens": CONTEXT}
    async with server.http.post(TEXT, json=body) as reply:
        assert f"{CONTEXT} tokens" in await refused(reply, 400, "context_length_exceeded", "prompt")
    cutting = await start(FakeEngine(context_length=CONTEXT), allow_auto_truncate=True)
    with caplog.at_level(logging.WARNING, "stolon"):
        assert await read(cutting, TEXT, truncate_prompt_tokens=CONTEXT) == [BOS, *LONG.encode()[-(CONTEXT - 2) :]]
        assert await read(cutting, TEXT, truncate_prompt_tokens=5) == [BOS, *b"wxyz"]
        assert "was cut" not in caplog.text  # as the client asked
        assert await read(cutting, TEXT, truncation_side="left") == [BOS, *LONG.encode()[-(CONTEXT - 2) :]]
        assert "was cut" in caplog.text


async def test_the_echo_is_what_was_read(server: Running) -> None:
    body = {"model": "fake", "prompt": LONG, "echo": True, "max_tokens": 0, "truncate_prompt_tokens": 5}
    async with server.http.post(TEXT, json=body) as reply:
        found = await reply.json()
    assert found["choices"][0]["text"] == "wxyz"
    assert found["usage"]["prompt_tokens"] == 5


async def test_a_thought_that_the_prompt_begins_counts_and_stays(start: StartServer) -> None:
    engine = FakeEngine(context_length=CONTEXT)
    engine.chat = Turns("enable_thinking </think>", opening="")
    engine.script = "hm</think>x"
    kept = await read(await start(engine), CHAT, truncate_prompt_tokens=-1, max_tokens=20, regex="x")
    assert len(kept) == CONTEXT - 20
    assert bytes(kept[-8:]) == b"<think>\n"


async def test_of_what_is_far_too_long_only_the_end_is_tokenized(start: StartServer) -> None:
    sizes: list[int] = []
    engine = FakeEngine(context_length=CONTEXT)
    encode = engine.tokenizer.encode

    def measured(text: str, *, bos: bool = True) -> list[int]:
        sizes.append(len(text))
        return encode(text, bos=bos)

    class Measured(Turns):
        def encode(self, messages: Any, **more: Any) -> list[int]:
            sizes.append(sum(len(message["content"]) for message in messages))
            return super().encode(messages, **more)

    engine.tokenizer.encode = measured
    engine.chat = Measured()
    server = await start(engine)
    far = "x" * limits.OFF_LOOP_CHARACTERS + ALPHABET
    assert await read(server, TEXT, prompt=far, truncate_prompt_tokens=5) == [BOS, *b"wxyz"]
    assert await read(server, TEXT, prompt=far, truncate_prompt_tokens=5, truncation_side="right") == [BOS, *b"xxxx"]
    talk = [{"role": "user", "content": far}, {"role": "assistant", "content": "so"}, {"role": "user", "content": "yz"}]
    ending = [*b"yz", TURN, *b"assistant: "]
    assert await read(server, CHAT, messages=talk, truncate_prompt_tokens=len(ending)) == ending
    talk = [*talk, {"role": "assistant", "content": "and"}]
    continued = {"continue_final_message": True, "truncate_prompt_tokens": 5}
    assert await read(server, CHAT, messages=talk, **continued) == [*b": and"]
    assert max(sizes) == CONTEXT * limits.CHARACTERS_A_TOKEN
    body = {"model": "fake", "prompt": far}
    async with server.http.post(TEXT, json=body) as reply:
        await refused(reply, 400, "context_length_exceeded", "prompt")
