"""Batches: order, failures, progress, limits, and bodies that run once."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from stolon import GenerationError, function, gen, set_default_backend

ITEMS = [{"i": i} for i in range(30)]


@function
def square(s, i):
    s += f"{i} squared is " + gen("x")
    return int(i) ** 2


@function
def picky(s, i):
    if i % 10 == 3:
        raise KeyError(f"no {i}")
    s += f"{i} " + gen("x")
    return s["x"]


def test_results_come_in_the_order_of_the_items(scripted):
    scripted("r")
    states = square.run_batch(ITEMS, temperature=0.1)
    assert [state.value for state in states] == [i**2 for i in range(30)]
    assert [s.value for s in square.run_batch([(i,) for i in range(5)])] == [0, 1, 4, 9, 16]
    assert [s.value for s in square.run_batch(({"i": i} for i in range(3)), progress_bar=False)] == [0, 1, 4]
    assert [s.value for s in square.map(range(4))] == [0, 1, 4, 9]


def test_b75_empty_batches_and_wrong_numbers_of_threads(scripted):
    scripted("r")
    assert square.run_batch([]) == []
    assert list(square.map([])) == []
    assert list(square.run_batch([], generator_style=True)) == []
    for wrong in (0, -1, "a", 1.5, True):
        with pytest.raises(ValueError, match="num_threads"):
            square.run_batch(ITEMS, num_threads=wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="no option 'max_token'"):
        square.map(ITEMS, max_token=3)
    with pytest.raises(TypeError, match="no parameter 'j'"):
        square.run_batch([{"i": 1}, {"j": 2}])


def test_a_failed_item_leaves_the_others_alone(scripted):
    backend = scripted("r")
    batch = picky.map(ITEMS, errors="return")
    assert len(batch) == 30
    assert [failed.index for failed in batch.failed] == [3, 13, 23]
    assert all(isinstance(failed.error, KeyError) for failed in batch.failed)
    assert [state.value for state in batch.ok] == ["r"] * 27
    with pytest.raises(KeyError, match="no 13"):
        _ = batch[13].value
    assert isinstance(batch[3].error(), KeyError)
    assert batch.usage.requests == 27
    assert batch[-1]["x"] == "r"
    assert [state["x"] for state in batch[4:6]] == ["r", "r"]
    assert len(backend.requests) == 27


def test_the_first_failure_is_raised_itself_after_all_have_run(scripted):
    backend = scripted("r")
    with pytest.raises(KeyError, match="no 3") as caught:
        picky.run_batch(ITEMS)
    assert len(backend.requests) == 27
    if sys.version_info >= (3, 11):
        assert "item 3 of a batch of 30; 3 failed" in caught.value.__notes__[0]


def test_failed_generations_count_as_failures(scripted):
    scripted({"^7 ": ConnectionError("x"), "": "r"})
    batch = square.map(ITEMS, errors="return")
    assert [failed.index for failed in batch.failed] == [7]
    with pytest.raises(GenerationError):
        square.map(ITEMS)


def test_the_generator_style_gives_states_as_they_end_in_order(scripted):
    scripted("r", latency_s=0.01)
    states = square.run_batch(ITEMS, num_threads=4, generator_style=True)
    assert next(states).value == 0
    assert [state.value for state in states] == [i**2 for i in range(1, 30)]
    states = picky.run_batch(ITEMS, generator_style=True)
    assert len([next(states) for _ in range(30)]) == 30
    with pytest.raises(KeyError, match="no 3"):
        next(states)


def test_leaving_a_generator_early_cancels_the_rest(scripted):
    backend = scripted("r", latency_s=0.02)
    states = square.run_batch(ITEMS, num_threads=2, generator_style=True)
    next(states)
    states.close()
    time.sleep(0.1)
    assert len(backend.requests) < 10
    assert backend.active == 0


def test_as_completed_gives_them_in_the_order_of_their_ends(scripted):
    import asyncio

    from stolon import Scripted

    class Uneven(Scripted):
        async def stream(self, request):
            await asyncio.sleep(0.2 if request.prompt.text().startswith("0 ") else 0.01)
            async for delta in super().stream(request):
                yield delta

    set_default_backend(Uneven("r"))
    batch = square.map(range(4), wait=False)
    order = [index for index, state in batch.as_completed() if state["x"] == "r"]
    assert sorted(order) == [0, 1, 2, 3]
    assert order[-1] == 0


def test_at_most_num_threads_programs_are_in_flight(scripted):
    for body in ("append", "read"):
        backend = scripted("r", latency_s=0.005)

        @function
        def program(s, i, body=body):
            s += gen("x")
            return s["x"] if body == "read" else None

        program.map(ITEMS, num_threads=3)
        assert backend.most_active == 3
    backend = scripted("r", latency_s=0.05)
    square.map(ITEMS)
    assert backend.most_active == 30


def test_bodies_that_read_run_at_once(scripted):
    scripted("r", latency_s=0.1)
    began = time.monotonic()
    picky.map([i * 10 for i in range(100)])
    assert time.monotonic() - began < 2


def test_bodies_that_block_unseen_get_more_threads(scripted):
    scripted("r")

    @function
    def program(s, i):
        time.sleep(0.1)
        s += gen("x")

    began = time.monotonic()
    program.map(range(60))
    assert time.monotonic() - began < 1.2  # 60 × 0.1 s would be 6 s in one thread, 1.5 s in four


def test_a_batch_inside_a_batch_does_not_run_out_of_threads(scripted, monkeypatch):
    from stolon.lang import pool

    monkeypatch.setattr(pool, "THREADS", 8)
    scripted("r", latency_s=0.005)

    @function
    def outer(s, i):
        states = square.map(range(3))
        return sum(state.value for state in states)

    assert [state.value for state in outer.map(range(40))] == [5] * 40


def test_a_batch_inherits_nothing_it_should_not_and_sees_context_variables(scripted):
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")
    scripted("r")

    @function
    def program(s, i):
        s += gen("x")
        return variable.get(), threading.current_thread() is threading.main_thread()

    variable.set("mine")
    assert [state.value for state in program.map(range(5))] == [("mine", False)] * 5


def test_the_progress_bar_counts_failures(scripted, capsys):
    scripted("r")
    picky.map(ITEMS, progress=True, errors="return")
    shown = capsys.readouterr().err
    assert "30/30" in shown
    assert "failed=3" in shown
