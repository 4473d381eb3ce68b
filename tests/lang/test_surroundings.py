"""Where programs run: scripts, notebooks, threads, forked processes; and how they are stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from stolon import BackendTimeout, Cancelled, Delta, GenerationError, ProgramError, Scripted, function, gen


@function
def ask(s, question="q"):
    s += question + gen("x")
    forks = s.fork(2)
    forks += gen("y")
    forks.join()
    return s["x"], s["y"]


ANSWER = ("r", ["r", "r"])


async def test_sync_programs_work_in_a_cell_whose_thread_runs_a_loop(scripted):
    # what a notebook does: plain code, executed inside a coroutine of the kernel's loop
    scripted("r", latency_s=0.01)
    state = ask.run()
    assert state.value == ANSWER
    assert state["x"] == "r"
    assert "".join(ask.run(stream=True).text_iter("x")) == "r"
    assert [one.value for one in ask.map(["a", "b"])] == [ANSWER] * 2
    assert ask(question="called").text() == "calledr"


async def test_programs_work_under_pytest_asyncio(scripted):
    scripted("r")
    assert (await ask.arun()).value == ANSWER


def test_programs_run_in_several_threads_at_once(scripted):
    scripted("r", latency_s=0.01)
    results = []

    def work():
        results.extend(ask.run().value for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [ANSWER] * 40


def test_loops_of_several_threads_await_at_once(scripted):
    scripted("r", latency_s=0.01)
    results = []

    async def main():
        states = await asyncio.gather(*(ask.arun(str(i)) for i in range(5)))
        results.extend(state.value for state in states)

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [ANSWER] * 20


SCRIPT = """
from stolon import Scripted, function, gen, set_default_backend
set_default_backend(Scripted("r", latency_s={latency}))
@function
def ask(s):
    s += gen("x")
    return s["x"]
"""


def run_script(code: str, latency: float = 0.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT.format(latency=latency) + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=15)


def test_a_plain_script_ends_cleanly():
    done = run_script("print(ask.run().value)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "r\n", "")


def test_a_script_that_leaves_work_behind_ends_at_once_and_quietly():
    began = time.monotonic()
    done = run_script("state = ask.run(stream=True)\nimport time; time.sleep(0.1)\nprint('bye')", latency=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")
    assert time.monotonic() - began < 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_a_hub_of_its_own():
    done = run_script(
        "import os, sys\n"
        "assert ask.run().value == 'r'\n"
        "assert ask.map([(), ()])[0].value == 'r'\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if ask.run().value == 'r' and ask.map([()])[0].value == 'r' else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(ask.run().value)\n".replace(
            "import os, sys", "import os, sys, warnings; warnings.simplefilter('ignore')"
        )
    )
    assert (done.returncode, done.stdout) == (0, "r\n"), done.stderr


def test_a_program_on_the_hubs_own_thread_is_refused_instead_of_hanging(scripted):
    def answer(request):
        ask.run("from a callback of the backend")
        return "never"

    backend = scripted(answer)
    with pytest.raises(GenerationError) as caught:
        ask.run()
    assert isinstance(caught.value.__cause__, ProgramError)
    assert len(backend.requests) == 1


def test_a_read_on_the_hubs_own_thread_is_refused_instead_of_hanging(scripted):
    kept = []

    def answer(request):
        kept[0]["x"]
        return "never"

    scripted(answer)

    @function
    def program(s):
        kept.append(s)
        s += gen("x")
        return s["x"]

    with pytest.raises(GenerationError) as caught:
        program.run()
    assert "await s.get('x')" in str(caught.value.__cause__)


@pytest.fixture
def control_c():
    """Python's own handler: a test run that was started in the background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_control_c_in_a_blocking_read_aborts_and_is_raised(scripted, control_c):
    backend = scripted("r", latency_s=30)

    def interrupt():
        while not backend.active:
            time.sleep(0.001)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    for start in (lambda: ask.run(), lambda: ask.map(["a"]), lambda: list(ask.run(stream=True).text_iter())):
        aborts = backend.aborts
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            start()
        end = time.monotonic() + 5
        while (backend.active or backend.aborts == aborts) and time.monotonic() < end:
            time.sleep(0.005)
        assert backend.aborts == aborts + 1


