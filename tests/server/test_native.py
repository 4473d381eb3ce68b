"""/generate field by field, and /score."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stolon.lang.types import SamplingParams
from stolon.runtime.score import first_scored, shared_length
from tests.server.conftest import Running, StartServer
from tests.server.fake import BOS, END, FakeEngine


async def post(server: Running, path: str, **body: Any) -> Any:
    async with server.http.post(path, json=body) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def events(server: Running, **body: Any) -> list[Any]:
    async with server.http.post("/generate", json={**body, "stream": True}) as reply:
        assert reply.status == 200, await reply.text()
        raw = await reply.text()
    *found, done, rest = raw.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in found]


async def test_a_text_is_answered_with_text_ids_and_facts(server: Running) -> None:
    reply = await post(server, "/generate", text="abc", rid="mine")
    latency = reply["meta_info"].pop("e2e_latency")
    assert latency > 0
    assert reply == {
        "text": "cba",
        "output_ids": [99, 98, 97, END],
        "meta_info": {
            "id": "mine",
            "finish_reason": {"type": "stop", "matched": END},
            "prompt_tokens": 4,
            "completion_tokens": 4,
            "cached_tokens": 1,
        },
    }
    assert server.engine.asked[0].params == SamplingParams(max_tokens=128)


async def test_ids_and_conversations_are_answered_too(server: Running) -> None:
    assert (await post(server, "/generate", input_ids=[97, 98]))["text"] == "ba"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ab"}]
    assert (await post(server, "/generate", messages=turns))["text"].startswith(" :tnatsissa")
    assert (await post(server, "/generate", messages=turns, continue_final_message=True))["text"].startswith("ba :")


async def test_a_batch_is_answered_with_a_list_in_its_order(server: Running) -> None:
    for body in (
        {"text": ["ab", "cd"]},
        {"input_ids": [[97, 98], [99, 100]]},
    ):
        assert [entry["text"] for entry in await post(server, "/generate", **body)] == ["ba", "dc"]
    assert len(await post(server, "/generate", text=["ab"])) == 1
    assert len(await post(server, "/generate", messages=[[{"role": "user", "content": "a"}]])) == 1
    several = await post(server, "/generate", text=["ab", "cd"], sampling_params=[{"n": 2}, {"max_new_tokens": 1}])
    assert [entry["text"] for entry in several] == ["ba", "ba", "d"]
    assert len({entry["meta_info"]["id"] for entry in several}) == 3


async def test_each_prompt_of_a_batch_has_its_own_log_probabilities_and_id(server: Running) -> None:
    asked: dict[str, Any] = {
        "text": ["ab", "cd", "ef"],
        "sampling_params": {"max_new_tokens": 1},
        "rid": ["x", "y", "z"],
        "return_logprob": [True, False, True],
        "logprob_start_len": [-1, 0, 2],
        "top_logprobs_num": [2, 5, 0],
        "token_ids_logprob": [None, [1], [7, 8]],
    }
    found = [entry["meta_info"] for entry in await post(server, "/generate", **asked)]
    assert [meta["id"] for meta in found] == ["x", "y", "z"]
    first, second, third = found
    assert (len(first["output_top_logprobs"][0]), first["input_token_logprobs"]) == (2, [])
    assert not any("logprobs" in name for name in second)
    assert [token for _, token, _ in third["output_token_ids_logprobs"][0]] == [7, 8]
    assert [token for _, token, _ in third["input_token_logprobs"]] == [102]
    for alone, text, place in ((first, "ab", 0), (third, "ef", 2)):
        fields = {name: asked[name][place] for name in asked if name not in ("text", "sampling_params")}
        one = await post(server, "/generate", text=text, sampling_params=asked["sampling_params"], **fields)
        assert {**one["meta_info"], "e2e_latency": 0} == {**alone, "e2e_latency": 0}
    last = {event["index"]: event["meta_info"]["id"] for event in await events(server, **asked)}
    assert last == {0: "x", 1: "y", 2: "z"}


async def test_several_answers_to_a_prompt_have_ids_of_their_own(server: Running) -> None:
    sampling = [{"n": 2}, {"n": 1}]
    several = await post(server, "/generate", text=["ab", "cd"], sampling_params=sampling, rid=["x", "y"])
    assert [entry["meta_info"]["id"] for entry in several] == ["x-0", "x-1", "y"]
    assert (await post(server, "/generate", text=["ab"], rid="x"))[0]["meta_info"]["id"] == "x-0"
    assert (await post(server, "/generate", text="ab", rid="x"))["meta_info"]["id"] == "x"


async def test_what_a_client_says_it_does_not_want_changes_nothing(server: Running) -> None:
    more = {"return_logprob": False, "logprob_start_len": -1, "top_logprobs_num": 0}
    found = await post(server, "/generate", text="ab", **more)
    assert not any("logprobs" in name for name in found["meta_info"])


async def test_sampling_has_the_names_of_sglang(server: Running) -> None:
    sampling = {
        "max_new_tokens": 7,
        "min_new_tokens": 2,
        "n": 2,
        "temperature": 3,
        "top_p": 0.5,
        "top_k": 0,
        "min_p": 0.5,
        "frequency_penalty": 1,
        "presence_penalty": -1,
        "repetition_penalty": 1.5,
        "stop": "x",
        "stop_token_ids": [1],
        "stop_regex": ["y+"],
        "ignore_eos": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": True,
        "no_stop_trim": True,
        "logit_bias": {"5": 1},
        "sampling_seed": 11,
    }
    await post(server, "/generate", text="a", sampling_params=sampling, cache_salt="s", priority=-2)
    (asked,) = server.engine.asked
    assert asked.params == SamplingParams(
        max_tokens=7,
        min_tokens=2,
        n=2,
        temperature=3.0,
        top_p=0.5,
        top_k=0,
        min_p=0.5,
        frequency_penalty=1.0,
        presence_penalty=-1.0,
        repetition_penalty=1.5,
        logit_bias=((5, 1.0),),
        stop=("x",),
        stop_token_ids=(1,),
        stop_regex=("y+",),
        include_stop=True,
        ignore_eos=True,
        skip_special_tokens=False,
        seed=11,
    )
    assert (asked.salt, asked.priority) == ("s", -2)


async def test_events_grow_or_bring_what_is_new(server: Running) -> None:
    growing = await events(server, text="abc")
    assert [event["text"] for event in growing] == ["c", "cb", "cba", "cba"]
    assert [event["output_ids"] for event in growing][-1] == [99, 98, 97, END]
    fresh = await events(server, text="abc", incremental=True)
    assert [event["text"] for event in fresh] == ["c", "b", "a", ""]
    assert [event["output_ids"] for event in fresh] == [[99], [98], [97], [END]]
    for found in (growing, fresh):
        assert [event["meta_info"]["completion_tokens"] for event in found] == [1, 2, 3, 4]
        assert [event["meta_info"]["finish_reason"] for event in found[:-1]] == [None] * 3
        assert found[-1]["meta_info"]["finish_reason"] == {"type": "stop", "matched": END}
        assert found[-1]["meta_info"]["cached_tokens"] == 1


@pytest.mark.parametrize("incremental", [False, True])
async def test_the_events_of_a_batch_say_to_whom_they_belong(server: Running, incremental: bool) -> None:
    texts = ["", "", ""]
    sampling = [{"n": 2}, {"n": 1}]
    for event in await events(server, text=["ab", "cd"], sampling_params=sampling, incremental=incremental):
        texts[event["index"]] = (texts[event["index"]] if incremental else "") + event["text"]
    assert texts == ["ba", "ba", "dc"]


async def test_log_probabilities_come_as_sglang_gives_them(server: Running) -> None:
    asked: dict[str, Any] = {
        "text": "ab",
        "return_logprob": True,
        "top_logprobs_num": 2,
        "token_ids_logprob": [7],
        "sampling_params": {"max_new_tokens": 1},
    }
    meta = (await post(server, "/generate", **asked))["meta_info"]
    assert meta["output_token_logprobs"] == [[-0.98, 98, None]]
    assert meta["output_top_logprobs"] == [[[-0.98, 98, None], [-10.0, 99, None]]]
    assert meta["output_token_ids_logprobs"] == [[[-0.07, 7, None]]]
    assert meta["input_token_logprobs"] == []
    asked |= {"logprob_start_len": 0, "return_text_in_logprobs": True}
    meta = (await post(server, "/generate", **asked))["meta_info"]
    assert meta["input_token_logprobs"] == [[None, BOS, "<s>"], [-0.97, 97, "a"], [-0.98, 98, "b"]]
    assert meta["input_top_logprobs"][0] is None
    assert meta["input_top_logprobs"][1] == [[-0.97, 97, "a"], [-10.0, 98, "b"]]
    meta = (await post(server, "/generate", **{**asked, "logprob_start_len": 2}))["meta_info"]
    assert meta["input_token_logprobs"] == [[-0.98, 98, "b"]]
    last = (await events(server, **asked, incremental=True))[-1]["meta_info"]
    assert last["input_token_logprobs"] == [[None, BOS, "<s>"], [-0.97, 97, "a"], [-0.98, 98, "b"]]


async def test_impossible_tokens_have_a_number_that_json_has(server: Running) -> None:
    reply = await post(server, "/generate", text="a", return_logprob=True, top_logprobs_num=5)
    assert reply["meta_info"]["output_top_logprobs"][0][3][0] == -9999.0


async def test_all_answers_have_the_log_probabilities_of_the_prompt(server: Running) -> None:
    asked = {"text": "ab", "return_logprob": True, "logprob_start_len": 0, "sampling_params": {"n": 2}}
    first, second = await post(server, "/generate", **asked)
    assert first["meta_info"]["input_token_logprobs"] == second["meta_info"]["input_token_logprobs"] != []


async def test_no_tokens_may_be_asked_for(server: Running) -> None:
    reply = await post(server, "/generate", text="ab", sampling_params={"max_new_tokens": 0})
    assert (reply["text"], reply["output_ids"], reply["meta_info"]["completion_tokens"]) == ("", [], 0)


async def test_an_error_of_one_prompt_ends_the_batch(server: Running) -> None:
    server.engine.fail_at = 2
    async with server.http.post("/generate", json={"text": ["abc", "d", "abc"]}) as reply:
        assert reply.status == 500
    assert server.engine.running == 0


async def test_options_are_scored_after_what_they_share(server: Running) -> None:
    reply = await post(server, "/score", text="ab", options=["cd", "ce", "c"])
    assert [score["tokens"] for score in reply["scores"]] == [[99, 100], [99, 101], [99]]
    assert reply["scores"][0]["logprobs"] == [-0.99, -1.0]
    assert reply["scores"][0]["unconditional"] is None
    assert reply["usage"]["prompt_tokens"] == 5 + 5 + 4


async def test_options_are_scored_without_the_prompt_too(start: StartServer) -> None:
    with_start = await post(await start(), "/score", text="ab", options=["cd"], unconditional=True)
    assert with_start["scores"][0]["unconditional"] == [-0.99, -1.0]
    without = await post(
        await start(FakeEngine(bos=False)), "/score", text="ab", options=["cd", "e"], unconditional=True
    )
    assert [score["unconditional"] for score in without["scores"]] == [[0.0, -1.0], [0.0]]


async def test_options_begin_the_answer_or_continue_it(server: Running) -> None:
    turns = [{"role": "user", "content": "q"}]
    begun = await post(server, "/score", messages=turns, options=["x", "yz"])
    assert [score["tokens"] for score in begun["scores"]] == [list(b"x"), list(b"yz")]
    turns.append({"role": "assistant", "content": "so "})
    continued = await post(server, "/score", messages=turns, options=["x", "yz"], continue_final_message=True)
    assert [score["tokens"] for score in continued["scores"]] == [list(b"x"), list(b"yz")]


@pytest.mark.parametrize(
    ("sequences", "length"),
    [
        ([[1, 2, 3]], 3),
        ([[1, 2, 3], [1, 2]], 2),
        ([[1, 2, 3], [1, 5], [1, 2, 9]], 1),
        ([[], [1]], 0),
        ([[2], [1]], 0),
        ([(1, 2), [1, 2, 3]], 2),
    ],
)
def test_the_shared_prefix_is_that_of_all(sequences: list[list[int]], length: int) -> None:
    assert shared_length(sequences) == length


def test_a_token_that_spans_the_border_counts_to_the_option() -> None:
    """`ab` + `c` read as `a`, `bc`: scoring starts at the merged token."""
    assert first_scored([1, 2], [[1, 23], [1, 2, 4]]) == 1
    assert first_scored([1, 2], [[1, 2, 3], [1, 2, 4]]) == 2
    assert first_scored([5], [[6, 7]]) == 1
