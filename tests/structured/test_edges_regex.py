"""Regexes: the edges of the dialect, with `re` as the referee, on both engines."""

from __future__ import annotations

import re

import pytest

from stolon.lang.constraint import Constraint
from stolon.lang.errors import InvalidRequest
from stolon.runtime.grammar.prepare import Backend, prepare
from tests.structured.edges import VOCABULARIES, words

# each with texts, of which `re` says which are answers
PATTERNS: dict[str, list[str]] = {
    "|a": ["", "a", "aa"],
    "": ["", "a"],
    "a*?": ["", "a", "aaa", "b"],
    "a|b*": ["a", "", "bbb", "ab"],
    "(a|ab)(c|bcd)": ["ac", "abc", "abcd", "abbcd", "a", "ab"],
    "x{0}y": ["y", "xy"],
    "a{2,3}": ["a", "aa", "aaa", "aaaa"],
    "^ab$": ["ab", "a", "xab"],
    r"\Aab\Z": ["ab", "abc"],
    "(^a|b)c": ["ac", "bc", "c"],
    "(?i)straße": ["STRAßE", "straße", "strase"],
    "(?s).": ["\n", "a", "é", "ab"],
    ".": ["\n", "a", "数", "ab"],
    r"\d+": ["12", "٣٤", "a"],
    r"(?a)\d+": ["12", "٣"],
    r"\w+": ["é_1", "数学", "-"],
    "[^a]": ["é", "😀", "a", "b", "bb"],
    "[一-鿿]": ["数", "a"],
    r"\x41\u0042": ["AB", "ab"],
    r"\s": [" ", "\u00a0", "\t", "a"],
    "(?P<n>a)b": ["ab", "a"],
    "(ac|[^a])+": ["acb", "bac", "ba", "b"],
    "0|0.5": ["0", "0.5", "0x5", "0."],
    "yes|yesterday": ["yes", "yesterday", "yest"],
    "[0-9]{4}-[0-9]{2}": ["2024-05", "2024-5"],
    "a\\\\b": ["a\\b", "ab"],
    "é*": ["", "é", "ééé", "e"],
    r"(.|\n)*": ["", "a\nb", "数\n😀"],
}
REFUSED = {
    "a^b": "invalid_regex",
    r"\bword": "invalid_regex",
    "(?=a)b": "invalid_regex",
    "(?!a)b": "invalid_regex",
    "(?<=a)b": "invalid_regex",
    "(?<!a)b": "invalid_regex",
    r"(a)\1": "invalid_regex",
    "a++": "invalid_regex",
    r"\p{Lu}": "invalid_regex",
    "[[:alpha:]]": "invalid_regex",
    "[a&&b]": "invalid_regex",
    "(": "invalid_regex",
    ")": "invalid_regex",
    "a{1000000}": "grammar_too_complex",
    "[^\\s\\S]": "grammar_empty",
}


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("backend", ["automaton", "llguidance", "outlines"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_regex_takes_what_a_full_match_takes(pattern: str, backend: Backend, kind: str) -> None:
    said = words(kind)
    grammar = said.grammar(Constraint("regex", pattern), backend)
    for text in PATTERNS[pattern]:
        assert said.says(grammar, text) is (re.fullmatch(pattern, text) is not None), text


@pytest.mark.parametrize("backend", ["automaton", "llguidance", "outlines"])
@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_not_taken_is_refused_by_both_engines_alike(pattern: str, backend: Backend) -> None:
    said = words("bytes")
    with pytest.raises(InvalidRequest) as caught:
        said.grammar(Constraint("regex", pattern), backend)
    assert caught.value.code == REFUSED[pattern]


def test_bounds_without_a_low_end_mean_what_they_mean_to_re() -> None:
    said = words("bytes")
    grammar = said.grammar(Constraint("regex", "a{,3}"))
    assert [said.says(grammar, "a" * n) for n in range(5)] == [bool(re.fullmatch("a{,3}", "a" * n)) for n in range(5)]


def test_no_token_that_would_break_a_character_is_allowed() -> None:
    said = words("bytes")
    matcher = said.grammar(Constraint("regex", "[^a]*")).matcher()
    allowed = said.allowed(matcher)
    # what begins no character of UTF-8, or one that is too long, or a surrogate's second byte after its first
    assert not allowed & {0x80, 0xBF, 0xC0, 0xC1, 0xF5, 0xFF}
    matcher.advance(0xED)
    assert max(said.allowed(matcher)) == 0x9F


def test_a_matcher_is_a_regex_of_all_engines_or_none() -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(Constraint("grammar", 'start: "a"'), "automaton")
    assert caught.value.code == "unsupported_constraint"
