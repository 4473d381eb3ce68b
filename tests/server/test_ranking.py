"""/v1/score and /v1/rerank, by each kind of model; /tokenize and /detokenize."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest

from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, DETOKENIZE, LABELS, RERANK, TOKENIZE, refused
from tests.server.fake_embedder import FakeEmbedder

DOCUMENTS = ["xyz", "abcd", "abxy"]


async def asked(server: Running, route: str, **body: Any) -> dict[str, Any]:
    async with server.http.post(route, json=body) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


@pytest.mark.parametrize("is_classifier", [True, False], ids=["classifier", "embeddings"])
async def test_documents_are_ranked_by_how_well_they_fit(start: StartServer, is_classifier: bool) -> None:
    server = await start(embedder=FakeEmbedder(is_classifier=is_classifier))
    whole = await asked(server, RERANK, query="abcd", documents=DOCUMENTS)
    assert [result["index"] for result in whole["results"]] == [1, 2, 0]
    assert [result["document"]["text"] for result in whole["results"]] == ["abcd", "abxy", "xyz"]
    scores = [result["relevance_score"] for result in whole["results"]]
    wanted = [1 / (1 + math.exp(-logit)) for logit in (2, 0, -2)] if is_classifier else [1, 0.5, 0]
    assert scores == pytest.approx(wanted, abs=0.01)
    assert whole["usage"]["total_tokens"] > 0


async def test_a_model_that_talks_is_asked_about_each_document(server: Running) -> None:
    """The fake engine holds a token the likelier the smaller it is: `n` before `y`."""
    whole = await asked(server, RERANK, model="fake", query="q", documents=DOCUMENTS, instruct="Find q.")
    scores = [result["relevance_score"] for result in whole["results"]]
    yes, no = math.exp(-ord("y") / 100), math.exp(-ord("n") / 100)
    assert scores == pytest.approx([yes / (yes + no)] * 3)
    said = server.engine.tokenizer.decode(server.engine.asked[0].prompt)
    assert "<Instruct>: Find q.\n<Query>: q\n<Document>: xyz" in said
    assert all(each.params.max_tokens == 1 for each in server.engine.asked)


async def test_only_the_best_come_back_and_without_text_if_that_is_asked(start: StartServer) -> None:
    server = await start(embedder=FakeEmbedder())
    whole = await asked(server, RERANK, query="ab", documents=[{"text": "ab"}, "b"], top_n=1, return_documents=False)
    assert whole["results"] == [{"index": 0, "relevance_score": pytest.approx(1)}]


async def test_labels_are_scored_as_sglang_does_it(server: Running) -> None:
    labels = [97, 98, 258]
    whole = await asked(server, LABELS, query="hello ", items=["a", "b"], label_token_ids=labels)
    assert whole["object"] == "scoring"
    assert whole["scores"] == [pytest.approx([math.exp(-id / 100) for id in labels])] * 2
    assert [server.engine.tokenizer.decode(each.prompt) for each in server.engine.asked] == ["hello a", "hello b"]
    assert whole["usage"] == {"prompt_tokens": 16, "total_tokens": 16}
    shares = await asked(server, LABELS, query="q", items="a", label_token_ids=labels, apply_softmax=True)
    assert sum(shares["scores"][0]) == pytest.approx(1)


async def test_items_may_come_first_and_as_tokens(server: Running) -> None:
    await asked(server, LABELS, query="q", items=["a"], label_token_ids=[1], item_first=True)
    await asked(server, LABELS, query=[1, 2], items=[[3], [4]], label_token_ids=[1])
    prompts = [each.prompt[-2:] for each in server.engine.asked]
    assert prompts == [[97, 113], [2, 3], [2, 4]]


async def test_pairs_are_scored_as_vllm_does_it(start: StartServer) -> None:
    server = await start(embedder=FakeEmbedder(is_classifier=True))
    whole = await asked(server, LABELS, model="fake", text_1="abcd", text_2=DOCUMENTS)
    assert [entry["object"] for entry in whole["data"]] == ["score"] * 3
    wanted = [1 / (1 + math.exp(-logit)) for logit in (-2, 2, 0)]
    assert [entry["score"] for entry in whole["data"]] == pytest.approx(wanted)
    pairs = await asked(server, LABELS, text_1=["abcd", "x"], text_2=["abcd", "y"])
    assert [entry["score"] for entry in pairs["data"]] == pytest.approx([wanted[1], wanted[0]])
    later = await asked(server, LABELS, queries="abcd", documents=DOCUMENTS)
    assert later["data"] == whole["data"]


@pytest.mark.parametrize(
    ("route", "body", "code", "param"),
    [
        (LABELS, {"items": "a", "label_token_ids": [1]}, "missing_parameter", "query"),
        (LABELS, {"query": "a", "items": "a"}, "missing_parameter", "label_token_ids"),
        (LABELS, {"query": "a", "items": [[1]], "label_token_ids": [1]}, "invalid_type", "items"),
        (LABELS, {"query": "a", "items": "a", "label_token_ids": [259]}, "token_id_out_of_range", "label_token_ids[0]"),
        (LABELS, {"text_1": "a", "text_2": "b"}, "unsupported_parameter", "text_1"),
        (LABELS, {"query": "a" * 5000, "items": "a", "label_token_ids": [1]}, "context_length_exceeded", "prompt"),
        (RERANK, {"query": "a"}, "missing_parameter", "documents"),
        (RERANK, {"query": "a", "documents": []}, "invalid_value", "documents"),
        (RERANK, {"query": "a", "documents": [{"title": "b"}]}, "unknown_parameter", "documents[0].title"),
        (RERANK, {"query": "a", "documents": ["b"], "top_n": 0}, "invalid_value", "top_n"),
        (RERANK, {"query": "a", "documents": ["b"], "model": "other"}, "model_not_found", "model"),
        (TOKENIZE, {}, "invalid_value", "prompt"),
        (TOKENIZE, {"prompt": []}, "invalid_value", "prompt"),
        (TOKENIZE, {"prompt": ["a", 1]}, "invalid_type", "prompt[1]"),
        (TOKENIZE, {"prompt": ["a" * (1 << 19)] * 3}, "invalid_value", "prompt"),
        (DETOKENIZE, {"tokens": [[1], [259]]}, "token_id_out_of_range", "tokens[1][0]"),
        (DETOKENIZE, {"tokens": [[1] * (1 << 16)] * 3}, "invalid_value", "tokens"),
        (TOKENIZE, {"prompt": "a", "messages": []}, "invalid_value", "messages"),
        (DETOKENIZE, {}, "missing_parameter", "tokens"),
        (DETOKENIZE, {"tokens": [1, 259]}, "token_id_out_of_range", "tokens[1]"),
    ],
)
async def test_a_bad_field_is_refused_by_name(
    server: Running, route: str, body: dict[str, Any], code: str, param: str
) -> None:
    data = io.BytesIO(json.dumps(body).encode())
    async with server.http.post(route, data=data, headers={"Content-Type": "application/json"}) as reply:
        await refused(reply, 404 if code == "model_not_found" else 400, code, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text_1": "a"}, "text_2"),
        ({"text_1": "a", "text_2": "b", "documents": "c"}, "documents"),
        ({"queries": ["a", "b"], "documents": ["a"]}, "queries"),
        ({"text_1": ["a", "b"], "text_2": ["a"]}, "text_1"),
        ({"text_1": "a", "text_2": "b", "query": "c"}, "query"),
    ],
)
async def test_pairs_that_do_not_fit_are_refused(start: StartServer, body: dict[str, Any], param: str) -> None:
    server = await start(embedder=FakeEmbedder())
    async with server.http.post(LABELS, json=body) as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["param"] == param


async def test_text_becomes_tokens_and_text_again(server: Running) -> None:
    whole = await asked(server, TOKENIZE, prompt="hé", return_token_strs=True)
    assert whole == {
        "tokens": [256, 104, 195, 169],
        "count": 4,
        "max_model_len": 4096,
        "token_strs": ["<s>", "h", "\ufffd", "\ufffd"],
    }
    assert (await asked(server, TOKENIZE, prompt="hé", add_special_tokens=False))["tokens"] == [104, 195, 169]
    assert await asked(server, DETOKENIZE, tokens=[256, 104, 195, 169]) == {"text": "hé", "prompt": "hé"}
    kept = await asked(server, "/v1/detokenize", tokens=[256, 104], skip_special_tokens=False)
    assert kept["text"] == "<s>h"


async def test_several_texts_become_several_lists_as_in_sglang(server: Running) -> None:
    texts = ["hé", "", "a"]
    alone = [await asked(server, TOKENIZE, prompt=text, return_token_strs=True) for text in texts]
    several = await asked(server, TOKENIZE, prompt=texts, return_token_strs=True)
    assert several.pop("max_model_len") == 4096
    assert several == {name: [one[name] for one in alone] for name in ("tokens", "count", "token_strs")}
    assert await asked(server, DETOKENIZE, tokens=several["tokens"]) == {"text": texts, "prompt": texts}
    assert (await asked(server, TOKENIZE, prompt=["a"]))["count"] == [2]
    assert (await asked(server, DETOKENIZE, tokens=[[97]]))["text"] == ["a"]
    assert (await asked(server, DETOKENIZE, tokens=[]))["text"] == ""


async def test_a_conversation_becomes_what_the_template_makes_of_it(server: Running) -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    opened = await asked(server, "/v1/tokenize", messages=said)
    assert server.engine.tokenizer.decode(opened["tokens"]) == "user: aassistant: bassistant: "
    continued = await asked(server, TOKENIZE, messages=said, continue_final_message=True)
    assert server.engine.tokenizer.decode(continued["tokens"]) == "user: aassistant: b"
    closed = await asked(server, TOKENIZE, messages=said, add_generation_prompt=False)
    assert closed["tokens"] == continued["tokens"]  # this template closes no message
    reply = await asked(server, CHAT, model="fake", messages=said, add_generation_prompt=False)
    assert server.engine.asked[-1].prompt == closed["tokens"]
    assert reply["usage"]["prompt_tokens"] == closed["count"]


async def test_tools_count_as_they_do_in_a_chat(server: Running) -> None:
    said = [{"role": "user", "content": "a"}]
    tools = [{"type": "function", "function": {"name": "time"}}]
    alone = await asked(server, TOKENIZE, messages=said)
    found = await asked(server, TOKENIZE, messages=said, tools=tools)
    reply = await asked(server, CHAT, model="fake", messages=said, tools=tools)
    assert alone["count"] < found["count"] == reply["usage"]["prompt_tokens"]
    async with server.http.post(TOKENIZE, json={"prompt": "a", "tools": tools}) as refusal:
        await refused(refusal, 400, "invalid_value", "tools")
