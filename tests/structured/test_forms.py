"""An answer has the form that was asked for, whatever the weights, the temperature and the budget."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable

import jsonschema
import pytest
from hypothesis import given, settings
from jsonschema.validators import validator_for

from stolon.lang.constraint import Constraint
from stolon.lang.errors import InvalidRequest
from stolon.lang.types import SamplingParams
from stolon.runtime.engine import Engine
from tests.runtime.answers import Answer, answer
from tests.structured.forms import CHOICES, REGEXES, SCHEMAS, regexes, schema

PROMPTS = ([5, 17, 99], [200, 31, 8, 4], [77])
TEMPERATURES = (0.0, 1.0, 2.0)
ROOMY = 60


async def least_tokens(engine: Engine, constraint: Constraint) -> int:
    """What an answer needs, as the refusal of no tokens at all says it; 0 if it needs none."""
    try:
        await answer(engine, [5], SamplingParams(max_tokens=0), constraint=constraint)
    except InvalidRequest as refusal:
        error = refusal
    else:
        return 0
    assert (error.code, error.param) == ("budget_too_small", "max_tokens")
    found = re.search(r"needs (\d+) tokens", str(error))
    assert found is not None
    return int(found[1])


async def ask_in_many_ways(engine: Engine, constraint: Constraint) -> list[Answer]:
    """At several temperatures, each with the least budget, one token more, and plenty; all at the same time."""
    least = await least_tokens(engine, constraint)
    budgets = sorted({max(least, 1), least + 1, least + ROOMY})
    asked = [
        (prompt, SamplingParams(max_tokens=budget, temperature=temperature, seed=index))
        for budget in budgets
        for index, (prompt, temperature) in enumerate(zip(PROMPTS, TEMPERATURES, strict=True))
    ]
    found = await asyncio.gather(*(answer(engine, *one, constraint=constraint) for one in asked))
    for (_, params), one in zip(asked, found, strict=True):
        assert one.finish == "stop"
        assert len(one.tokens) <= params.max_tokens
    return found


def hold(engine: Engine, constraint: Constraint, is_valid: Callable[[str], object]) -> None:
    for found in asyncio.run(ask_in_many_ways(engine, constraint)):
        assert is_valid(found.text), found.text


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_is_valid_under_its_schema(engine: Engine, name: str) -> None:
    kind = validator_for(SCHEMAS[name], default=jsonschema.Draft202012Validator)
    referee = kind(SCHEMAS[name], format_checker=kind.FORMAT_CHECKER)
    hold(engine, schema(SCHEMAS[name]), lambda text: referee.is_valid(json.loads(text)))


def test_every_answer_is_a_json_object_where_that_is_all_that_is_asked(engine: Engine) -> None:
    hold(engine, Constraint("json_object"), lambda text: isinstance(json.loads(text), dict))


@pytest.mark.parametrize("choices", CHOICES, ids=lambda choices: choices[0] or "empty")
def test_every_answer_is_one_of_the_choices(engine: Engine, choices: tuple[str, ...]) -> None:
    hold(engine, Constraint("choices", choices=choices), choices.__contains__)


@pytest.mark.parametrize("pattern", REGEXES)
def test_every_answer_matches_the_whole_regex(engine: Engine, pattern: str) -> None:
    hold(engine, Constraint("regex", pattern), lambda text: re.fullmatch(pattern, text) is not None)


def is_sum(text: str) -> bool:
    before = ""
    while text != before:
        before, text = text, re.sub(r"\([0-9]{1,3}( \+ [0-9]{1,3})*\)", "0", text)
    return re.fullmatch(r"[0-9]{1,3}( \+ [0-9]{1,3})*", text) is not None


def test_every_answer_follows_its_grammar(engine: Engine) -> None:
    grammar = 'start: sum\nsum: number (" + " number)*\nnumber: /[0-9]{1,3}/ | "(" sum ")"\n'
    hold(engine, Constraint("grammar", grammar), is_sum)


def test_any_regex_is_held(engine: Engine, num_regexes: int) -> None:
    @settings(max_examples=num_regexes, deadline=None)
    @given(regexes)
    def holds(pattern: str) -> None:
        try:
            asyncio.run(engine.check(Constraint("regex", pattern)))
        except InvalidRequest as refusal:
            assert refusal.code in ("grammar_empty", "grammar_too_complex")  # noqa: PT017
            return
        hold(engine, Constraint("regex", pattern), lambda text: re.fullmatch(pattern, text) is not None)

    holds()
