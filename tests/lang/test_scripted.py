"""The scripted backend itself: it must behave like a model behind a server, or tests on it prove nothing."""

from __future__ import annotations

import asyncio

import pytest

from stolon import GenerateRequest, SamplingParams, Scripted
from stolon.lang.prompt import EMPTY, Text


def ask(backend, **params):
    async def collect():
        request = GenerateRequest(prompt=EMPTY.append(Text("the prompt")), params=SamplingParams(**params))
        return [delta async for delta in backend.stream(request)]

    return asyncio.run(collect())


def test_a_list_a_mapping_a_function_and_text_are_scripts():
    assert ask(Scripted("t"))[0].text == "t"
    backend = Scripted(["a", "b"])
    assert [ask(backend)[0].text for _ in range(2)] == ["a", "b"]
    with pytest.raises(AssertionError, match="has 2 answers"):
        ask(backend)
    assert ask(Scripted({"other": "x", "prom.t": "y"}))[0].text == "y"
    with pytest.raises(AssertionError, match="no pattern"):
        ask(Scripted({"other": "x"}))
    assert ask(Scripted(lambda request: request.prompt.text().upper()))[0].text == "THE PROMPT"
    with pytest.raises(ZeroDivisionError):
        ask(Scripted([ZeroDivisionError()]))


def test_deltas_are_increments_and_only_the_last_has_a_finish():
    for size in (0, 1, 2, 100):
        deltas = ask(Scripted("one two  three\n", tokens_per_delta=size))
        assert "".join(d.text for d in deltas) == "one two  three\n"
        assert [d.finish for d in deltas] == [None] * (len(deltas) - 1) + ["stop"]
        assert deltas[-1].usage is not None
        assert deltas[-1].usage.completion_tokens == sum(len(d.tokens) for d in deltas)


@pytest.mark.parametrize(
    ("params", "text", "finish", "matched"),
    [
        ({"stop": ("three", "two")}, "one ", "stop", "two"),
        ({"stop": ("two",), "include_stop": True}, "one two", "stop", "two"),
        ({"stop_regex": ("t[hw]",)}, "one ", "stop", "tw"),
        ({"max_tokens": 2}, "one two", "length", None),
        ({"max_tokens": 0}, "", "length", None),
        ({}, "one two three", "stop", None),
    ],
)
def test_answers_are_cut_as_asked(params, text, finish, matched):
    last = ask(Scripted("one two three"), **params)[-1]
    assert ("".join(d.text for d in ask(Scripted("one two three"), **params)), last.finish, last.matched) == (
        text,
        finish,
        matched,
    )


def test_several_answers_have_their_own_index_and_one_usage():
    deltas = ask(Scripted(["a", "b c"]), n=2)
    assert [(d.index, d.text, d.finish) for d in deltas] == [(0, "a", "stop"), (1, "b c", "stop")]
    assert deltas[0].usage is None
    assert deltas[1].usage is not None
    assert deltas[1].usage.completion_tokens == 3


def test_leaving_early_counts_as_an_abort():
    async def leave(backend):
        stream = backend.stream(GenerateRequest(prompt=EMPTY))
        await anext(stream)
        await stream.aclose()

    backend = Scripted("a b c", tokens_per_delta=1)
    asyncio.run(leave(backend))
    assert (backend.aborts, backend.active, backend.most_active) == (1, 0, 1)


def test_scores_are_as_told_and_otherwise_made_up_the_same_each_time():
    prompt = EMPTY.append(Text("p"))
    told = asyncio.run(Scripted(scores=lambda p, option: -1.0).score(prompt, ["a b", "c"], unconditional=True))
    assert [score.logprobs for score in told] == [(-1.0, -1.0), (-1.0,)]
    assert told[0].unconditional == (-1.0, -1.0)
    made = [asyncio.run(Scripted().score(prompt, ["a", "b"])) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0][0] != made[0][1]
