"""Types in, values out: every type's form admits its values, refuses others, and is read as the same value."""

# ruff: noqa: UP045  (both spellings are tested)
from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator
from pydantic_core import to_json

from stolon import GenerationError, InvalidRequest, Scripted, State, function, gen, gen_int, gen_string, user
from stolon.lang.conformance import problem
from stolon.lang.intervals import integers_between
from stolon.lang.typed import type_form

from .typed_values import TYPED, Colour, Level, Point, Sheet, Tree, User, shown


def said(kind: Any, value: Any) -> str:
    """`value` as an answer of its type says it: bare where the form is no JSON."""
    form = type_form(kind)
    if form.constraint is not None and form.constraint.kind == "json_schema":
        return str(value) if isinstance(value, Decimal) else to_json(value).decode()
    plain = value.value if isinstance(value, enum.Enum) else value
    if plain is None or isinstance(plain, bool):
        return {None: "null", True: "true", False: "false"}[plain]
    if isinstance(plain, bytes):
        return plain.decode()
    return plain.isoformat() if isinstance(plain, (dt.date, dt.time)) else str(plain)


@pytest.mark.parametrize(("kind", "value"), TYPED, ids=[shown(kind) for kind, _ in TYPED])
def test_a_value_of_a_type_is_said_and_read_as_the_same_value(kind: Any, value: Any) -> None:
    text = said(kind, value)
    backend = Scripted(text)

    @function
    def ask(s: State) -> Any:
        s += gen("x", kind)
        return s["x"]

    read = ask.run(backend=backend, max_tokens=1000).value
    assert read == value
    assert type(read) is type(value) or kind in (dt.timedelta,) or isinstance(value, str)
    assert backend.requests[0].constraint == type_form(kind).constraint


def test_there_are_sixty_types_and_more() -> None:
    assert len({shown(kind) for kind, _ in TYPED}) >= 60


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (int, "4.5"),
        (int, "042"),
        (int, "9" * 20),
        (float, ".5"),
        (float, "1e999"),
        (bool, "True"),
        (dt.date, "2023-02-29"),
        (dt.time, "24:00:00"),
        (uuid.UUID, "12345"),
        (Decimal, "NaN"),
        (Colour, "RED"),
        (Level, "3"),
        (Literal["a", "b"], "ab"),
        (Optional[int], '"4"'),
        (list[int], "[1, 2"),
        (list[int], '["1"]'),
        (dict[int, str], '{"one": "x"}'),
        (tuple[int, str], "[1]"),
        (Point, '{"y": 1}'),
        (Point, '{"x": 1, "z": 2}'),
        (Sheet, '{"pages": 3}'),
        (User, '{"name": "", "age": 3}'),
        (User, '{"name": "Ann", "age": 150}'),
        (Tree, '{"value": 1, "left": {"left": null}}'),
        (Annotated[int, Field(ge=0, le=120)], "121"),
        (Annotated[str, Field(max_length=3)], "four"),
        (Annotated[str, Field(pattern="^[a-z]+$")], "Abc"),
    ],
)
def test_an_answer_without_the_form_is_an_error_that_shows_it(kind: Any, wrong: str) -> None:
    @function
    def ask(s: State) -> Any:
        s += user("?")
        s += gen("x", kind)
        return s["x"]

    with pytest.raises(GenerationError) as caught:
        ask.run(backend=Scripted(wrong))
    assert repr(wrong) in str(caught.value)
    assert "test_typed.py" in str(caught.value)


def test_what_a_schema_cannot_say_is_checked_when_the_value_is_read() -> None:
    class Even(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def even(cls, n: int) -> int:
            if n % 2:
                raise ValueError("n must be even")
            return n

    @function
    def ask(s: State) -> Any:
        s += gen("x", Even)

    assert ask.run(backend=Scripted('{"n": 4}'))["x"].n == 4
    with pytest.raises(GenerationError, match="n must be even"):
        ask.run(backend=Scripted('{"n": 5}'))


@dataclasses.dataclass
class Holder:
    call: Callable[[], int]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (complex, "complex"),
        (Holder, "Holder"),
        (Callable[[], int], "Callable"),
        (print, "print"),
        (Annotated[int, Field(gt=3, lt=4)], "no whole number"),
        (Annotated[str, Field(min_length=3, max_length=2)], "no text"),
        ({"type": "string"}, "json_schema="),
        (2.5, "max_tokens or a type"),
    ],
)
def test_a_type_that_no_answer_can_have_is_refused_where_it_is_written(kind: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)) as caught:
        gen("x", kind)
    assert "gen('x')" in str(caught.value)


