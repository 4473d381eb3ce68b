"""What is said of tokens: their ids, their names beside log-probabilities, log-probabilities of the prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, GOOD, TEXT
from tests.server.fake import BOS, END, FakeEngine, Turns


async def post(server: Running, path: str, **more: Any) -> Any:
    async with server.http.post(path, json={**GOOD[path], **more}) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def chunks(server: Running, path: str, **more: Any) -> list[Any]:
    async with server.http.post(path, json={**GOOD[path], **more, "stream": True}) as reply:
        lines = (await reply.text()).split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


async def test_a_chat_has_the_ids_of_its_prompt_and_of_each_answer(server: Running) -> None:
    found = await post(server, CHAT, n=2, return_token_ids=True)
    prompt = server.engine.asked[0].prompt
    assert found["prompt_token_ids"] == prompt
    ids = [choice["token_ids"] for choice in found["choices"]]
    assert ids == [list(choice["message"]["content"].encode()) for choice in found["choices"]]
    plain = await post(server, CHAT)
    assert "prompt_token_ids" not in plain
    assert "token_ids" not in plain["choices"][0]
    events = await chunks(server, CHAT, n=2, return_token_ids=True)
    assert [event["prompt_token_ids"] for event in events if "prompt_token_ids" in event] == [prompt]
    choices = [choice for event in events for choice in event["choices"]]
    for index in range(2):
        mine = [choice for choice in choices if choice["index"] == index]
        assert [id for choice in mine for id in choice.get("token_ids", ())] == ids[index]


@pytest.mark.parametrize("shown", [True, False])
async def test_no_id_is_lost_where_text_is_held_back_or_left_out(start: StartServer, shown: bool) -> None:
    engine = FakeEngine()
    engine.chat, engine.script = Turns("</think>", opening="<think>\n"), "hm</think>Four"
    server = await start(engine)
    asked: dict[str, Any] = {"max_tokens": 100, "return_token_ids": True, "include_reasoning": shown}
    whole = [*engine.script.encode(), END]
    found = await post(server, CHAT, **asked)
    assert found["choices"][0]["token_ids"] == whole
    message = found["choices"][0]["message"]
    assert (message["content"], message.get("reasoning_content")) == ("Four", "hm" if shown else None)
    assert found["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    choices = [choice for event in await chunks(server, CHAT, **asked) for choice in event["choices"]]
    assert [id for choice in choices for id in choice.get("token_ids", ())] == whole
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "Four"
    assert "".join(choice["delta"].get("reasoning_content", "") for choice in choices) == ("hm" if shown else "")


async def test_a_thought_that_is_left_out_is_not_streamed_either(start: StartServer) -> None:
    engine = FakeEngine()
    engine.chat, engine.script = Turns("</think>", opening="<think>\n"), "hm</think>Four"
    found = await chunks(await start(engine), CHAT, max_tokens=100, include_reasoning=False)
    assert "reasoning_content" not in json.dumps(found)
    assert len(found) < len("Four") + 3


async def test_tokens_are_named_by_their_ids(server: Running) -> None:
    (choice,) = (await post(server, TEXT, logprobs=2, return_tokens_as_token_ids=True))["choices"]
    assert choice["logprobs"]["tokens"] == [f"token_id:{id}" for id in choice["text"].encode()]
    assert [*choice["logprobs"]["top_logprobs"][0]] == [f"token_id:{ord(choice['text'][0]) + i}" for i in range(2)]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3]  # of the text itself
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "return_tokens_as_token_ids": True}
    (choice,) = (await post(server, CHAT, **asked))["choices"]
    entry, letter = choice["logprobs"]["content"][0], choice["message"]["content"][0]
    assert (entry["token"], entry["bytes"]) == (f"token_id:{ord(letter)}", [ord(letter)])
    assert [each["token"] for each in entry["top_logprobs"]] == [f"token_id:{ord(letter) + i}" for i in range(2)]
    streamed = [choice for event in await chunks(server, CHAT, **asked) for choice in event["choices"]]
    assert next(each for each in streamed if each.get("logprobs"))["logprobs"]["content"][0] == entry


async def test_a_prompt_has_log_probabilities_by_id(server: Running) -> None:
    found = await post(server, TEXT, prompt=["ab", "c"], n=2, prompt_logprobs=2)
    first = {
        "97": {"logprob": -0.97, "rank": 1, "decoded_token": "a"},
        "98": {"logprob": -10.0, "rank": 2, "decoded_token": "b"},
    }
    for choice in found["choices"][:2]:
        assert (choice["logprobs"], len(choice["prompt_logprobs"])) == (None, 3)
        assert choice["prompt_logprobs"][:2] == [None, first]
    assert [[*(each or {})] for each in found["choices"][2]["prompt_logprobs"]] == [[], ["99", "100"]]
    (choice,) = (await post(server, TEXT, prompt="ab", prompt_logprobs=0))["choices"]
    assert choice["prompt_logprobs"][1] == {"97": {"logprob": -0.97, "rank": None, "decoded_token": "a"}}
    assert "prompt_logprobs" not in (await post(server, TEXT))["choices"][0]


async def test_an_echo_and_prompt_logprobs_have_each_as_many_as_were_asked_for(server: Running) -> None:
    for echoed, of_prompt in ((1, 4), (4, 1), (0, 0)):
        asked: dict[str, Any] = {"prompt": [BOS, 97], "echo": True, "logprobs": echoed, "prompt_logprobs": of_prompt}
        (choice,) = (await post(server, TEXT, **asked, max_tokens=1))["choices"]
        assert len(choice["logprobs"]["tokens"]) == 3
        assert len(choice["logprobs"]["top_logprobs"][1]) == max(echoed, 1)
        assert len(choice["prompt_logprobs"][1]) == max(of_prompt, 1)
    (choice,) = (await post(server, TEXT, prompt="ab", logprobs=1, prompt_logprobs=1, max_tokens=1))["choices"]
    assert len(choice["logprobs"]["tokens"]) == 1  # without an echo the answer's alone


async def test_a_chat_has_them_beside_its_choices(server: Running) -> None:
    found = await post(server, CHAT, n=2, prompt_logprobs=4, return_tokens_as_token_ids=True)
    ids = server.engine.asked[0].prompt
    assert found["prompt_logprobs"][0] is None
    assert [next(iter(each)) for each in found["prompt_logprobs"][1:]] == [str(id) for id in ids[1:]]
    entry = found["prompt_logprobs"][2]
    assert [each["rank"] for each in entry.values()] == [1, 2, 3, 4]
    assert [*entry.values()][3]["logprob"] == -9999.0
    assert entry[str(ids[2])]["decoded_token"] == f"token_id:{ids[2]}"
