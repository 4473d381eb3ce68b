"""RuntimeEndpoint against loopback servers that say what they are: stolon's, SGLang's, vLLM's and others'."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from stolon.backends.endpoint import Recognised, RuntimeEndpoint, recognise
from stolon.lang.backend import GenerateRequest
from stolon.lang.errors import BackendProtocolError, BackendUnavailable, InvalidRequest, UnsupportedError
from stolon.lang.prompt import EMPTY, Prompt, Text
from stolon.lang.types import Delta, SamplingParams, Score, Usage
from tests.backends.speakers import (
    TEXT,
    WORDS,
    chat_events,
    chat_prompt,
    cumulative_events,
    native_event,
    native_events,
)
from tests.backends.upstream import Received, Script, event, reply, upstream

HELLO = chat_prompt(("user", "Hi"))
PLAIN = EMPTY.append(Text("Once "))
NATIVE = reply(b"".join(native_events()))
CUMULATIVE = reply(b"".join(cumulative_events()))
CHAT = reply(b"".join(chat_events()))


async def asked(
    kind: str, script: Script, prompt: Prompt = PLAIN, **params: Any
) -> tuple[list[Delta], Received, RuntimeEndpoint]:
    async with upstream(script, kind=kind) as server:
        backend = RuntimeEndpoint(server.origin, "secret")
        request = GenerateRequest(prompt=prompt, params=SamplingParams(**params))
        try:
            deltas = [delta async for delta in backend.stream(request)]
        finally:
            await backend.close()
    return deltas, server.requests[-1], backend


def text_of(deltas: Sequence[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


# --- who is it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_info", "models", "kind", "model"),
    [
        ({"model_path": "tiny"}, {"data": [{"id": "tiny", "owned_by": "stolon"}]}, "stolon", "tiny"),
        ({"model_path": "/x"}, {"data": [{"id": "x", "owned_by": "sglang"}]}, "sglang", "x"),
        ({"model_path": "/x"}, None, "sglang", "/x"),
        (None, {"data": [{"id": "x", "owned_by": "vllm"}]}, "vllm", "x"),
        (None, {"data": [{"id": "x", "owned_by": "library"}]}, "openai", "x"),
        (None, {"data": []}, "openai", "default"),
        (None, {"data": [3]}, "openai", "default"),
        (None, None, "openai", "default"),
    ],
)
def test_a_server_is_known_by_what_it_says(
    model_info: dict[str, Any] | None, models: dict[str, Any] | None, kind: str, model: str
) -> None:
    assert recognise(model_info, models) == Recognised(kind, model)


async def test_many_first_requests_ask_once_what_the_server_is() -> None:
    async with upstream(NATIVE, kind="stolon") as server:
        backend = RuntimeEndpoint(server.origin)

        async def ask() -> str:
            return text_of([d async for d in backend.stream(GenerateRequest(prompt=PLAIN))])

        assert await asyncio.gather(*(ask() for _ in range(20))) == [TEXT] * 20
        await backend.close()
    assert server.introductions == 2
    assert len(server.requests) == 20


async def test_the_name_and_the_state_of_the_server_are_told_on_any_thread() -> None:
    async with upstream(NATIVE, kind="stolon") as server:
        backend = RuntimeEndpoint(server.origin + "/v1")  # the address of its OpenAI routes will do
        assert await asyncio.to_thread(backend.get_model_name) == "tiny"
        assert await asyncio.to_thread(backend.info) == {"context_length": 1024, "model": "tiny", "server": "stolon"}
        assert backend.endpoint is backend
        await backend.close()


async def test_a_server_that_is_not_there_says_how_to_start_one() -> None:
    async with upstream(NATIVE) as server:
        origin = server.origin
    backend = RuntimeEndpoint(origin, max_retries=0)
    with pytest.raises(
        BackendUnavailable, match=r"no server answers at .* is `python -m stolon.launch_server` running"
    ):
        _ = [d async for d in backend.stream(GenerateRequest(prompt=PLAIN))]
    await backend.close()


@pytest.mark.parametrize("url", ["127.0.0.1:30000", "", "file:///tmp", "http://:80"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidRequest, match="base_url"):
        RuntimeEndpoint(url)


# what a server would take from its checkpoint is always said
DRAWING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}

# --- what is sent ---------------------------------------------------------------------------------------------------


async def test_stolons_server_gets_messages_on_its_native_route() -> None:
    deltas, sent, _ = await asked("stolon", NATIVE, HELLO.append(Text("Sure, ")), max_tokens=9)
    assert text_of(deltas) == TEXT
    assert sent.path == "/generate"
    assert sent.headers["authorization"] == "Bearer secret"
    assert sent.body == {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Sure, "}],
        "continue_final_message": True,
        "sampling_params": {"max_new_tokens": 9, **DRAWING},
        "stream": True,
        "incremental": True,
    }


async def test_every_way_to_draw_reaches_the_native_route() -> None:
    fields: dict[str, Any] = {
        "n": 1,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "repetition_penalty": 1.1,
        "stop": ("a",),
        "stop_token_ids": (2,),
        "stop_regex": ("b+",),
        "ignore_eos": True,
        "skip_special_tokens": False,
    }
    renamed = {"max_tokens": 9, "min_tokens": 1, "seed": 3, "include_stop": True, "logit_bias": ((5, 1.0),)}
    _, sent, _ = await asked("stolon", NATIVE, PLAIN, **fields, **renamed)
    assert sent.body["text"] == "Once "
    assert sent.body["sampling_params"] == {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in fields.items() if name != "n"},
        "max_new_tokens": 9,
        "min_new_tokens": 1,
        "sampling_seed": 3,
        "no_stop_trim": True,
        "logit_bias": {"5": 1.0},
    }


async def test_log_probabilities_are_asked_for_and_read() -> None:
    meta = {
        "finish_reason": {"type": "stop", "matched": "x"},
        "prompt_tokens": 2,
        "completion_tokens": 1,
        "input_token_logprobs": [[None, 1, "Once"], [-1.0, 2, " "]],
        "output_token_logprobs": [[-0.5, 3, "a"]],
        "output_top_logprobs": [[[-0.5, 3, "a"], [-0.75, 4, "b"]]],
        "output_token_ids_logprobs": [[[-9.0, 7, "z"]]],
    }
    script = reply(event({"text": "a", "output_ids": [3], "meta_info": meta}) + event("[DONE]"))
    params: dict[str, Any] = {"logprobs": 2, "prompt_logprobs": 1, "logprob_start": 0, "logprob_token_ids": (7,)}
    deltas, sent, _ = await asked("stolon", script, PLAIN, **params)
    assert sent.body["return_logprob"] is True
    assert (sent.body["top_logprobs_num"], sent.body["logprob_start_len"]) == (2, 0)
    assert sent.body["token_ids_logprob"] == [7]
    (token,) = deltas[0].logprobs or []
    assert (token.token, token.logprob, token.text, token.top) == (3, -0.5, "a", ((3, -0.5), (4, -0.75)))
    assert (token.top_texts, token.extra) == (("a", "b"), ((7, -9.0),))
    first, second = deltas[0].prompt_logprobs or []
    assert first is None
    assert second is not None
    assert (second.token, second.logprob) == (2, -1.0)
    assert deltas[-1].matched == "x"


async def test_sglang_gets_plain_text_natively_and_chats_by_the_openai_route() -> None:
    plain, sent_plain, _ = await asked("sglang", CUMULATIVE)
    chat, sent_chat, backend = await asked("sglang", CHAT, HELLO.append(Text("Sure, ")), top_k=5)
    assert (text_of(plain), text_of(chat)) == (TEXT, TEXT)
    assert (sent_plain.path, sent_chat.path) == ("/generate", "/v1/chat/completions")
    assert "incremental" not in sent_plain.body
    assert sent_chat.body["continue_final_message"] is True
    assert sent_chat.body["top_k"] == 5
    assert backend.capabilities.choose


async def test_vllm_is_spoken_to_by_the_openai_routes_alone() -> None:
    _, chat, _ = await asked("vllm", CHAT, HELLO)
    assert chat.path == "/v1/chat/completions"
    text = event({"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}) + event("[DONE]")
    deltas, plain, _ = await asked("vllm", reply(text), PLAIN, min_p=0.1)
    assert (text_of(deltas), plain.path, plain.body["min_p"]) == ("a", "/v1/completions", 0.1)
    assert plain.body["model"] == "tiny"


async def test_a_server_of_unknown_kind_is_refused_what_only_others_know() -> None:
    async with upstream(CHAT, kind="somebody") as server:
        backend = RuntimeEndpoint(server.origin)
        request = GenerateRequest(prompt=HELLO, params=SamplingParams(top_k=5))
        with pytest.raises(UnsupportedError, match="top_k"):
            _ = [d async for d in backend.stream(request)]
        assert "top_k" not in backend.capabilities.params
        await backend.close()
    assert server.requests == []


# --- what comes back ------------------------------------------------------------------------------------------------


async def test_tokens_usage_and_the_stopping_token_come_along() -> None:
    deltas, _, _ = await asked("stolon", NATIVE)
    assert [token for delta in deltas for token in delta.tokens] == [11, 12, 13, 14, 15]
    assert deltas[-1].matched == 2
    assert deltas[-1].usage == Usage(prompt_tokens=7, cached_tokens=2, completion_tokens=5, requests=1)


@pytest.mark.parametrize("events", [cumulative_events, native_events])
async def test_increments_are_handed_out_whichever_way_a_foreign_server_streams(events: Any) -> None:
    deltas, _, _ = await asked("sglang", reply(b"".join(events())))
    assert [delta.text for delta in deltas if delta.text] == list(WORDS)
    assert [token for delta in deltas for token in delta.tokens] == [11, 12, 13, 14, 15]


async def test_several_answers_keep_apart_on_the_native_route() -> None:
    stop = {"type": "stop", "matched": None}
    stream = [
        native_event("a", [1], 1, index=1),
        native_event("b", [2], 1, stop, index=0),
        native_event("c", [3], 2, stop, index=1),
    ]
    deltas, sent, _ = await asked("stolon", reply(b"".join(stream)), n=2)
    assert sent.body["sampling_params"]["n"] == 2
    assert (text_of(deltas, 0), text_of(deltas, 1)) == ("b", "ac")
    assert deltas[-1].usage == Usage(prompt_tokens=7, cached_tokens=2, completion_tokens=3, requests=1)


async def test_a_stop_string_that_a_foreign_server_streams_and_then_takes_back_is_not_handed_out() -> None:
    """SGLang streams the start of a stop string and cuts it off when it has seen all of it."""
    matched = {"type": "stop", "matched": "\n\nQ"}
    stream = [
        native_event("one\n", [1, 2], 2),
        native_event("one\ntwo\n\n", [1, 2, 3, 4], 4),
        native_event("one\ntwo", [1, 2, 3, 4, 5], 5, matched),
    ]
    deltas, _, _ = await asked("sglang", reply(b"".join(stream)), stop=("\n\nQ",))
    assert text_of(deltas) == "one\ntwo"
    assert deltas[-1].matched == "\n\nQ"


async def test_what_was_held_back_for_a_stop_string_comes_when_the_answer_ends_otherwise() -> None:
    stream = [native_event("one\n", [1], 1), native_event("one\n\n", [1, 2], 2, {"type": "length", "length": 2})]
    deltas, _, _ = await asked("sglang", reply(b"".join(stream)), stop=("\n\nQ",))
    assert text_of(deltas) == "one\n\n"


@pytest.mark.parametrize(
    "stream",
    [
        [native_event("a", [1], 1), native_event("c", [3], 3)],  # the second token is missing
        [native_event("a", [1], 1), native_event("bc", [2, 3], 2)],  # more came than is counted
        [native_event("ab", [1, 2], 2), native_event("x", [1, 2, 3], 3)],  # the text so far changed
        [event({"text": "a", "output_ids": [1], "meta_info": {}})],
        [event({"text": 5, "output_ids": [1], "meta_info": {"completion_tokens": 1}})],
        [event({"text": "a", "meta_info": {"completion_tokens": 1}})],
        [event({"text": "a", "output_ids": ["1"], "meta_info": {"completion_tokens": 1}})],
        [event({"text": "a", "output_ids": [1]})],
    ],
)
async def test_a_native_stream_that_does_not_add_up_is_an_error(stream: list[bytes]) -> None:
    with pytest.raises(BackendProtocolError):
        await asked("sglang", reply(b"".join([*stream, native_event("", [], 9, {"type": "length"})])))


# --- scores and the cache -------------------------------------------------------------------------------------------


async def test_stolons_server_scores_in_one_request() -> None:
    rows = [
        {"tokens": [5, 6], "logprobs": [-0.25, -0.5], "unconditional": [-3.0, -4.0]},
        {"tokens": [7], "logprobs": [-2.0], "unconditional": [-1.0]},
    ]
    async with upstream(reply({"scores": rows, "usage": {}}), kind="stolon") as server:
        backend = RuntimeEndpoint(server.origin)
        scores = await backend.score(HELLO.append(Text("I say ")), ["yes", "no"], unconditional=True)
        await backend.close()
    assert scores == [Score((5, 6), (-0.25, -0.5), (-3.0, -4.0)), Score((7,), (-2.0,), (-1.0,))]
    (sent,) = server.requests
    assert sent.path == "/score"
    assert sent.body == {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I say "}],
        "continue_final_message": True,
        "options": ["yes", "no"],
        "unconditional": True,
    }


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"scores": []},
        {"scores": [{"tokens": [1], "logprobs": [-1.0]}]},
        {"scores": [{"tokens": [1], "logprobs": []}, {"tokens": [1], "logprobs": [-1.0]}]},
        {"scores": [{"tokens": [1], "logprobs": [None]}, {"tokens": [1], "logprobs": [-1.0]}]},
        {"scores": ["yes", "no"]},
    ],
)
async def test_scores_that_make_no_sense_are_an_error(answer: dict[str, Any]) -> None:
    async with upstream(reply(answer), kind="stolon") as server:
        backend = RuntimeEndpoint(server.origin)
        with pytest.raises(BackendProtocolError):
            await backend.score(PLAIN, ["yes", "no"])
        await backend.close()


class SGLangScores:
    """Answers as SGLang's `/generate` with log-probabilities does: the first of those returned is always None.

    A character is a token, but "ab" is one token; log-probability of a token is minus its place in the prompt.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []

    @staticmethod
    def tokens(text: str) -> list[int]:
        return [ord(c) for c in text.replace("ab", "\x01")]

    async def __call__(self, connection: Any) -> None:
        body = self.requests[-1].body
        prompts = body.get("input_ids") or [self.tokens(text) for text in body["text"]]
        start = max(body.get("logprob_start_len", -1), 0)
        answers = []
        for ids in prompts:
            rows = [[-float(place), token, None] for place, token in enumerate(ids)][start:]
            rows[0][0] = None
            meta = {"prompt_tokens": len(ids), "input_token_logprobs": rows}
            answers.append({"text": "", "output_ids": [], "meta_info": meta})
        await reply(json.dumps(answers), content_type="application/json")(connection)


