"""Random programs that fork, fail, are cancelled and run out of time: each ends, and nothing stays behind."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress

import pytest

from stolon import BackendUnavailable, Cancelled, GenerationError, Scripted, function, gen, select


class Boom(Exception):
    pass


def script(request):
    digits = sum(map(ord, request.prompt.text()))
    return BackendUnavailable("unlucky") if digits % 13 == 0 else f"a{digits % 7} b"


def act(s, dice, depth):
    """A few random steps; returns what was read."""
    for _ in range(dice.randint(1, 5)):
        step = dice.random()
        if step < 0.35:
            s += f"text {dice.randint(0, 99)} " + gen(f"v{depth}", timeout=dice.choice([None, None, 5]))
        elif step < 0.45:
            s += select(f"c{depth}", ["x", "y"])
        elif step < 0.6 and depth < 2:
            forks = s.fork(dice.randint(1, 3))
            for branch in forks:
                act(branch, dice, depth + 1)
            if dice.random() < 0.7:
                forks.join(dice.choice(["gather_variable", "concate_and_append"]))
            elif dice.random() < 0.3:
                forks.cancel()
        elif step < 0.75:
            with s.var_scope(f"s{depth}"):
                s += "scope" + gen()
        elif step < 0.85 and f"v{depth}" in s:
            s[f"v{depth}"]
        elif step < 0.9:
            s.sync()
        elif step < 0.92:
            raise Boom


@function
def chaos(s, seed):
    act(s, random.Random(seed), 0)


@function
async def calm(s, seed):
    s += f"{seed}" + gen("x")
    forks = s.fork(3)
    forks += [f"{seed}{i}" for i in range(3)]
    forks += gen("y")
    forks.join()
    await s.get("y")


@pytest.mark.parametrize("latency_s", [0.0, 0.002])
def test_random_programs_end_with_a_result_or_with_an_error_of_theirs(scripted, latency_s):
    backend = scripted(script, latency_s=latency_s, tokens_per_delta=1)
    outcomes: dict[str, int] = {}
    for batch in (chaos.map(range(300), errors="return"), calm.map(range(200), errors="return")):
        for state in batch:
            error = state.error()
            outcomes[type(error).__name__] = outcomes.get(type(error).__name__, 0) + 1
            assert error is None or isinstance(error, (GenerationError, Boom))
    assert min(outcomes.get("NoneType", 0), outcomes.get("GenerationError", 0), outcomes.get("Boom", 0)) > 3
    end = time.monotonic() + 5
    while backend.active and time.monotonic() < end:
        time.sleep(0.005)
    assert backend.active == 0


def test_programs_cancelled_at_any_moment_end(scripted):
    backend = scripted(script, latency_s=0.002, delta_s=0.001, tokens_per_delta=1)
    dice = random.Random(0)
    for seed in range(60):
        state = chaos.run(seed, stream=True)
        threading.Timer(dice.random() * 0.03, state.cancel).start()
        with suppress(GenerationError, Boom):
            for _ in state.text_iter():
                pass
        error = state.error()
        assert error is None or isinstance(error, (Cancelled, Boom)) or "unlucky" in str(error)
    end = time.monotonic() + 5
    while backend.active and time.monotonic() < end:
        time.sleep(0.005)
    assert backend.active == 0


def test_a_failure_is_never_missed_at_the_end_of_a_run():
    backend = Scripted(BackendUnavailable("down"))

    @function
    def program(s):
        s += gen("x")

    for _ in range(300):
        with pytest.raises(GenerationError):
            program.run(backend=backend)


def test_what_is_appended_while_generations_end_keeps_its_order():
    @function
    def program(s):
        for i in range(40):
            s += f"<{i}" + gen() + ">"
            for _ in range(i * 7 % 50):
                pass  # so that appending meets the end of a generation at different moments

    expected = "".join(f"<{i}g>" for i in range(40))
    for _ in range(60):
        assert program.run(backend=Scripted("g")).text() == expected
