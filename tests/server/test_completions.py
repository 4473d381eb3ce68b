"""The official client, unmodified, against /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from stolon.lang.types import Delta, SamplingParams
from tests.server.conftest import Running, StartServer
from tests.server.fake import BOS, FakeEngine


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_every_form_of_a_prompt_is_answered_in_its_place(client: AsyncOpenAI) -> None:
    for prompt, texts in (
        ("abc", ["cba"]),
        (["abc", "de"], ["cba", "ed"]),
        ([97, 98], ["ba"]),
        ([[97, 98], [99]], ["ba", "c"]),
    ):
        reply = await client.completions.create(model="fake", prompt=prompt)
        assert [choice.text for choice in reply.choices] == texts
        assert [choice.index for choice in reply.choices] == list(range(len(texts)))


async def test_the_answers_to_several_prompts_are_numbered_prompt_by_prompt(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "fake", "prompt": ["ab", "cd", "ef"], "n": 2}
    whole = await client.completions.create(**asked)
    assert [choice.text for choice in whole.choices] == ["ba", "ba", "dc", "dc", "fe", "fe"]
    assert [choice.index for choice in whole.choices] == list(range(6))
    texts = [""] * 6
    usage = None
    stream = await client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 3 * 3
    assert whole.usage.completion_tokens == 6 * 3


async def test_sixteen_tokens_are_the_default(server: Running, client: AsyncOpenAI) -> None:
    await client.completions.create(model="fake", prompt="a")
    assert server.engine.asked[0].params == SamplingParams(max_tokens=16)


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_gives_the_prompt_and_its_log_probabilities(client: AsyncOpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "fake", "prompt": "abcd", "max_tokens": 2, "echo": True, "logprobs": 2}
    if stream:
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        text = ""
        async for chunk in await client.completions.create(**asked, stream=True):
            text += chunk.choices[0].text
            assert chunk.choices[0].logprobs is not None
            for name, values in found.items():
                values.extend(getattr(chunk.choices[0].logprobs, name))
    else:
        reply = await client.completions.create(**asked)
        text = reply.choices[0].text
        assert reply.choices[0].logprobs is not None
        found = reply.choices[0].logprobs.model_dump()
    assert text == "abcddc"
    assert found["tokens"] == ["<s>", *"abcddc"]
    assert found["token_logprobs"] == [None, *(-ord(c) / 100 for c in "abcddc")]
    assert found["top_logprobs"][0] is None
    assert all(len(top) == 2 for top in found["top_logprobs"][1:])
    assert found["text_offset"] == [0, 0, 1, 2, 3, 4, 5]


class Backwards(FakeEngine):
    """The last answer begins first, as where a cached prompt is computed again for its log-probabilities alone."""

    async def generate(self, prompt_ids, params, **more):
        deltas = [delta async for delta in super().generate(prompt_ids, params, **more)]
        for delta in sorted(deltas, key=lambda delta: -delta.index):
            yield delta


@pytest.mark.parametrize("stream", [False, True])
async def test_each_of_several_answers_has_the_log_probabilities_of_its_echo(start: StartServer, stream: bool) -> None:
    server = await start(Backwards())
    asked: dict[str, Any] = {"model": "fake", "prompt": ["ab", "cde"], "max_tokens": 2, "n": 2}
    asked |= {"echo": True, "logprobs": 1}
    texts, tokens, offsets = [""] * 4, [[] for _ in range(4)], [[] for _ in range(4)]
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        if stream:
            parts = [part async for part in await client.completions.create(**asked, stream=True)]
        else:
            parts = [await client.completions.create(**asked)]
    for part in parts:
        for choice in part.choices:
            texts[choice.index] += choice.text
            assert choice.logprobs is not None
            tokens[choice.index] += choice.logprobs.tokens or []
            offsets[choice.index] += choice.logprobs.text_offset or []
    assert texts == ["abba"] * 2 + ["cdeed"] * 2
    assert tokens == [["<s>", *text] for text in texts]
    assert offsets == [[0, *range(len(text))] for text in texts]


async def test_log_probabilities_without_echo_are_those_of_the_answer(client: AsyncOpenAI) -> None:
    reply = await client.completions.create(model="fake", prompt="ab", logprobs=0)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["b", "a", "<end>"]
    assert logprobs.text_offset == [0, 1, 2]
    assert logprobs.top_logprobs == [{"b": -0.98}, {"a": -0.97}, {"<end>": -2.58}]


async def test_an_echoed_list_of_ids_is_text_again(client: AsyncOpenAI) -> None:
    reply = await client.completions.create(model="fake", prompt=[BOS, 104, 105], max_tokens=1, echo=True)
    assert reply.choices[0].text == "hii"


class Ranked(FakeEngine):
    """Answers that differ: answer i is the letter i, and the later the likelier."""

    async def generate(self, prompt_ids, params, **more):
        async for delta in super().generate(prompt_ids, params, **more):
            yield self._marked(delta)

    def _marked(self, delta: Delta) -> Delta:
        delta.text = "abcd"[delta.index]
        for entry in delta.logprobs or ():
            entry.logprob = -1.0 / (1 + delta.index)
        return delta


@pytest.mark.parametrize("logprobs", [None, 1])
async def test_best_of_gives_the_likeliest_answers_first(start: StartServer, logprobs: int | None) -> None:
    server = await start(Ranked())
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        reply = await client.completions.create(
            model="fake", prompt="x", max_tokens=1, n=2, best_of=4, logprobs=logprobs
        )
    assert [choice.text for choice in reply.choices] == ["d", "c"]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert (reply.choices[0].logprobs is None) == (logprobs is None)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 4
    assert server.engine.asked[0].params.n == 4