async def sglang_scores(prompt: str, options: list[str], *, unconditional: bool = False) -> list[Score]:
    script = SGLangScores()
    async with upstream(script, kind="sglang") as server:
        script.requests = server.requests
        backend = RuntimeEndpoint(server.origin, max_retries=0)
        try:
            return await backend.score(EMPTY.append(Text(prompt)), options, unconditional=unconditional)
        finally:
            await backend.close()


async def test_sglang_scores_what_follows_the_shared_tokens() -> None:
    scores = await sglang_scores("The answer: ", ["yes", "no"])
    assert scores == [
        Score((ord("y"), ord("e"), ord("s")), (-12.0, -13.0, -14.0)),
        Score((ord("n"), ord("o")), (-12.0, -13.0)),
    ]


async def test_a_token_that_spans_the_border_counts_to_its_option() -> None:
    scores = await sglang_scores("The answer: a", ["b", "c"])
    assert scores == [Score((1,), (-12.0,)), Score((ord("a"), ord("c")), (-12.0, -13.0))]


async def test_a_prompt_shorter_than_the_slack_is_scored_from_its_start() -> None:
    assert await sglang_scores("x", ["y", "zz"]) == [
        Score((ord("y"),), (-1.0,)),
        Score((ord("z"), ord("z")), (-1.0, -2.0)),
    ]


