"""Streams: nothing is lost, any number of readers, and leaving one early reaches the backend."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

from stolon import Cancelled, GenerationError, function, gen, select, user

WORDS = "one two three four five six seven"


@function
def essay(s, topic="t"):
    s += "About " + topic + ": " + gen("essay") + "."
    s += gen("end")


def eventually(holds, limit_s=5.0):
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def test_the_pieces_of_a_stream_are_its_text(scripted):
    scripted([WORDS, "fin"] * 2, tokens_per_delta=1, delta_s=0.001)
    state = essay.run(stream=True)
    assert "".join(state.text_iter()) == state.text() == f"About t: {WORDS}.fin"
    pieces = list(essay.stream())
    assert [p.text for p in pieces if p.name == "essay"] == [
        "one",
        " two",
        " three",
        " four",
        " five",
        " six",
        " seven",
    ]
    assert [p.finish for p in pieces if p.finish] == ["stop", "stop"]
    assert "".join(map(str, pieces)) == f"About t: {WORDS}.fin"


def test_any_number_of_readers_see_everything(scripted):
    scripted([WORDS, "fin"], tokens_per_delta=1, delta_s=0.005)
    state = essay.run(stream=True)
    heard = {}

    def read(number):
        time.sleep(number * 0.01)
        heard[number] = list(state.text_iter("essay"))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(map(tuple, heard.values())) == {("one", " two", " three", " four", " five", " six", " seven")}


def test_a_reader_waits_for_a_name_that_comes_later(scripted):
    scripted("r")

    @function
    def program(s):
        time.sleep(0.05)
        s += gen("late")

    assert list(program.run(stream=True).text_iter("late")) == ["r"]
    assert program.run(stream=True)["late"] == "r"


def test_a_name_that_never_comes_is_a_key_error(scripted):
    scripted("r")
    state = essay.run(stream=True)
    with pytest.raises(KeyError, match="defined: 'essay', 'end'"):
        list(state.text_iter("esay"))


def test_text_iter_of_a_finished_run_gives_the_text_at_once(scripted):
    scripted([WORDS, "fin"], tokens_per_delta=1)
    state = essay.run()
    assert list(state.text_iter()) == [f"About t: {WORDS}.fin"]
    assert list(state.text_iter("essay")) == [WORDS]


def test_scopes_selections_and_assignments_stream_as_one_piece(scripted):
    scripted("r", scores=lambda prompt, option: -len(option))

    @function
    def program(s):
        with s.var_scope("scope"):
            s += "a" + gen("x")
        s["set"] = "value"
        s += select("pick", ["b", "cc"])

    state = program.run(stream=True)
    for name, expected in (("scope", "ar"), ("set", "value"), ("pick", "b")):
        assert list(state.text_iter(name)) == [expected]


def test_a_failure_is_raised_in_the_reader_after_what_had_come(scripted):
    from stolon import Delta, Scripted, set_default_backend

    class Breaking(Scripted):
        async def stream(self, request):
            yield Delta("some ")
            yield Delta("text")
            raise ConnectionError("cut")

    set_default_backend(Breaking())
    state = essay.run(stream=True)
    reader = state.text_iter("essay")
    assert [next(reader), next(reader)] == ["some ", "text"]
    with pytest.raises(GenerationError, match="cut"):
        next(reader)
    with pytest.raises(GenerationError, match="cut"):
        list(essay.run(stream=True).text_iter())
    assert isinstance(state.error(), GenerationError)


def test_an_error_of_the_body_surfaces_in_the_reader_and_in_error(scripted):
    scripted("r")

    @function
    def program(s):
        s += "text" + gen("x")
        s["x"]
        raise ZeroDivisionError("mine")

    state = program.run(stream=True)
    with pytest.raises(ZeroDivisionError, match="mine"):
        list(state.text_iter())
    assert isinstance(state.error(), ZeroDivisionError)
    assert list(state.text_iter("x")) == ["r"]
    with pytest.raises(ZeroDivisionError):
        state["never declared"]
    with pytest.raises(ZeroDivisionError):
        _ = state.value


@pytest.mark.parametrize(
    "read",
    [
        lambda program: program.run(stream=True)["essay"],
        lambda program: list(program.run(stream=True).text_iter("essay")),
        lambda program: program.map([()], errors="return")[0]["essay"],
    ],
    ids=["by name", "as a stream", "in a batch"],
)
def test_a_reader_of_a_pending_name_learns_what_the_body_raised(scripted, read):
    scripted("r", latency_s=5)

    @function
    def program(s):
        s += gen("essay")
        raise ZeroDivisionError("mine")

    with pytest.raises(Cancelled, match="the program raised ZeroDivisionError: mine") as caught:
        read(program)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_leaving_a_stream_early_aborts_at_the_backend(scripted):
    backend = scripted(WORDS, tokens_per_delta=1, delta_s=0.05)
    state = essay.run(stream=True)
    for _ in state.text_iter("essay"):
        break
    eventually(lambda: backend.aborts == 1)
    with pytest.raises(Cancelled):
        state["essay"]
    assert len(backend.requests) == 1


def test_leaving_one_of_two_streams_cancels_nothing(scripted):
    backend = scripted([WORDS, "fin"], tokens_per_delta=1, delta_s=0.01)
    state = essay.run(stream=True)
    one, two = state.text_iter("essay"), state.text_iter("essay")
    next(two)
    next(one)
    one.close()
    assert "".join(two) == WORDS.removeprefix("one")
    state.sync()
    assert backend.aborts == 0


async def test_leaving_an_asynchronous_stream_early_aborts_too(scripted):
    backend = scripted(WORDS, tokens_per_delta=1, delta_s=0.05)
    state = essay.run(stream=True)
    async for _ in state.text_async_iter("essay"):
        break
    gc.collect()
    await asyncio.sleep(0)
    for _ in range(200):
        if backend.aborts:
            break
        await asyncio.sleep(0.01)
    assert backend.aborts == 1


async def test_streams_are_read_by_async_for(scripted):
    scripted([WORDS, "fin"] * 3, tokens_per_delta=1, delta_s=0.001)
    assert "".join([p async for p in essay.run(stream=True).text_async_iter()]) == f"About t: {WORDS}.fin"
    assert "".join([p.text async for p in essay.stream()]) == f"About t: {WORDS}.fin"
    state = essay.run(stream=True)
    with pytest.raises(ValueError, match="needs the name"):
        state.text_async_iter(None, return_meta_data=True)
    await state.wait()


def test_increments_without_text_lose_no_log_probability(scripted):
    from stolon import Delta, Scripted, Usage, set_default_backend
    from stolon.lang.types import TokenLogprob

    class Halves(Scripted):
        async def stream(self, request):
            for i, text in enumerate(["", "é", "", "b"]):
                yield Delta(text, [i], logprobs=[TokenLogprob(i, -1.0)])
            usage = Usage(completion_tokens=5, requests=1)
            yield Delta("", [4], logprobs=[TokenLogprob(4, -1.0)], finish="stop", usage=usage)

    set_default_backend(Halves())

    async def read():
        state = function(lambda s: s.append(gen("x", return_logprob=True))).run(stream=True)
        return [chunk async for chunk in state.text_async_iter("x", return_meta_data=True)]

    chunks = asyncio.run(read())
    assert [text for text, _ in chunks] == ["é", "b"]
    assert [[token for _, token, _ in meta["output_token_logprobs"]] for _, meta in chunks] == [[0, 1, 2], [3, 4]]
    assert [meta["completion_tokens"] for _, meta in chunks] == [3, 5]
    assert chunks[-1][1]["finish_reason"] == {"type": "stop"}


def test_a_rendered_prompt_streams_as_the_model_reads_it(scripted):
    from stolon import Scripted, set_default_backend
    from stolon.lang.prompt import RoleClose, RoleOpen

    class Rendered(Scripted):
        def render(self, prompt):
            marks = {RoleOpen: lambda p: f"<|{p.role}|>", RoleClose: lambda p: "<|end|>"}
            return "".join(marks.get(type(p), lambda p: p.value)(p) for p in prompt.pieces())

    set_default_backend(Rendered(WORDS, tokens_per_delta=1))
    state = function(lambda s: s.append(user("q") + gen("x"))).run(stream=True)
    assert "".join(state.text_iter()) == state.text() == f"<|user|>q<|end|>{WORDS}"
