"""Async programs, and async callers of sync ones."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from stolon import Cancelled, GenerationError, ProgramError, function, gen, user


async def until(holds: Callable[[], object]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("did not happen in time")


@function
async def ask(s, question):
    s += user(question)
    with s.assistant():
        s += gen("x")
    answer = await s.get("x")
    forks = s.fork(2)
    forks += user("and?") + gen("y")
    forks.join()
    return answer, await s.get("y")


@function
def ask_plainly(s, question):
    s += question + gen("x")
    return s["x"]


async def test_arun_awaits_an_async_program_on_the_callers_loop(scripted):
    scripted("r", latency_s=0.01)
    loops = []

    @function
    async def program(s):
        loops.append(asyncio.get_running_loop())
        s += gen("x")
        return await s.get("x")

    state = await program.arun()
    assert state.value == "r"
    assert loops == [asyncio.get_running_loop()]
    assert (await ask.arun("q")).value == ("r", ["r", "r"])


def test_run_blocks_for_an_async_program_and_calls_do_too(scripted):
    scripted("r")
    assert ask.run("q").value == ("r", ["r", "r"])
    assert ask("q")["x"] == "r"
    assert [state.value[0] for state in ask.map(["a", "b"])] == ["r", "r"]


async def test_sync_programs_can_be_awaited(scripted):
    scripted("r", latency_s=0.05)
    began = time.monotonic()
    states = await asyncio.gather(*(ask_plainly.arun(str(i)) for i in range(20)))
    assert [state.value for state in states] == ["r"] * 20
    assert time.monotonic() - began < 1


async def test_thousands_run_at_once_in_one_thread(scripted):
    backend = scripted("r", latency_s=0.3)
    before = threading.active_count()
    states = await asyncio.gather(*(ask.arun(str(i)) for i in range(1000)))
    assert len({state.value[0] for state in states}) == 1
    assert backend.most_active >= 1000
    assert threading.active_count() <= before + 1


async def test_amap_and_async_as_completed(scripted):
    scripted("r")
    batch = await ask.amap(["a", "b", "c"])
    assert [state.value[0] for state in batch] == ["r"] * 3
    batch = ask_plainly.map(["a", "b"], wait=False)
    assert sorted([index async for index, _ in batch.as_completed()]) == [0, 1]


async def test_a_blocking_read_in_an_async_program_names_what_to_await(scripted):
    scripted("r", latency_s=0.01)

    @function
    async def program(s):
        s += gen("x")
        with pytest.raises(ProgramError, match=r"await s\.get\('x'\)"):
            s["x"]
        with pytest.raises(ProgramError, match=r"await s\.wait\(\)"):
            s.text()
        with pytest.raises(ProgramError, match=r"await ask_plainly\.arun"):
            ask_plainly.run("q")
        await s.wait()
        return s["x"], s.text()

    assert (await program.arun()).value == ("r", "r")
    # and where the body runs on the hub
    assert (await asyncio.to_thread(program.run)).value == ("r", "r")


async def test_failures_raise_at_the_await(scripted):
    scripted(ConnectionError("down"))
    with pytest.raises(GenerationError, match="down"):
        await ask.arun("q")

    @function
    async def unread(s):
        s += gen("x")

    with pytest.raises(GenerationError, match="down"):
        await unread.arun()
    with pytest.raises(KeyError, match="not a variable"):
        await function(wrong).arun()


async def wrong(s):
    await s.get("nope")


async def test_an_error_of_the_body_is_raised_itself_and_cancels(scripted):
    backend = scripted("r", latency_s=30)

    @function
    async def program(s):
        s += gen("x")
        await until(lambda: backend.active)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await program.arun()
    await until(lambda: backend.aborts == 1)


async def test_cancelling_the_task_aborts_at_the_backend(scripted):
    backend = scripted("r", latency_s=30)
    for program in (ask, ask_plainly):
        aborts = backend.aborts
        task = asyncio.create_task(program.arun("q"))
        await until(lambda: backend.active)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda aborts=aborts: backend.aborts == aborts + 1 and not backend.active)


async def test_async_programs_call_and_go_on_in_each_other(scripted):
    backend = scripted("r")

    @function
    async def inner(s, word):
        s += word + gen("x")
        return await s.get("x")

    @function
    async def outer(s):
        s += "prefix "
        one = await inner(s, "here ")
        two = (await inner.arun("apart ")).value
        return one + two

    state = await outer.arun(temperature=0.3)
    assert state.value == "rr"
    assert [r.prompt.text() for r in backend.requests] == ["prefix here ", "apart "]
    assert {r.params.temperature for r in backend.requests} == {0.3}


async def test_a_stream_of_an_async_program_runs_beside_its_reader(scripted):
    scripted("a b c", tokens_per_delta=1, delta_s=0.001)
    state = await ask.arun("q", stream=True)
    assert [piece async for piece in state.text_async_iter("x")] == ["a", " b", " c"]
    await state.wait()
    assert state.value[0] == "a b c"


async def test_state_cancel_ends_an_awaited_read(scripted):
    scripted("r", latency_s=30)
    state = ask.run("q", stream=True)
    asyncio.get_running_loop().call_later(0.05, state.cancel)
    with pytest.raises(Cancelled):
        await state.get("x")
