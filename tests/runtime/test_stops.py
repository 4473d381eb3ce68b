"""Stops against an oracle that looks at the whole text at once."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stolon.lang.errors import InvalidRequest
from stolon.runtime.stops import StopMatcher
from stolon.runtime.stops_regex import MAX_PATTERN

ALPHABET = "ab-😀"
texts = st.text(ALPHABET, max_size=24)
stops = st.lists(st.text(ALPHABET, min_size=1, max_size=5), max_size=4)


def leaf() -> st.SearchStrategy[str]:
    return st.sampled_from(["a", "b", "-", "😀", ".", "[ab]", "[^a]", r"\w", r"\W", r"\-"])


patterns = st.recursive(
    leaf(),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?", "{,2}"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
).filter(lambda pattern: not re.fullmatch(pattern, ""))


def cut(text: str, places: list[int]) -> list[str]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


def stream(pieces: list[str], stop: list[str], regex: list[str], include: bool) -> tuple[list[str], str | None]:
    matcher = StopMatcher(stop, regex, include)
    given_out: list[str] = []
    for piece in pieces:
        text, matched = matcher.push(piece)
        given_out.append(text)
        if matched is not None:
            assert matcher.push("more") == ("", None)
            assert matcher.flush() == ""
            return given_out, matched
    given_out.append(matcher.flush())
    return given_out, None


def oracle(text: str, stop: list[str], regex: list[str], include: bool) -> tuple[str, str | None]:
    """The first place where any stop ends; there, the one that began first, and then the one named first."""
    for end in range(1, len(text) + 1):
        for start in range(end):
            part = text[start:end]
            for one in stop:
                if part == one:
                    return text[: end if include else start], one
            for one in regex:
                if re.fullmatch(one, part):
                    return text[: end if include else start], one
    return text, None


def may_become_a_stop(text: str, stop: list[str]) -> int:
    """How many characters at the end of `text` begin some stop."""
    return max((n for n in range(len(text) + 1) for one in stop if n < len(one) and text.endswith(one[:n])), default=0)


@settings(max_examples=500, deadline=None)
@given(texts, stops, st.lists(st.integers(0, 100), max_size=8), st.booleans())
def test_streamed_text_is_what_the_oracle_cuts_from_the_whole(
    text: str, stop: list[str], places: list[int], include: bool
) -> None:
    pieces, matched = stream(cut(text, places), stop, [], include)
    assert ("".join(pieces), matched) == oracle(text, stop, [], include)


@settings(max_examples=300, deadline=None)
@given(texts, stops.filter(bool))
def test_exactly_what_may_become_a_stop_is_held_back(text: str, stop: list[str]) -> None:
    matcher = StopMatcher(stop, [], False)
    given_out = ""
    for end, char in enumerate(text, 1):
        piece, matched = matcher.push(char)
        given_out += piece
        if matched is not None:
            return
        assert given_out == text[: end - may_become_a_stop(text[:end], stop)]


@settings(max_examples=500, deadline=None)
@given(
    texts, stops, st.lists(patterns, min_size=1, max_size=2), st.lists(st.integers(0, 100), max_size=8), st.booleans()
)
def test_regexes_stop_where_the_oracle_says(
    text: str, stop: list[str], regex: list[str], places: list[int], include: bool
) -> None:
    pieces, matched = stream(cut(text, places), stop, regex, include)
    assert ("".join(pieces), matched) == oracle(text, stop, regex, include)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("say END now", ["END"], ("say ", "END")),
        ("THE END", ["END", "THE END"], ("", "THE END")),
        ("abcabd", ["abcabd"], ("", "abcabd")),
        ("abcabcabd", ["abcabd"], ("abc", "abcabd")),
        ("xx</s", ["</s>"], ("xx</s", None)),
        ("aab", ["ab", "aac"], ("a", "ab")),
        ("1\n\n2", ["\n\n"], ("1", "\n\n")),
        ("👩‍👩‍👧 ok", ["‍👧"], ("👩‍👩", "‍👧")),
    ],
)
def test_known_cases(text: str, stop: list[str], expected: tuple[str, str | None]) -> None:
    for size in range(1, len(text) + 1):
        pieces, matched = stream([text[i : i + size] for i in range(0, len(text), size)], stop, [], False)
        assert ("".join(pieces), matched) == expected


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (r"\d+", "abc 123", "abc "),
        (r"(?i)user:", "ok\nUSER: x", "ok\n"),
        (r"\n\n(?:Q|A):", "x\n\nA: y", "x"),
        (r"[.!?]\s", "One. Two.", "One"),
        (r"(?s)a.b", "xa\nb", "x"),
        (r"a{2,3}", "baaa", "b"),
        (r"(?P<q>x)y{}", "xy{}", ""),
        (r"\u20ac", "5€", "5"),
    ],
)
def test_regexes_mean_what_they_mean_in_python(pattern: str, text: str, expected: str) -> None:
    pieces, matched = stream(list(text), [], [pattern], False)
    assert ("".join(pieces), matched) == (expected, pattern)


@pytest.mark.parametrize(
    "pattern",
    ["", "a*", "(", "a|", "^a", "a$", r"\bword", "(?=a)b", "(?<!a)b", r"(a)\1", "(?i:a)", "[", "a" * (MAX_PATTERN + 1)],
)
def test_what_cannot_be_matched_as_text_comes_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        StopMatcher([], [pattern], False)


@pytest.mark.parametrize("pattern", ["((a{50}){50}){50}", "(a{1,100}){1,100}b", "(((a?){99}){99}){99}b", "(a?){900}b"])
def test_a_pattern_that_would_be_huge_is_refused_quickly(pattern: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRequest, match=r"1000 characters|too many ways"):
        StopMatcher([], [pattern], False)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a|aa)+b", "(.*)*x", "(a*)*b"])
def test_patterns_that_ruin_backtracking_cost_linear_time(pattern: str) -> None:
    def seconds(length: int) -> float:
        matcher = StopMatcher([], [pattern], False)
        started = time.process_time()
        for _ in range(length):
            matcher.push("a")
        return time.process_time() - started

    short = min(seconds(2_000) for _ in range(3))
    assert min(seconds(10_000) for _ in range(2)) < 20 * short + 0.05


def test_long_stops_and_long_hold_backs_are_not_quadratic() -> None:
    matcher = StopMatcher(["a" * 50_000 + "b"], ["z[^y]*y"], False)
    started = time.process_time()
    for _ in range(40_000):
        assert matcher.push("a") == ("", None)
    assert time.process_time() - started < 3
    assert matcher.flush() == "a" * 40_000
