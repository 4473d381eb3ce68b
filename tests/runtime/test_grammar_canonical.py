"""Forced text comes in the tokens that the tokenizer gives where it reads the whole answer at once."""

from __future__ import annotations

import re
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from stolon.lang.errors import InvalidRequest
from stolon.runtime.grammar.automaton import compile_choices, compile_regex
from stolon.runtime.grammar.matcher import Grammar
from stolon.runtime.grammar.trie import Vocabulary
from stolon.runtime.tiny import MODEL_DIR
from stolon.runtime.tokenizer import Tokenizer

PLENTY = 10_000


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(MODEL_DIR)


def encode(text: str) -> list[int]:
    return tokenizer().encode_run(text, "inside")


@cache
def vocabulary() -> Vocabulary:
    silent = tokenizer().special_ids | tokenizer().eos_ids
    texts = [b"" if id in silent else tokenizer().token_bytes(id) for id in range(tokenizer().vocab_size)]
    return Vocabulary(texts, tokenizer().eos_ids, encode)


def runs(grammar: Grammar, answer: str, budget: int = PLENTY) -> list[tuple[int, list[int]]]:
    """At each token of the tokenizer's own reading of `answer`: its place, and what is forced there."""
    matcher, found = grammar.matcher(), list[tuple[int, list[int]]]()
    tokens = encode(answer)
    for place, token in enumerate(tokens):
        found.append((place, matcher.forced_tokens(tokens[:place], budget - place)))
        matcher.advance(token)
    assert matcher.is_accepting
    return found


def check(grammar: Grammar, answer: str) -> int:
    """Whatever is forced is what the tokenizer gives; returns how many tokens are."""
    tokens, covered = encode(answer), set[int]()
    for place, run in runs(grammar, answer):
        assert tokens[place : place + len(run)] == run
        covered.update(range(place, place + len(run)))
    return len(covered)


WORDS = [
    "the ",
    "name",
    '"',
    '": ',
    "{",
    "}",
    ", ",
    " is",
    "a",
    "s",
    "ing",
    "  ",
    "\n",
    "42",
    "0",
    "é",
    "日本",
    "'s",
    "!",
]
PIECES = st.sampled_from(WORDS)
TEXTS = st.lists(PIECES, min_size=1, max_size=8).map("".join)


def test_white_space_before_a_branch_may_go_with_the_word_behind_it() -> None:
    for choices in (["  é", "  "], ["  é", "  {"], ["  é", "  è"], ["a\n\n{", "a\n\né"]):
        grammar = compile_choices(choices, vocabulary())
        for choice in choices:
            check(grammar, choice)


@settings(max_examples=80, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4, unique=True))
def test_what_is_forced_is_how_the_tokenizer_reads_each_choice(choices: list[str]) -> None:
    grammar = compile_choices(choices, vocabulary())
    for choice in choices:
        check(grammar, choice)


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.sampled_from(["[a-z]{1,8}", "[0-9]{1,3}", "[ -~]{0,6}", "(yes|no)?"]), TEXTS, st.data())
def test_what_is_forced_before_a_gap_is_right_whatever_fills_it(
    before: str, gap: str, after: str, data: st.DataObject
) -> None:
    try:
        grammar = compile_regex(re.escape(before) + gap + re.escape(after), vocabulary())
    except InvalidRequest:
        return
    filled = data.draw(st.from_regex(gap, fullmatch=True).filter(str.isascii))
    check(grammar, before + filled + after)


def test_a_text_without_a_choice_is_forced_as_a_whole() -> None:
    text = "Dear reader, this is forced from here to the end."
    ((_, run), *_) = runs(compile_choices([text], vocabulary()), text)
    assert run == encode(text)


def test_a_token_that_may_grow_with_what_follows_is_left_to_the_model() -> None:
    assert len(encode('": "')) > 1
    grammar = compile_regex(r'\{"name": "[a-z]+"\}', vocabulary())
    text = '{"name": "'
    ((_, run), *_) = runs(grammar, '{"name": "bob"}')
    assert b"".join(tokenizer().token_bytes(token) for token in run) == text.encode()
    grown = compile_regex(r"th[a-z]{2}", vocabulary())  # "that" and "then" may be tokens
    assert grown.matcher().forced() == b"th"
    assert runs(grown, "them")[0][1] == []


def test_a_token_is_forced_where_a_shorter_one_is_legal_but_never_read() -> None:
    # `"}` is a token and may begin the string, but behind a space the tokenizer always reads ` "`
    string = r'"[^"\\]*"'
    texts = [b'"}', b' "', b" "]
    assert all(len(encode(text.decode())) == 1 for text in texts)
    grammar = compile_regex(r"name: " + string, vocabulary())
    answer = 'name: "}"'
    matcher, tokens = grammar.matcher(), encode(answer)
    place = tokens.index(*encode(' "'))
    for token in tokens[:place]:
        matcher.advance(token)
    assert set(encode(" ")) < set(grammar.legal(matcher._states[-1]))
    assert matcher.forced_tokens(tokens[:place], PLENTY) == encode(' "')
    check(grammar, answer)


def test_half_a_character_is_not_forced() -> None:
    ((_, run), *_) = runs(compile_choices(["é", "è"], vocabulary()), "é")
    assert run == encode("é")[: len(run)]
    assert len(run) < len(encode("é"))


def test_what_would_not_end_in_time_is_not_forced() -> None:
    text = "a text of several tokens"
    grammar = compile_choices([text], vocabulary())
    least = grammar.matcher().distance()
    tokens = encode(text)
    assert len(tokens) >= least
    for budget in range(least, len(tokens) + 1):
        run = grammar.matcher().forced_tokens([], budget)
        matcher = grammar.matcher()
        for token in run:
            matcher.advance(token)
        assert len(run) + matcher.distance() <= budget
    assert grammar.matcher().forced_tokens([], len(tokens)) == tokens


def test_a_vocabulary_that_does_not_know_its_tokenizer_forces_nothing() -> None:
    mute = Vocabulary(vocabulary().texts, vocabulary().eos_ids)
    assert compile_choices(["yes"], mute).matcher().forced_tokens([], PLENTY) == []
