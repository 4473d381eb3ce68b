"""OpenAI against a loopback server: what is sent, and what comes back when nothing goes wrong."""

from __future__ import annotations

from stolon.backends.openai import OpenAI
from stolon.lang.backend import GenerateRequest
from stolon.lang.prompt import EMPTY, Prompt, RoleClose, RoleOpen, Text
from stolon.lang.types import SamplingParams, Usage
from tests.backends.upstream import event, reply, upstream


def chat_prompt(*turns: tuple[str, str]) -> Prompt:
    """The turns, and an assistant turn that waits for its answer."""
    prompt = EMPTY
    for role, text in turns:
        prompt = prompt.append(RoleOpen(role)).append(Text(text)).append(RoleClose())  # type: ignore[arg-type]
    return prompt.append(RoleOpen("assistant"))


def chat_stream(*texts: str, usage: bool = True) -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]}]
    chunks += [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    if usage:
        chunks += [{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(texts)}}]  # type: ignore[list-item]
    return b"".join(map(event, chunks)) + event("[DONE]")


async def test_a_chat_answer_streams_and_ends_with_its_usage() -> None:
    async with upstream(reply(chat_stream("Hel", "lo", " 😀"))) as server:
        backend = OpenAI("gpt-3.5-turbo", base_url=server.origin + "/v1", api_key="secret")
        prompt = chat_prompt(("system", "You are brief."), ("user", "Hi"))
        deltas = [d async for d in backend.stream(GenerateRequest(prompt=prompt, params=SamplingParams(max_tokens=9)))]
        await backend.close()
    assert [d.text for d in deltas] == ["Hel", "lo", " 😀", ""]
    assert [d.finish for d in deltas] == [None, None, None, "stop"]
    assert deltas[-1].usage == Usage(prompt_tokens=7, completion_tokens=3, requests=1)
    assert (backend.token_usage.prompt_tokens, backend.token_usage.completion_tokens) == (7, 3)
    (sent,) = server.requests
    assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
    assert sent.headers["authorization"] == "Bearer secret"
    assert sent.body == {
        "model": "gpt-3.5-turbo",
        "messages": [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
