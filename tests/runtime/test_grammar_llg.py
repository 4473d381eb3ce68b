"""The llguidance engine: masks, budgets, rollback, forced text."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from stolon.lang.errors import EngineError, InvalidRequest
from stolon.runtime.grammar.llg import LlgGrammar
from stolon.runtime.grammar.llg_compile import compile_json_object, compile_lark, compile_schema
from stolon.runtime.grammar.llg_examples import Examples, endings
from stolon.runtime.grammar.llg_vocabulary import LlgVocabulary
from stolon.runtime.grammar.matcher import Grammar, Matcher

WORDS = [
    '"',
    '":',
    '{"',
    '"}',
    '",',
    '","',
    "true",
    "false",
    "null",
    "12",
    "100",
    "name",
    "ab",
    "xyz",
    "}}",
    "]}",
    "[]",
]
WORDS += ["{}", "  ", ', "', ": ", "20", "-0", "T1", ":00", "é", "日本"]
TOKENS = [bytes([i]) for i in range(256)] + [word.encode() for word in WORDS]
EOS, OTHER_EOS, SPECIAL, ROWS = len(TOKENS), len(TOKENS) + 1, len(TOKENS) + 2, len(TOKENS) + 40
VOCABULARY = LlgVocabulary(
    [*TOKENS, b"</s>", b"<end>", b"<tool>"], eos_ids=[EOS, OTHER_EOS], special_ids=[SPECIAL], rows=ROWS
)

SCHEMAS: dict[str, Any] = {
    "record": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array", "items": {}}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "open": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}, "minItems": 2}}},
    "anything": {},
    "tree": {
        "type": "object",
        "properties": {"v": {"enum": ["left", "right"]}, "kids": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["v", "kids"],
        "additionalProperties": False,
    },
    "choice": {
        "oneOf": [
            {"properties": {"k": {"const": "a"}, "n": {"type": "integer", "minimum": 100}}, "required": ["k", "n"]},
            {"properties": {"k": {"const": "b"}, "s": {"type": "string", "minLength": 12}}, "required": ["k", "s"]},
        ],
        "type": "object",
    },
    "formats": {
        "type": "object",
        "properties": {"d": {"type": "string", "format": "date-time"}, "u": {"type": "string", "format": "uuid"}},
        "required": ["d"],
    },
    "pattern": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"}, "maxItems": 3},
    "scalars": {"type": ["integer", "null", "boolean"]},
}


def allowed(matcher: Matcher, budget: int = 10_000) -> set[int]:
    row: NDArray[np.int32] = np.full((ROWS + 31) // 32, -1, np.int32)
    matcher.fill_mask(row, budget)
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


def generate(grammar: Grammar, budget: int, chance: random.Random) -> str:
    """A random answer of at most `budget` tokens; fails where it does not end by then."""
    matcher = grammar.matcher()
    said: list[int] = []
    while True:
        if matcher.is_accepting and (len(said) == budget or chance.random() < 0.1):
            return b"".join(TOKENS[token] for token in said).decode()
        assert len(said) < budget, b"".join(TOKENS[token] for token in said)
        choices = sorted(allowed(matcher, budget - len(said)) - {EOS, OTHER_EOS})
        if not choices:
            assert matcher.is_accepting
            return b"".join(TOKENS[token] for token in said).decode()
        said.append(chance.choice(choices))
        matcher.advance(said[-1])


@pytest.fixture(scope="module", params=SCHEMAS)
def compiled(request: pytest.FixtureRequest) -> tuple[Any, LlgGrammar]:
    schema = SCHEMAS[request.param]
    return schema, compile_schema(json.dumps(schema), VOCABULARY)


def test_random_answers_end_within_any_budget_that_fits_and_are_valid(compiled: tuple[Any, LlgGrammar]) -> None:
    schema, grammar = compiled
    kind = jsonschema.Draft202012Validator
    least = grammar.matcher().distance()
    for seed in range(60):
        chance = random.Random(seed)
        budget = least + chance.choice([0, 1, 2, 5, 10, 30, 80])
        text = generate(grammar, budget, chance)
        kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))


def test_what_was_taken_back_can_be_said_again(compiled: tuple[Any, LlgGrammar]) -> None:
    _, grammar = compiled
    chance = random.Random(1)
    matcher = grammar.matcher()
    said: list[int] = []
    masks = [allowed(matcher)]
    while len(said) < 12 and (choices := sorted(masks[-1] - {EOS, OTHER_EOS})):
        said.append(chance.choice(choices))
        matcher.advance(said[-1])
        masks.append(allowed(matcher))
    for count in range(1, len(said) + 1):
        matcher.rollback(count)
        assert allowed(matcher) == masks[-1 - count]
        for token in said[len(said) - count :]:
            matcher.advance(token)
    assert allowed(matcher) == masks[-1]


def test_the_distance_that_is_told_is_enough_after_a_rollback(compiled: tuple[Any, LlgGrammar]) -> None:
    _, grammar = compiled
    matcher = grammar.matcher()
    first = matcher.distance()
    for _ in range(min(3, first)):
        matcher.advance(min(allowed(matcher) - {EOS, OTHER_EOS}))
    matcher.rollback(min(3, first))
    assert matcher.distance() == first


def test_end_tokens_are_legal_exactly_where_an_answer_may_end() -> None:
    matcher = compile_schema('{"type": "integer", "minimum": 10}', VOCABULARY).matcher()
    assert not {EOS, OTHER_EOS} & allowed(matcher)
    matcher.advance(ord("1"))
    assert not matcher.is_accepting
    matcher.advance(ord("0"))
    assert matcher.is_accepting
    assert {EOS, OTHER_EOS} <= allowed(matcher)


def test_special_tokens_and_rows_without_a_token_are_never_legal() -> None:
    matcher = compile_schema('{"type": "string"}', VOCABULARY).matcher()
    for token in (ord('"'), ord("<")):
        assert max(allowed(matcher)) < EOS
        matcher.advance(token)
    assert SPECIAL not in allowed(matcher)


def test_two_answers_of_one_grammar_do_not_touch_each_other() -> None:
    grammar = compile_schema('{"enum": ["ab", "xyz"]}', VOCABULARY)
    left, right = grammar.matcher(), grammar.matcher()
    left.advance(ord('"'))
    before = allowed(right)
    left.advance(TOKENS.index(b"ab"))
    assert allowed(right) == before
    right.advance(ord('"'))
    right.advance(TOKENS.index(b"xyz"))
    assert left.forced() == b'"' == right.forced()


def test_forced_text_is_what_every_answer_goes_on_with() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    matcher = compile_schema(json.dumps(schema | {"additionalProperties": False}), VOCABULARY).matcher()
    for byte in b'{"':
        matcher.advance(byte)
    assert matcher.forced() == b'name": "'
    for byte in b'name": "':
        matcher.advance(byte)
    assert matcher.forced() == b""


def test_nothing_is_forced_where_an_answer_may_end() -> None:
    matcher = compile_schema('{"const": 5}', VOCABULARY).matcher()
    assert matcher.forced() == b"5"
    matcher.advance(ord("5"))
    assert matcher.is_accepting
    assert matcher.forced() == b""


def test_white_space_is_that_of_pythons_json() -> None:
    matcher = compile_json_object(VOCABULARY).matcher()
    matcher.advance(ord("{"))
    assert ord(" ") not in allowed(matcher)
    for byte in b'"a":':
        matcher.advance(byte)
    assert matcher.forced() == b" "
    matcher.advance(ord(" "))
    assert ord(" ") not in allowed(matcher)


def test_a_token_that_is_not_allowed_is_an_error_of_this_answer_alone() -> None:
    grammar = compile_schema('{"type": "null"}', VOCABULARY)
    broken, sound = grammar.matcher(), grammar.matcher()
    with pytest.raises(EngineError) as caught:
        broken.advance(ord("x"))
    assert caught.value.code == "grammar_dead_end"
    with pytest.raises(EngineError):
        allowed(broken)
    assert TOKENS.index(b"null") in allowed(sound)


def test_a_mask_row_of_another_size_is_refused() -> None:
    matcher = compile_json_object(VOCABULARY).matcher()
    with pytest.raises(ValueError, match="a mask row is"):
        matcher.fill_mask(np.zeros(3, np.int32), 10)


def test_more_tokens_than_were_said_cannot_be_taken_back() -> None:
    matcher = compile_json_object(VOCABULARY).matcher()
    matcher.advance(ord("{"))
    with pytest.raises(ValueError, match="1 tokens were said"):
        matcher.rollback(2)


@pytest.mark.parametrize(
    "source", ['start: "a" mid? "z"\nmid: "b" mid | "c"', 'root ::= "a" mid? "z"\nmid ::= "b" mid | "c"']
)
def test_grammars_in_either_notation_are_held_to_within_the_budget(source: str) -> None:
    grammar = compile_lark(source, VOCABULARY)
    least = grammar.matcher().distance()
    assert 2 <= least <= 6
    for seed in range(20):
        text = generate(grammar, least + seed, random.Random(seed))
        assert re.fullmatch("a(b*c)?z", text)


@pytest.mark.parametrize("source", ["start: (", "", "start: missing", "root ::= (", 'start: "a" start'])
def test_a_grammar_that_has_no_answer_is_refused(source: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compile_lark(source, VOCABULARY)
    assert caught.value.code in ("invalid_grammar", "grammar_too_complex")


@pytest.mark.parametrize("source", ["start: <tool>", 'start: "a" <[259]>', "start: /a/ b\nb: <tool>"])
def test_a_grammar_that_names_special_tokens_is_refused(source: str) -> None:
    with pytest.raises(InvalidRequest, match="special token"):
        compile_lark(source, VOCABULARY)


def test_angle_brackets_in_text_are_no_special_tokens() -> None:
    assert compile_lark('start: "<b>" /<[a-z]>/ // <tool>', VOCABULARY).matcher().forced() == b"<b><"


def test_a_grammar_beyond_the_size_limit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the limit is"):
        compile_lark('start: "' + "a" * 300_000 + '"', VOCABULARY)


def test_any_object_is_an_object() -> None:
    grammar = compile_json_object(VOCABULARY)
    for seed in range(10):
        assert isinstance(json.loads(generate(grammar, 2 + 5 * seed, random.Random(seed))), dict)


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("^[a-z]+(?:-+[a-z]+)*-v\\d+$", 1),
        ("^.+@.+$", 1),
        ("^(ab){2}$|c|[^\\s]{3}", 3),
        ('^[^a-z0-9"]{2}$', 1),
        ("^$", 1),
    ],
)
def test_examples_of_a_pattern_have_it_and_are_short(pattern: str, count: int) -> None:
    examples = Examples()
    shortest = examples.of(pattern)
    assert len(examples.texts) == count
    assert all(re.search(pattern, text) and len(text) <= 32 for text in examples.texts)
    assert shortest == min(examples.texts, key=len)


def test_a_string_may_be_ended_by_an_example_or_by_a_tail_of_one() -> None:
    assert endings(('a"b', "xy")) == ['a\\"b"', 'xy"', '\\"b"', 'b"', 'y"']


def test_a_pattern_that_cannot_be_read_has_no_examples() -> None:
    assert Examples().of("(?=a)b") is None
