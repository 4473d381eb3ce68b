"""Forms on the engine in this process, with weights that know nothing: an answer has its form all the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from stolon import GenerationError, Runtime, State, assistant, function, gen, select, user
from stolon.lang.conformance import problem
from stolon.lang.typed import type_form
from tests.lang.typed_values import TYPED, User, shown


@pytest.fixture(scope="module")
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime(str(tiny_checkpoint), dtype="float32", kv_tokens=8192, threads=1) as runtime:
        yield runtime


@function
def ask(s: State, node: Any) -> None:
    s += user("Ask.") + assistant(node)


@pytest.mark.parametrize("kind", [kind for kind, _ in TYPED], ids=[shown(kind) for kind, _ in TYPED])
def test_an_answer_of_every_type_has_its_form_and_its_value(runtime: Runtime, kind: Any) -> None:
    for seed, max_tokens in ((1, 160), (2, 40)):
        state = attempted(gen("x", kind), runtime, seed, max_tokens)
        if state is None:
            continue
        info = state.info("x")
        form = type_form(kind)
        if form.constraint is not None:
            assert info.finish == "stop"
            assert problem(form.constraint, info.text) is None
        assert form.read(info.text) == state["x"]


def attempted(node: Any, runtime: Runtime, seed: int, max_tokens: int) -> State[Any] | None:
    """The answer; None if it is rightly refused, as it needs more tokens than it may have."""
    try:
        return ask.run(node, backend=runtime, seed=seed, max_tokens=max_tokens)
    except GenerationError as error:
        needed = re.search(r"needs (\d+) tokens", str(error))
        if needed is None or int(needed[1]) <= max_tokens:
            raise
        return None


def test_forms_go_together_with_several_answers_seeds_stops_and_log_probabilities(runtime: Runtime) -> None:
    node = gen("x", Annotated[int, Field(ge=10, lt=10**6)], n=3, return_logprob=True)
    first, again = (ask.run(node, backend=runtime, seed=5) for _ in range(2))
    assert first["x"] == again["x"]
    assert all(10 <= value < 10**6 for value in first["x"])
    assert len(first.get_meta_info("x")["output_token_logprobs"]) > 0
    stopped = ask.run(gen("x", regex="[a-z]{1,30}", stop="e", max_tokens=64), backend=runtime, seed=1)
    assert re.fullmatch("e?[a-df-z]*", stopped["x"])  # a stop ends an answer where it is whole; "" would not be


def test_branches_draw_values_of_their_own(runtime: Runtime) -> None:
    @function
    def spread(s: State) -> list[str]:
        s += user("Ask.")
        forks = s.fork(4)
        forks += assistant(gen("x", Annotated[str, Field(pattern="^[a-z]{12}$")]))
        return forks["x"]

    first, again = (spread.run(backend=runtime, seed=3).value for _ in range(2))
    assert first == again
    assert len(set(first)) > 1


def test_text_goes_on_after_a_value_and_the_model_reads_it(runtime: Runtime) -> None:
    @function
    def sheet(s: State) -> None:
        s += "Age: " + gen("age", int) + ", sure: " + gen("sure", bool) + "."

    state = sheet.run(backend=runtime, seed=1)
    assert re.fullmatch(rf"(<s>)?Age: {state['age']}, sure: {str(state['sure']).lower()}\.", state.text())


def test_a_form_holds_after_reasoning(runtime: Runtime) -> None:
    state = ask.run(gen("x", Literal["yes", "no"], reasoning=True, max_tokens=60), backend=runtime, seed=1)
    assert state["x"] in ("yes", "no")
    assert state.info("x").reasoning
    assert state.messages()[-1]["content"] == state["x"]


def test_the_value_grows_while_it_is_generated(runtime: Runtime) -> None:
    state = ask.run(gen("x", User, max_tokens=200), backend=runtime, seed=1, stream=True)
    parts = list(state.stream("x"))
    assert len(parts) > 2
    assert User.model_validate(parts[-1]) == state["x"]


def test_what_cannot_hold_is_refused_at_the_line_of_the_user(runtime: Runtime) -> None:
    for node, words in (
        (gen("x", regex="a(b"), "position 3"),
        (gen("x", json_schema={"type": "integer", "minimum": 3, "maximum": 2}), "#"),
        (gen("x", grammar="start: ["), "grammar"),
        (gen("x", json_schema={"type": "string", "minLength": 500}, max_tokens=5), "max_tokens"),
    ):
        with pytest.raises(GenerationError, match=r"gen\('x'\) at .*test_local_forms\.py") as caught:
            ask.run(node, backend=runtime)
        assert words in str(caught.value)


def test_a_choice_among_hundreds_is_one_of_them_scored_or_drawn(runtime: Runtime) -> None:
    names = [f"{first}{second} {number}" for first in "ABC" for second in "xyz" for number in range(40)]
    scored = ask.run(select("x", names), backend=runtime)
    assert sum(scored.info("x").probs.values()) == pytest.approx(1.0)
    drawn = ask.run(gen("x", choices=names, n=2), backend=runtime, seed=2)
    assert {scored["x"], *drawn["x"]} <= set(names)
