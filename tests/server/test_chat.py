"""The official client against the server: chat completions."""

from __future__ import annotations

import pytest
from openai import AsyncOpenAI

from tests.server.conftest import Running


async def test_the_official_client_gets_an_answer(server: Running) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        reply = await client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "abc"}], max_tokens=3
        )
        assert reply.choices[0].message.content == " :t"
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 3


@pytest.mark.parametrize("n", [1, 3])
async def test_a_stream_says_what_the_whole_answer_says(server: Running, n: int) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "fake", "messages": [{"role": "user", "content": "ab ä"}], "n": n}
        whole = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        texts = [""] * n
        finish: list[str | None] = [None] * n
        usage = None
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                finish[choice.index] = choice.finish_reason or finish[choice.index]
        assert texts == [choice.message.content for choice in whole.choices]
        assert finish == [choice.finish_reason for choice in whole.choices] == ["stop"] * n
        assert usage == whole.usage
