"""Whole programs over remote backends: their answers, and how a server's misbehaviour reaches the user."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import stolon
from stolon import GenerationError, OpenAI, RuntimeEndpoint, assistant, function, gen, select, system, user
from stolon.lang.backend import Backend
from stolon.lang.errors import BackendProtocolError, StreamTruncatedError, UnsupportedError
from stolon.lang.hub import get_hub
from tests.backends.speakers import TEXT, chat_events, native_events
from tests.backends.upstream import Connection, Script, Upstream, event, reply, upstream


@contextmanager
def served(*scripts: Script, kind: str = "openai") -> Iterator[Upstream]:
    """The server on a loop of its own, as programs run on theirs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    context = upstream(*scripts, kind=kind)
    try:
        yield call(context.__aenter__())
    finally:
        call(context.__aexit__(None, None, None))
        call(_cancel_the_rest())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_the_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


@contextmanager
def closing(backend: Backend) -> Iterator[Backend]:
    try:
        yield backend
    finally:
        get_hub().call(backend.close())


@function
def multi_turn_question(s: Any, question_1: str, question_2: str) -> None:
    s += system("You are a helpful assistant.")
    s += user(question_1)
    s += assistant(gen("answer_1", max_tokens=256))
    s += user(question_2)
    s += assistant(gen("answer_2", max_tokens=256))


QUESTIONS: dict[str, Any] = {
    "question_1": "What is the capital of the United States?",
    "question_2": "List two local attractions.",
}
EXPECTED = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": QUESTIONS["question_1"]},
    {"role": "assistant", "content": "Washington."},
    {"role": "user", "content": QUESTIONS["question_2"]},
    {"role": "assistant", "content": "The Mall and the Memorial."},
]


@pytest.mark.parametrize(
    ("kind", "events"), [("openai", chat_events), ("stolon", native_events), ("vllm", chat_events)]
)
def test_the_same_program_runs_on_every_kind_of_server(kind: str, events: Any) -> None:
    answers = [["Wash", "ington", "."], ["The Mall", " and", " the", " Memorial."]]
    scripts = [reply(b"".join(events(words))) for words in answers]
    with served(*scripts, kind=kind) as server:
        backend: Backend = RuntimeEndpoint(server.origin)
        if kind == "openai":
            backend = OpenAI("gpt-3.5-turbo", base_url=server.origin + "/v1", api_key="secret")
        with closing(backend):
            state = multi_turn_question.run(backend=backend, **QUESTIONS)
    assert state.messages() == EXPECTED
    assert (state["answer_1"], state["answer_2"]) == ("Washington.", "The Mall and the Memorial.")
    assert (state.usage.completion_tokens, state.usage.requests) == (7, 2)
    assert server.requests[1].body["messages"] == EXPECTED[:4]


def test_the_text_streams_while_it_arrives() -> None:
    release = threading.Event()

    async def slow(connection: Connection) -> None:
        first, *rest = chat_events(["Hel", "lo"])[1:]
        await connection.head()
        await connection.send(first)
        while not release.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await connection.send(b"".join(rest))

    with served(slow) as server, closing(_openai(server)) as backend:
        state = ask.run(backend=backend, stream=True)
        pieces = state.text_iter("x")
        assert next(pieces) == "Hel"
        release.set()
        assert "".join(pieces) == "lo"


@function
def ask(s: Any) -> None:
    s += user("Greet.")
    s += assistant(gen("x"))


def _openai(server: Upstream, **options: Any) -> OpenAI:
    return OpenAI("gpt-3.5-turbo", base_url=server.origin + "/v1", api_key="secret", max_retries=0, **options)


def cut(connection: Connection) -> Any:
    async def script() -> None:
        await connection.head()
        await connection.send(b"".join(chat_events()[:3]))

    return script()


def test_a_cut_stream_reaches_the_read_the_text_and_the_run() -> None:
    with served(cut) as server, closing(_openai(server)) as backend:
        with pytest.raises(GenerationError, match="'x'") as at_run:
            ask.run(backend=backend)
        state = ask.run(backend=backend, stream=True)
        with pytest.raises(GenerationError, match="'x'") as at_read:
            _ = state["x"]
        with pytest.raises(GenerationError):
            state.text()
        with pytest.raises(GenerationError):
            state.messages()
        assert isinstance(state.error(), GenerationError)
    for raised in (at_run, at_read):
        cause = raised.value.__cause__
        assert isinstance(cause, StreamTruncatedError)
        assert cause.text == "Hello"
        assert __file__.rsplit("/", 1)[-1] in str(raised.value)


def test_a_reader_of_a_cut_stream_gets_the_text_so_far_and_then_the_error() -> None:
    with served(cut) as server, closing(_openai(server)) as backend:
        state = ask.run(backend=backend, stream=True)
        pieces: list[str] = []
        with pytest.raises(GenerationError):
            pieces.extend(state.text_iter("x"))  # keeps what came before the error
    assert pieces == ["Hel", "lo"]


@function
def branches(s: Any) -> None:
    forks = s.fork(3)
    for n, branch in enumerate(forks):
        branch += user(str(n))
        branch += assistant(gen("x"))
    for branch in forks:
        _ = branch["x"]


