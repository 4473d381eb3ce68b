"""A budget that holds the shortest answer that is known holds every answer, whatever is drawn on the way."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from typing import Any

import jsonschema
import numpy as np
import pytest

from stolon.lang.constraint import Constraint
from stolon.runtime.grammar.matcher import Grammar
from tests.structured.edges import Words, schema, words

GRAMMARS = {
    "parentheses": 'start: "(" start ")" | "x"',
    "pairs": 'start: "a" start "bcd" | ""',
    "a long way beside a short one": 'start: "x" | "open " long\nlong: "' + "z" * 120 + '" "!"',
    "a calculator": 'start: f ("+" f)*\nf: value ("*" value)*\nvalue: /[0-9]+/ | "(" start ")"',
    "lists": 'start: "[" (start ("," start)*)? "]" | /[a-z]{3,5}/',
    "begin and end": 'start: block\nblock: "begin " (block | stmt)+ "end "\nstmt: "x = " /[0-9]{4}/ "; "',
    "ambiguous": 'start: start start | "a" | "bb"',
    "in GBNF": 'root ::= "<" item ("," item)* ">"\nitem ::= [a-z]+ | root',
}
OPEN: dict[str, Any] = {
    "strings with rules": {
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z]{4}-[0-9]{6}$"},
            "at": {"type": "string", "format": "date-time"},
            "note": {"type": "string", "minLength": 12, "maxLength": 40},
            "names": {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2},
        },
        "required": ["code", "note"],
        "patternProperties": {"^x-[a-z]+$": {"type": "integer", "minimum": 100_000}},
        "additionalProperties": False,
    },
    "one of several": {
        "anyOf": [
            {"const": "no"},
            {"type": "object", "properties": {n: {"type": "string"} for n in "abcdefgh"}, "required": list("abcdefgh"),
             "additionalProperties": False},
            {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        ]
    },
    "anything": {},
}  # fmt: skip
CALL = {
    "begin": '<call>{"name": "look up", "with": ',
    "schema": {
        "type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"], "additionalProperties": False
    },
    "end": "}</call>",
}  # fmt: skip


LOOK_UP, NOW, REMIND = (
    {"begin": f'<call>\n{{"name": "{name}", "arguments": ', "schema": schema, "end": "}\n</call>"}
    for name, schema in {
        "look_up": CALL["schema"],
        "now": {"type": "object", "properties": {}, "additionalProperties": False},
        "remind_me": {
            "type": "object",
            "properties": {"at": {"type": "string", "minLength": 16}, "of": {"enum": ["tea"]}},
            "required": ["at", "of"],
            "additionalProperties": False,
        },
    }.items()
)
SHORTEST = {
    "look_up": '<call>\n{"name": "look_up", "arguments": {"q": ""}}\n</call>',
    "now": '<call>\n{"name": "now", "arguments": {}}\n</call>',
    "remind_me": '<call>\n{"name": "remind_me", "arguments": {"at": "aaaaaaaaaaaaaaaa", "of": "tea"}}\n</call>',
}  # fmt: skip


def draw(said: Words, grammar: Grammar, budget: int, chance: random.Random) -> str:
    """An answer drawn by chance; fails where it does not end within the budget."""
    matcher = grammar.matcher()
    drawn: list[int] = []
    while not (matcher.is_accepting and (len(drawn) == budget or chance.random() < 0.05)):
        assert len(drawn) < budget
        inside = sorted(said.allowed(matcher, budget - len(drawn)) - said.eos_ids)
        if not inside:
            assert matcher.is_accepting
            break
        drawn.append(chance.choice(inside))
        matcher.advance(drawn[-1])
    return b"".join(said.texts[token] for token in drawn).decode()


def budgets(grammar: Grammar) -> list[int]:
    least = max(1, grammar.matcher().distance())
    return [least + more for more in (0, 1, 3, 9, 40)]


def says(said: Words, grammar: Grammar, text: str) -> bool:
    """Byte by byte: what was drawn need not be cut as the tokenizer cuts it."""
    matcher = grammar.matcher()
    for byte in text.encode():
        matcher.advance(byte)
    return matcher.is_accepting


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
@pytest.mark.parametrize("name", GRAMMARS)
def test_answers_to_a_grammar_end_in_time(name: str, kind: str) -> None:
    said, plain = words(kind), words("bytes")
    constraint = Constraint("grammar", GRAMMARS[name])
    grammar, judge = said.grammar(constraint), plain.grammar(constraint)
    chance = random.Random(name)
    for budget in budgets(grammar):
        assert says(plain, judge, draw(said, grammar, budget, chance))


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
@pytest.mark.parametrize("name", OPEN)
def test_answers_to_a_schema_end_in_time_and_are_valid(name: str, kind: str) -> None:
    said = words(kind)
    grammar = said.grammar(schema(OPEN[name]))
    judge = jsonschema.Draft202012Validator(OPEN[name])
    chance = random.Random(name)
    for budget in budgets(grammar):
        judge.validate(json.loads(draw(said, grammar, budget, chance)))


HARD = {
    "a choice of ends": r"^(([0-9]|[1-9][0-9]|1[0-9]{2})\.){3}[0-9]{1,3}/[0-9]$|0\.0\.0\.0/0$",
    "a sign among all": "^.+@.+$",
    "a fixed end": r"^[a-z]+(?:-+[a-z]+)*-v\d+$",
    "digits in groups": "^[0-9]{3}-[0-9]{2}-[0-9]{4}$",
}


@pytest.mark.parametrize(("name", "place"), [*((name, "value") for name in HARD), ("a fixed end", "name")])
def test_an_end_is_found_wherever_a_pattern_was_left(name: str, place: str) -> None:
    text: dict[str, Any] = {"type": "string", "pattern": HARD[name]}
    found: dict[str, Any] = {
        "type": "object",
        "properties": {"free": {"type": "string"}, **({"held": text} if place == "value" else {})},
        "required": ["free", *(["held"] if place == "value" else [])],
        "patternProperties": {HARD[name]: {"type": "null"}} if place == "name" else {},
        "additionalProperties": place == "value",
    }
    said = words("byte-level")
    grammar = said.grammar(schema(found))
    judge = jsonschema.Draft202012Validator(found)
    # roomy: for a while nothing looks at the budget, and the completion at hand is of another place then
    for more in (80, 200):
        budget = grammar.matcher().distance() + more
        judge.validate(json.loads(draw(said, grammar, budget, random.Random(f"{name} {more}"))))


@pytest.mark.parametrize("pattern", [*(f"(?:{rule})" for rule in HARD.values()), r"[\s\S]*(?:b+)[\s\S]*"])
def test_an_end_is_found_by_llguidance_wherever_a_regex_was_left(pattern: str) -> None:
    said = words("byte-level")
    grammar = said.grammar(Constraint("regex", pattern), "llguidance")
    for more in (80, 200):
        found = draw(said, grammar, max(1, grammar.matcher().distance()) + more, random.Random(f"{pattern} {more}"))
        assert re.fullmatch(pattern, found)


@pytest.mark.parametrize("constraint", [*map(schema, OPEN.values()), Constraint("grammar", GRAMMARS["in GBNF"])])
def test_a_busy_machine_changes_no_answer(constraint: Constraint, monkeypatch: pytest.MonkeyPatch) -> None:
    said = words("byte-level")

    def answers() -> list[str]:
        grammar = said.grammar(constraint)
        return [draw(said, grammar, budget, random.Random(budget)) for budget in budgets(grammar)]

    quiet = answers()
    ticks = itertools.count()
    # every look at the clock finds 50 ms gone, which is not yet a step that is refused as too slow
    monkeypatch.setattr(time, "thread_time", lambda: 0.05 * next(ticks))
    assert answers() == quiet


@pytest.mark.parametrize("free", [True, False])
def test_calls_that_are_begun_are_ended(free: bool) -> None:
    said, plain = words("byte-level"), words("bytes")
    text = json.dumps({"tags": [CALL], "free": free, "least": int(not free), "most": None, "separator": ""})
    grammar, judge = said.grammar(Constraint("tags", text)), plain.grammar(Constraint("tags", text))
    chance = random.Random(5)
    for budget in budgets(grammar):
        assert says(plain, judge, draw(said, grammar, budget, chance))


def test_calls_or_an_answer_that_are_begun_are_ended() -> None:
    said, plain = words("byte-level"), words("bytes")
    answer = {"begin": "", "schema": OPEN["one of several"], "end": "", "alone": True}
    text = json.dumps({"tags": [CALL, answer], "free": False, "least": 1, "most": 3, "separator": "\n"})
    grammar, judge = said.grammar(Constraint("tags", text)), plain.grammar(Constraint("tags", text))
    chance = random.Random(6)
    for budget in budgets(grammar):
        assert says(plain, judge, draw(said, grammar, budget, chance))


def test_all_letters_stay_legal_in_a_free_string_near_the_end() -> None:
    said = words("byte-level")
    matcher = said.grammar(schema({"type": "string"})).matcher()
    for token in said.encode('"so'):
        matcher.advance(token)
    plain = [id for id, text in enumerate(said.texts) if text.isalpha() and text.isascii()]
    assert len(plain) > 100
    row = np.zeros(-(-said.rows // 32), np.int32)
    matcher.fill_mask(row, 6)
    assert all(row[id // 32] >> (id % 32) & 1 for id in plain)
    matcher.fill_mask(row, 1)
    assert not any(row[id // 32] >> (id % 32) & 1 for id in plain)


@pytest.mark.parametrize("kind", ["bytes", "byte-level", "byte fallback"])
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("name", SHORTEST)
def test_a_budget_that_just_holds_a_call_keeps_it_open(name: str, free: bool, kind: str) -> None:
    said = words(kind)
    text = {"tags": [LOOK_UP, NOW, REMIND], "free": free, "least": 1, "most": None, "separator": ""}
    matcher = said.grammar(Constraint("tags", json.dumps(text))).matcher()
    tokens = said.encode(SHORTEST[name])
    assert matcher.distance() <= len(tokens)
    for place, token in enumerate(tokens):
        assert token in said.allowed(matcher, len(tokens) - place), said.texts[token]
        matcher.advance(token)
    assert matcher.is_accepting


@pytest.mark.parametrize("name", SHORTEST)
def test_a_call_that_may_be_made_is_open_as_long_as_it_fits(name: str) -> None:
    said = words("byte-level")
    text = {"tags": [LOOK_UP, NOW, REMIND], "free": True, "least": 0, "most": None, "separator": ""}
    matcher = said.grammar(Constraint("tags", json.dumps(text))).matcher()
    before = said.encode("So be it. ")
    for token in before:
        matcher.advance(token)
    tokens = said.encode(SHORTEST[name])
    for place, token in enumerate(tokens):
        assert token in said.allowed(matcher, len(tokens) - place), said.texts[token]
        matcher.advance(token)
    assert matcher.is_accepting


@pytest.mark.parametrize("name", SHORTEST)
def test_an_answer_leaves_its_form_as_it_was(name: str) -> None:
    said = words("byte-level")
    text = {"tags": [LOOK_UP, NOW, REMIND], "free": False, "least": 1, "most": None, "separator": ""}
    grammar = said.grammar(Constraint("tags", json.dumps(text)))
    tokens = said.encode(SHORTEST[name])
    for _ in range(2):
        matcher = grammar.matcher()
        for place, token in enumerate(tokens):
            # no mask is asked for where tokens are forced
            if not matcher.forced():
                assert token in said.allowed(matcher, len(tokens) - place), said.texts[token]
            matcher.advance(token)
