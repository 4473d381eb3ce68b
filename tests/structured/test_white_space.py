"""White space in JSON answers matches the pattern that the operator gives, in every engine and kind of form."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from stolon.lang.constraint import Constraint
from stolon.lang.errors import InvalidRequest, UnsupportedError
from stolon.lang.types import SamplingParams
from stolon.runtime.grammar.form_dfa import form_dfa
from stolon.runtime.grammar.prepare import Backend
from stolon.runtime.grammar.schema import regular_form
from stolon.runtime.grammar.spelling import is_compact
from tests.runtime.answers import answer, engine_of
from tests.structured.byte_walk import by_llguidance, difference
from tests.structured.edges import schema, words
from tests.structured.forms import SCHEMAS
from tests.structured.test_budget import LOOK_UP, OPEN, REMIND, budgets, draw
from tests.structured.test_small_schemas import REGULAR

SPACED, COMPACT = r"[ \n\r\t]*", "\n?"
MANY = {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "integer"}}, "minItems": 2}
CALLS = Constraint("tags", json.dumps({"tags": [LOOK_UP, REMIND], "free": False, "least": 1, "most": 2}))
FORMS = {
    "any object": Constraint("json_object"),
    "many": schema(MANY),
    **{name: schema(found) for name, found in OPEN.items()},
    **{name: schema(SCHEMAS[name]) for name in ("a record", "mixed", "a setting")},
}
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')


def gaps(text: str) -> set[str]:
    """What stands between the tokens of a JSON text, before the first and after the last of them."""
    return set(_PIECE.split(text))


def compact(text: str) -> bool:
    return gaps(text) == {""}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, False), ("[\n\t ]*", False), (r"[ \n\r\t]{0,3}", False), ("( )?", False), (" *|\n", False),
        ("^ ?$", False),
        ("", True), (r"\n*", True), ("(  )?", True), (r"\t{0}", True), ("(?:)", True),
    ],
)  # fmt: skip
def test_the_spelling_is_one_that_the_pattern_has(pattern: str | None, expected: bool) -> None:
    assert is_compact(pattern) is expected
    if pattern is not None:
        for text in ('{"a":1,"b":[2,{}]}',) if expected else ('{"a": 1, "b": [2, {}]}', "[]"):
            assert all(re.fullmatch(pattern, gap) for gap in gaps(text))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("[a ]*", "nothing but the white space of JSON"),
        (r"\s*", "nothing but the white space of JSON"),
        (".*", "nothing but the white space of JSON"),
        ("\u00a0?", "nothing but the white space of JSON"),
        (" ", "must match the empty text too"),
        (r"[ \n]+", "must match the empty text too"),
        ("[", "a set without end"),
        ("(?= ) *", "look-ahead"),
    ],
)
def test_a_pattern_that_no_spelling_has_is_refused_before_the_model_is_read(pattern: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine_of(Path("/nowhere"), constrained_json_whitespace_pattern=pattern)
    assert caught.value.param == "constrained_json_whitespace_pattern"
    assert says in str(caught.value)


@pytest.mark.parametrize("found", REGULAR[::2], ids=lambda found: json.dumps(found)[:80])
def test_both_engines_take_the_same_compact_texts(found: Any) -> None:
    text = json.dumps(found)
    assert difference(form_dfa(regular_form(text, compact=True)), by_llguidance(text, compact=True)) is None


@pytest.mark.parametrize("backend", ["auto", "automaton", "llguidance", "outlines"])
@pytest.mark.parametrize("name", FORMS)
def test_answers_drawn_by_chance_have_the_white_space_that_was_asked_for(name: str, backend: Backend) -> None:
    said, chance = words("byte-level"), random.Random(name)
    for pattern in (SPACED, COMPACT):
        try:
            grammar = said.grammar(FORMS[name], backend, compact=is_compact(pattern))
        except UnsupportedError:
            assert backend in ("automaton", "outlines")
            return
        for budget in budgets(grammar):
            text = draw(said, grammar, budget, chance)
            json.loads(text)
            assert all(re.fullmatch(pattern, gap) for gap in gaps(text)), text


def test_arguments_of_tools_have_it_and_what_stands_around_them_stays() -> None:
    said, chance = words("byte-level"), random.Random(0)
    grammar = said.grammar(CALLS, compact=True)
    for budget in budgets(grammar):
        text = draw(said, grammar, budget, chance)
        calls = re.findall(r'<call>\n\{"name": "\w+", "arguments": (\{.*?\})\}\n</call>', text)
        assert calls
        assert all(map(compact, calls)), text


def test_a_compact_answer_needs_fewer_tokens() -> None:
    said = words("bytes")
    for name in ("many", "a record"):
        spaced, short = (said.grammar(FORMS[name], compact=compact).matcher().distance() for compact in (False, True))
        assert 0 < short < spaced


@pytest.mark.parametrize("jump_forward", [True, False])
def test_an_engine_answers_compactly(tiny_checkpoint: Path, jump_forward: bool) -> None:
    async def texts() -> list[str]:
        engine = engine_of(tiny_checkpoint, constrained_json_whitespace_pattern="", jump_forward=jump_forward)
        try:
            asked = [
                answer(engine, [5, 17, 99], SamplingParams(max_tokens=200, temperature=1.0, seed=seed), constraint=form)
                for seed, form in enumerate(FORMS.values())
            ]
            return [found.text for found in await asyncio.gather(*asked)]
        finally:
            await engine.close()

    found = asyncio.run(texts())
    assert all(map(compact, found)), found
    assert any("," in text for text in found)
    for text in found:
        json.loads(text)