def test_when_one_branch_fails_the_others_are_aborted_at_the_server_and_no_thread_is_left() -> None:
    left: list[int] = []

    async def one_fails(connection: Connection) -> None:
        if server.requests[-1].body["messages"][-1]["content"] == "0":
            while len(server.requests) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await reply({"error": {"message": "no such luck"}}, 400)(connection)
            return
        await connection.head()
        await connection.send(chat_events()[1])
        await connection.wait_until_left()
        left.append(1)

    with served(one_fails) as server:
        get_hub()  # the one thread that stays
        with closing(_openai(server)) as backend:
            ask_once = threading.active_count()
            with pytest.raises(GenerationError, match=r"no such luck|cancelled"):
                branches.run(backend=backend)
            deadline = time.monotonic() + 3
            while len(left) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        assert len(left) == 2
        assert threading.active_count() <= ask_once + 1  # `openai` asks for the platform once, on the loop's worker


def test_cancelling_a_state_closes_its_connection() -> None:
    gone = threading.Event()

    async def hang(connection: Connection) -> None:
        await connection.head()
        await connection.send(chat_events()[1])
        await connection.wait_until_left()
        gone.set()

    with served(hang) as server, closing(_openai(server)) as backend:
        state = ask.run(backend=backend, stream=True)
        assert next(state.text_iter("x")) == "Hel"
        state.cancel()
        assert gone.wait(3)


def test_what_the_api_cannot_honour_is_refused_at_the_users_line_before_anything_is_sent() -> None:
    @function
    def picky(s: Any) -> None:
        s += user("Greet.")
        s += assistant(gen("x", top_k=5))

    @function
    def begun(s: Any) -> None:
        s += user("Greet.")
        s += assistant("Hello, " + gen("x"))

    with served(reply(b"".join(chat_events()))) as server, closing(_openai(server)) as backend:
        for program, what in ((picky, "top_k"), (begun, "continue")):
            with pytest.raises(UnsupportedError, match=what):
                program.run(backend=backend)
    assert server.requests == []


@function
def judge(s: Any) -> None:
    s += user("Is water wet?")
    s += assistant(select("verdict", choices=["yes", "no"]))


def test_a_selection_on_an_api_is_one_of_the_choices_or_an_error() -> None:
    good, bad = (reply(b"".join(chat_events([json.dumps({"answer": word})]))) for word in ("yes", "maybe"))
    with served(good, bad) as server, closing(_openai(server)) as backend:
        assert judge.run(backend=backend)["verdict"] == "yes"
        with pytest.raises(GenerationError) as raised:
            judge.run(backend=backend)
    assert isinstance(raised.value.__cause__, BackendProtocolError)


def test_a_selection_on_stolons_server_is_scored() -> None:
    scores = {"scores": [{"tokens": [1], "logprobs": [-2.0]}, {"tokens": [2], "logprobs": [-0.1]}], "usage": {}}
    with served(reply(scores), kind="stolon") as server, closing(RuntimeEndpoint(server.origin)) as backend:
        assert judge.run(backend=backend)["verdict"] == "no"


def test_a_batch_keeps_the_failures_of_some_to_themselves() -> None:
    async def some_fail(connection: Connection) -> None:
        asked = server.requests[-1].body["messages"][-1]["content"]
        if asked == "3":
            await reply({"error": {"message": "not three"}}, 400)(connection)
        else:
            await reply(b"".join(chat_events([asked])))(connection)

    @function
    def say(s: Any, n: str) -> None:
        s += user(n)
        s += assistant(gen("x"))

    with served(some_fail) as server, closing(_openai(server)) as backend:
        batch = say.map([{"n": str(n)} for n in range(8)], backend=backend, errors="return", progress=False)
        assert len(batch.ok) == 7
        assert len(batch.failed) == 1


def test_info_of_a_backend_is_its_servers() -> None:
    with served(reply(event("[DONE]")), kind="stolon") as server, closing(RuntimeEndpoint(server.origin)) as backend:
        assert stolon.get_server_info(backend)["model"] == "tiny"


FORGETFUL = """
import sys
from stolon import OpenAI, RuntimeEndpoint, assistant, function, gen, user

@function
def ask(s):
    s += user("Greet.")
    s += assistant(gen("x"))

for backend in (OpenAI("gpt-3.5-turbo", base_url=sys.argv[1] + "/v1", api_key="k"), RuntimeEndpoint(sys.argv[1])):
    print(ask.run(backend=backend)["x"].encode())
"""


def test_a_script_that_forgets_to_close_its_backends_ends_without_a_word() -> None:
    async def kept_alive(connection: Connection) -> None:
        body = b"".join(chat_events())
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        await connection.send(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await connection.wait_until_left()

    with served(kept_alive, kind="vllm") as server:
        script = [sys.executable, "-W", "always", "-c", FORGETFUL, server.origin]
        ran = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stderr == ""
    assert ran.stdout == f"{TEXT.encode()}\n" * 2
    assert ran.returncode == 0


def test_a_backend_in_a_with_block_closes_its_connections_and_can_be_used_again() -> None:
    with served(reply(b"".join(chat_events())), kind="vllm") as server, RuntimeEndpoint(server.origin) as backend:
        assert ask.run(backend=backend)["x"] == TEXT
        backend.shutdown()
        assert ask.run(backend=backend)["x"] == TEXT
