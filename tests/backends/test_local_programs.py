"""Programs on the engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from stolon import (
    Runtime,
    State,
    assistant,
    flush_cache,
    function,
    gen,
    get_server_info,
    select,
    system,
    token_length_normalized,
    user,
)
from stolon.lang.choices import ChoicesMethod
from stolon.lang.errors import GenerationError
from stolon.lang.prompt import EMPTY, Text
from stolon.runtime.score import shared_length

SETTINGS = {"dtype": "float32", "kv_tokens": 4096, "threads": 1, "check": True}
STEM = "The capital of the United States is Washington. " * 4
ENDS = [" one", " two", " three", " four", " five", " six", " seven", " eight"]


@pytest.fixture(scope="module")
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime(str(tiny_checkpoint), **SETTINGS) as runtime:
        yield runtime


@function
def multi_turn_question(s: State, question_1: str, question_2: str) -> None:
    s += system("You are a helpful assistant.")
    s += user(question_1)
    s += assistant(gen("answer_1", max_tokens=24))
    s += user(question_2)
    s += assistant(gen("answer_2", max_tokens=24))


QUESTIONS = ("What is the capital of the United States?", "List two local attractions.")


def test_a_conversation_of_two_turns(runtime: Runtime) -> None:
    state = multi_turn_question.run(*QUESTIONS, backend=runtime, temperature=0)
    assert [message["role"] for message in state.messages()] == ["system", "user", "assistant", "user", "assistant"]
    assert state["answer_1"] == state.messages()[2]["content"]
    assert state["answer_1"] != state["answer_2"]
    assert state.usage.requests == 2


def test_the_main_program_on_the_built_in_model() -> None:
    with Runtime("tiny", threads=1) as tiny:
        state = multi_turn_question.run(*QUESTIONS, backend=tiny, temperature=0)
        assert "Washington" in state["answer_1"]
        assert state["answer_2"]
        assert state.usage.cached_tokens > 20  # the second turn found the first


def test_e6_a_stream_adds_up_to_the_text_of_a_run(runtime: Runtime) -> None:
    whole = multi_turn_question.run(*QUESTIONS, backend=runtime, temperature=0)
    streamed = multi_turn_question.run(*QUESTIONS, backend=runtime, temperature=0, stream=True)
    assert "".join(streamed.text_iter("answer_1")) == whole["answer_1"]
    assert "".join(streamed.text_iter("answer_2")) == whole["answer_2"]
    assert "".join(streamed.text_iter()) == whole.text()


@function
def with_a_system_turn(s: State, question: str) -> None:
    s += system("You are a helpful assistant.")
    s += user(question)
    s += assistant(gen("answer", max_tokens=32))


def test_a_stream_read_from_its_beginning_is_the_text_that_the_model_reads(runtime: Runtime) -> None:
    streamed = with_a_system_turn.run("What is the capital of Italy?", backend=runtime, stream=True)
    assert "".join(streamed.text_iter()) == streamed.text()
    assert streamed.text().endswith(f"{streamed['answer']}<|im_end|>\n")  # and no turn that nobody began


@function
def branching(s: State, stem: str, ends: list[str]) -> list[str]:
    s += stem
    branches = s.fork(len(ends))
    for branch, end in zip(branches, ends, strict=True):
        branch += end + gen("more", max_tokens=12, temperature=0)
    return [branch["more"] for branch in branches]


@function
def straight(s: State, stem: str, end: str) -> str:
    s += stem + end + gen("more", max_tokens=12, temperature=0)
    return s["more"]


def test_e9_branches_answer_as_separate_prompts_do(runtime: Runtime) -> None:
    apart: list[str] = []
    for end in ENDS:
        runtime.flush()
        apart.append(straight.run(stem=STEM, end=end, backend=runtime).value)
    runtime.flush()
    assert branching.run(stem=STEM, ends=ENDS, backend=runtime).value == apart
    assert len(set(apart)) > 4


def test_a_fork_computes_what_its_branches_share_once(runtime: Runtime) -> None:
    @function
    def program(s: State) -> None:
        s += STEM
        branches = s.fork(8)
        for branch, end in zip(branches, ENDS, strict=True):
            branch += end + gen("x", max_tokens=1, temperature=0)
        branches.join()

    runtime.flush()
    before = runtime.stats().counters.computed
    program.run(backend=runtime)
    prompts = [runtime.encode(EMPTY.append(Text(STEM + end))) for end in ENDS]
    shared = shared_length(prompts)
    assert shared > 30
    computed = runtime.stats().counters.computed - before
    assert computed == shared + sum(len(prompt) - shared for prompt in prompts)


@pytest.mark.parametrize("method", [None, token_length_normalized])
def test_a_choice_is_the_likeliest_option(runtime: Runtime, method: ChoicesMethod | None) -> None:
    options = [" Washington", " the National Mall", " Köln"]

    @function
    def program(s: State) -> str:
        s += "The capital is"
        s += select("city", options) if method is None else select("city", options, choices_method=method)
        return s["city"]

    chosen = program.run(backend=runtime).value
    scores = asyncio.run(runtime.score(EMPTY.append(Text("The capital is")), options))
    assert chosen == options[max(range(3), key=lambda index: scores[index].mean)]


def test_a_batch_answers_as_single_runs_do(runtime: Runtime) -> None:
    items = [{"stem": STEM, "end": end} for end in ENDS]
    alone = [straight.run(stem=STEM, end=end, backend=runtime).value for end in ENDS]
    assert [state.value for state in straight.run_batch(items, backend=runtime)] == alone


async def test_an_async_program_and_a_running_loop(runtime: Runtime) -> None:
    @function
    async def program(s: State, end: str) -> str:
        s += STEM + end + gen("more", max_tokens=8, temperature=0)
        return await s.get("more")

    states = await asyncio.gather(*(program.arun(end=end, backend=runtime) for end in ENDS))
    assert len({state.value for state in states}) > 4


def test_two_runs_with_one_seed_are_equal_and_their_branches_differ(runtime: Runtime) -> None:
    @function
    def program(s: State) -> list[str]:
        s += "one two three"
        branches = s.fork(4)
        branches += gen("more", max_tokens=12, temperature=1.0)
        return list(branches["more"])

    first, second, other = (program.run(backend=runtime, seed=seed).value for seed in (1, 1, 2))
    assert first == second != other
    assert len(set(first)) == 4


def test_a_cancelled_stream_stops_the_engine(runtime: Runtime) -> None:
    @function
    def endless(s: State) -> None:
        s += "one two" + gen("more", max_tokens=900, ignore_eos=True, temperature=0)

    state = endless.run(backend=runtime, stream=True)
    next(state.text_iter("more"))
    state.cancel()
    for _ in range(300):
        if runtime.stats().running == 0:
            break
        asyncio.run(asyncio.sleep(0.01))
    assert runtime.stats().running == 0


def test_an_engines_refusal_reaches_the_program(runtime: Runtime) -> None:
    @function
    def program(s: State) -> None:
        s += "one " * 2000 + gen("more")

    with pytest.raises(GenerationError, match="more") as failure:
        program.run(backend=runtime)
    assert "no token can follow" in str(failure.value.__cause__)


def test_the_cache_is_flushed_and_the_model_names_itself(runtime: Runtime, tiny_checkpoint: Path) -> None:
    straight.run(stem=STEM, end=" one", backend=runtime)
    assert flush_cache(runtime)
    assert runtime.stats().cached == 0
    assert get_server_info(runtime)["model"] == tiny_checkpoint.name