async def test_sglang_scores_options_on_their_own_with_nothing_for_the_first_token() -> None:
    scores = await sglang_scores("The answer: ", ["yes", "no"], unconditional=True)
    assert [score.unconditional for score in scores] == [(0.0, -1.0, -2.0), (0.0, -1.0)]


async def test_the_first_token_of_all_cannot_be_scored_and_that_is_said() -> None:
    with pytest.raises(UnsupportedError, match="very first token"):
        await sglang_scores("a", ["b", "c"])


async def test_sglang_cannot_score_chats_and_says_so() -> None:
    async with upstream(CHAT, kind="sglang") as server:
        backend = RuntimeEndpoint(server.origin)
        with pytest.raises(UnsupportedError):
            await backend.score(HELLO, ["yes", "no"])
        await backend.close()
    assert server.requests == []


async def test_a_prompt_is_computed_ahead_where_the_server_keeps_it() -> None:
    async with upstream(reply({"text": "", "output_ids": [], "meta_info": {}}), kind="stolon") as server:
        backend = RuntimeEndpoint(server.origin)
        await backend.prefill(PLAIN)
        await backend.close()
    assert server.requests[0].body["sampling_params"]["max_new_tokens"] == 0
    async with upstream(CHAT, kind="vllm") as server:
        backend = RuntimeEndpoint(server.origin)
        await backend.prefill(PLAIN)
        await backend.close()
    assert server.requests == []


@pytest.mark.parametrize(("status", "flushed"), [(200, True), (400, False), (404, False)])
async def test_flushing_tells_whether_it_was_done(status: int, flushed: bool) -> None:
    async with upstream(reply("Cache flushed.", status, "text/plain"), kind="stolon") as server:
        backend = RuntimeEndpoint(server.origin)
        assert await backend.flush_cache() is flushed
        await backend.close()
    assert server.requests[0].path == "/flush_cache"