def test_cancelling_a_state_fails_pending_reads_at_once(scripted):
    backend = scripted("r", latency_s=30)
    state = ask.run(stream=True)
    threading.Timer(0.05, state.cancel).start()
    began = time.monotonic()
    with pytest.raises(Cancelled, match=r"gen\('x'\)"):
        state["x"]
    assert time.monotonic() - began < 5
    with pytest.raises(Cancelled):
        _ = state.value
    assert isinstance(state.error(), Cancelled)
    assert backend.aborts == 1
    state.cancel()


def test_a_run_that_another_thread_cancels_raises(scripted):
    scripted("r", latency_s=30)
    kept = []

    @function
    def program(s):
        kept.append(s)
        s += gen("x")

    threading.Timer(0.05, lambda: kept[0].cancel()).start()
    with pytest.raises(Cancelled):
        program.run()


@pytest.mark.parametrize("where", ["run", "gen"])
def test_a_timeout_ends_the_wait_and_aborts(scripted, where):
    backend = scripted("r", latency_s=30)

    @function
    def program(s):
        s += gen("x", timeout=0.05 if where == "gen" else None)
        return s["x"]

    began = time.monotonic()
    with pytest.raises(GenerationError) as caught:
        program.run(timeout=0.05 if where == "run" else None)
    assert isinstance(caught.value.__cause__, BackendTimeout)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert time.monotonic() - began < 5
    assert backend.aborts == 1
    assert 0 < backend.requests[0].timeout_s <= 0.05


def test_a_timeout_of_the_run_reaches_nested_programs_and_branches(scripted):
    backend = scripted("r", latency_s=30)

    @function
    def outer(s):
        forks = s.fork(2)
        forks += gen("y")
        return ask.run().value

    with pytest.raises(GenerationError, match=r"timeout of 0\.1 s"):
        outer.run(timeout=0.1)
    assert backend.aborts == 3
    assert backend.active == 0


def test_a_backend_that_will_not_let_go_does_not_hold_the_reader(scripted):
    class Stubborn(Scripted):
        async def stream(self, request):
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(2)
            yield Delta("never", finish="stop")

    state = ask.run(stream=True, backend=Stubborn())
    threading.Timer(0.05, state.cancel).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        state["x"]
    assert time.monotonic() - began < 1


def test_retries_ask_again_only_while_nothing_was_delivered(scripted):
    from stolon import BackendRequestError, BackendUnavailable, OverloadedError

    backend = scripted([BackendUnavailable("a"), OverloadedError("b", retry_after_s=0), "r"])
    assert function(lambda s: s.append(gen("x"))).run(retries=2)["x"] == "r"
    assert len(backend.requests) == 3

    backend = scripted([BackendRequestError("bad", status=400), "r"])
    with pytest.raises(GenerationError):
        function(lambda s: s.append(gen("x", retries=3))).run()
    assert len(backend.requests) == 1

    class Half(Scripted):
        async def stream(self, request):
            self.requests.append(request)
            yield Delta("half")
            raise BackendUnavailable("cut")

    half = Half()
    with pytest.raises(GenerationError, match="cut"):
        function(lambda s: s.append(gen("x"))).run(backend=half, retries=3)
    assert len(half.requests) == 1


def test_finished_programs_leave_no_memory_to_the_garbage_collector(scripted):
    import gc
    import weakref

    scripted("r", record=False)
    gc.collect()
    gc.disable()
    try:
        state = ask.run()
        gone = weakref.ref(state.chain)
        del state
        end = time.monotonic() + 2
        while gone() is not None and time.monotonic() < end:
            time.sleep(0.005)  # the hub may still hold the task that it has just finished
        assert gone() is None
    finally:
        gc.enable()


def test_a_large_batch_is_collected_seldom_and_leaves_the_collector_as_it_was(scripted):
    import gc

    scripted("r", record=False)
    seen = []
    before = gc.get_threshold()

    @function
    def looks(s):
        seen.append(gc.get_threshold())

    looks.map([{}] * 255)
    assert set(seen) == {before}
    seen.clear()
    looks.map([{}] * 300)
    assert set(seen) == {(60_000, *before[1:])}
    assert gc.get_threshold() == before
    gc.freeze()
    try:
        looks.map([{}] * 300)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