def test_numbers_come_without_the_white_space_that_ended_them() -> None:
    @function
    def ask(s: State) -> Any:
        s += "Age: " + gen("age", int) + " years"
        return list(s.text_iter("age"))

    state = ask.run(backend=Scripted("42\n"))
    assert state["age"] == 42
    assert state.value == ["42"]
    assert state.text() == "Age: 42 years"


def test_a_handle_and_a_name_give_the_value_and_a_number_is_still_max_tokens() -> None:
    age = gen(int)
    backend = Scripted("7")

    @function
    def ask(s: State) -> Any:
        s += age
        s += gen("text", 64)
        s += gen("both", int, max_tokens=3, temperature=0)
        return s[age], s["text"], s["both"]

    assert ask.run(backend=backend).value == (7, "7", 7)
    assert [request.params.max_tokens for request in backend.requests] == [128, 64, 3]
    with pytest.raises(TypeError, match="twice"):
        gen("x", 64, max_tokens=3)  # pyright: ignore


def test_several_answers_are_a_list_of_values() -> None:
    @function
    def ask(s: State) -> Any:
        s += gen("x", int, n=3, stop="\n", seed=1, return_logprob=True)
        return s["x"], [one.value for one in s.info("x").alternatives]

    backend = Scripted(["1", "2", "3"])
    assert ask.run(backend=backend).value == ([1, 2, 3], [1, 2, 3])
    assert len(backend.requests) == 1


def test_branches_read_values_of_their_own() -> None:
    @function
    def ask(s: State) -> Any:
        node = gen("x", int)
        forks = s.fork(2)
        forks += node
        return forks["x"], [fork[node] for fork in forks]

    assert ask.run(backend=Scripted(["4", "5"]), seed=1).value == ([4, 5], [4, 5])


def test_numbers_and_words_of_sglang_stay_text() -> None:
    @function
    def ask(s: State) -> Any:
        s += gen_int("a") + gen("b", dtype=float) + gen("c", dtype=bool) + gen_string("d")
        return [s[name] for name in "abcd"]

    assert ask.run(backend=Scripted(["+24 ", ".5", "True", '"x y"'])).value == ["+24", ".5", "True", '"x y"']
    with pytest.raises(GenerationError, match="dtype=int"):
        ask.run(backend=Scripted("many"))


def test_the_places_of_an_error_are_those_of_the_user() -> None:
    @function
    def ask(s: State) -> Any:
        s += gen_int("a")

    with pytest.raises(GenerationError, match=r"gen\('a'\) at .*test_typed\.py"):
        ask.run(backend=Scripted("many"))


@given(st.integers(-3000, 3000), st.integers(0, 4000), st.integers(-8000, 8000))
def test_the_regex_of_an_interval_matches_the_numbers_in_it_and_no_others(low: int, width: int, number: int) -> None:
    matched = re.fullmatch(integers_between(low, low + width), str(number)) is not None
    assert matched == (low <= number <= low + width)


@given(st.integers(-(10**19), 10**19), st.integers(0, 10**19), st.integers(-1, 1))
def test_the_ends_of_a_wide_interval_belong_to_it_and_their_neighbours_do_not(low: int, width: int, off: int) -> None:
    pattern = re.compile(integers_between(low, low + width))
    assert (pattern.fullmatch(str(low + off)) is not None) == (off >= 0 and off <= width)
    assert (pattern.fullmatch(str(low + width + off)) is not None) == (off <= 0 and -off <= width)
    assert pattern.fullmatch("-0") is None
    assert pattern.fullmatch("0" + str(abs(low))) is None


@given(st.dates())
def test_every_date_has_the_form_of_a_date(day: dt.date) -> None:
    constraint = type_form(dt.date).constraint
    assert constraint is not None
    assert problem(constraint, day.isoformat()) is None


@given(st.from_regex(type_form(dt.date).constraint.text, fullmatch=True))  # pyright: ignore
def test_everything_with_the_form_of_a_date_is_one(text: str) -> None:
    assert dt.date.fromisoformat(text).isoformat() == text


@given(st.from_regex(type_form(float).constraint.text, fullmatch=True))  # pyright: ignore
def test_everything_with_the_form_of_a_number_is_a_finite_one(text: str) -> None:
    assert abs(float(text)) < 1e120


def test_a_form_is_made_once_for_each_type() -> None:
    assert type_form(list[User]) is type_form(list[User])
    assert type_form(int) is not type_form(bool)
