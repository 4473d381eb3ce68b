"""Which patterns are taken, what they mean, and which are refused: where, and how soon."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stolon.lang.errors import InvalidRequest
from stolon.runtime.grammar.charset import EVERY, case_folded, complement, meaning, partial_blocks, union
from stolon.runtime.grammar.dfa import Dfa, regex_dfa
from stolon.runtime.grammar.dialect import Leaf, parse
from stolon.runtime.grammar.estimate import MAX_STATES, estimate


def accepts(dfa: Dfa, text: str) -> bool:
    return bool(dfa.accepting[dfa.step(dfa.start, text.encode())])


SAME = [
    ("|a", ["", "a", "aa"]),
    ("", ["", "a"]),
    ("a*?", ["", "aaa", "b"]),
    ("a|b*", ["a", "", "bb", "ab"]),
    ("(a|ab)(c|bcd)", ["ac", "abc", "abcd", "abbcd", "ab"]),
    ("yes|yesterday", ["yes", "yesterday", "yest"]),
    ("(?:yes|yesterday)?", ["", "yes", "yesterday"]),
    ("x{0}", ["", "x"]),
    ("x{,3}y", ["y", "xxxy", "xxxxy"]),
    ("x{2,3}", ["x", "xx", "xxx", "xxxx"]),
    ("x{2}y{,}z{1,}", ["xxz", "xxyyzz", "xz"]),
    ("x{}", ["x{}", "x"]),
    ("x{a}{,b", ["x{a}{,b"]),
    ("^a$", ["a", "^a$", "a\n"]),
    (r"\Aa|^b|c$|d\Z", ["a", "b", "c", "d", "ab"]),
    ("(^a|b)c$", ["ac", "bc"]),
    ("(?i)straße", ["STRASSE", "straße", "ſTRAẞE", "sTRAßE"]),
    ("(?i:a)b(?-i:c)", ["ab", "Abc", "aBc", "AbC"]),
    ("(?i)[k-l]", ["K", "k", "\u212a", "L", "m"]),
    ("(?i)[^k]", ["K", "k", "\u212a", "L"]),
    ("(?s).", ["\n", "a", "😀", ""]),
    (".", ["\n", "\r", "\u2028", "é", "😀"]),
    (r"\d+", ["12", "١٢", "²"]),
    (r"(?a)\d+", ["12", "١٢"]),
    (r"\w+", ["é_世", "a-b", "\u0301", "٣"]),
    (r"(?a:\w+)\W", ["a!", "aé", "é!"]),
    (r"\s\S", ["\u00a0x", "\x1cx", " \n", "\u200bx"]),
    ("[^a]", ["é", "世", "😀", "a", "\n", ""]),
    ("[一-鿿]+", ["世界", "ab", "一鿿"]),
    (r"\x41\u0041\U00000041\101\0", ["AAAA\0", "AAAA"]),
    (r"[\x00-\x1f]", ["\0", "\x1f", " "]),
    (r"\N{LATIN SMALL LETTER E WITH ACUTE}", ["é", "e"]),
    (r"(?P<year>\d{2})(?#two digits)x", ["12x", "12"]),
    (r"[]a]|[^]b]", ["]", "a", "b", "c"]),
    (r"[a\]\-\\b-]+", ["a]-\\b", "c"]),
    (r"[\w.-]+[\b]?", ["a.b-c", "a\b", "!"]),
    (r"\.\*\+\(\)\[\^", [".*+()[^"]),
    ("}", ["}"]),
    ("]", ["]"]),
    ("(ac|[^a])+", ["ac", "bac", "a", "xé", "aca"]),
    ("0|0.5", ["0", "0x5", "0.5", "0."]),
    ("-?(0|[1-9][0-9]*)([.][0-9]+)?", ["0.5", "-12", "01", "1."]),
    ("é*", ["", "éé", "e"]),
    ("(.|\n)*", ["", "a\nb", "世"]),
    ("((a*)*)*b?", ["aab", "", "ba"]),
    ("(|a|)+(b{0}|c)", ["aac", "", "b"]),
    ("[^\\s\\S]|b", ["b", "a"]),
    (r"(?m)^a$", ["a", "a\n"]),
]


@pytest.mark.parametrize(("pattern", "texts"), SAME, ids=[pattern for pattern, _ in SAME])
def test_a_pattern_means_what_it_means_to_re(pattern: str, texts: list[str]) -> None:
    dfa = regex_dfa(pattern)
    for text in texts:
        assert accepts(dfa, text) == (re.fullmatch(pattern, text) is not None), text


REFUSED = [
    ("(?=a)a", "look-ahead", 0),
    ("a(?!b)", "look-ahead", 1),
    ("ab(?<=b)", "look-behind", 2),
    ("(?<!b)a", "look-behind", 0),
    (r"(a)\1", "back-reference", 3),
    ("(?P<x>a)(?P=x)", "back-reference", 8),
    (r"a\b", "word boundary", 1),
    (r"\Ba", "word boundary", 0),
    ("a++", "possessive", 1),
    ("a{2}+", "possessive", 1),
    ("(?>a)", "atomic", 0),
    ("(a)?(?(1)b|c)", "conditional", 4),
    ("a^b", "anchor", 1),
    ("a$b", "anchor", 1),
    ("(^a)*", "anchor", 1),
    (r"\p{Lu}", "not known", 0),
    ("[[:alpha:]]", "set within a set", 1),
    ("[a&&b]", "&& in a set", 2),
    ("[a--b]", "-- in a set", 2),
    ("[b-a]", "bad range", 2),
    (r"[a-\d]", "bad range", 2),
    ("(a", "without end", 2),
    ("a)", "unbalanced", 1),
    ("[a", "without end", 0),
    ("*a", "nothing to repeat", 0),
    ("a**", "multiple repeat", 2),
    ("a*{2}", "multiple repeat", 2),
    ("a{3,2}", "min repeat greater", 1),
    ("a{1000000}", "more than 10000", 1),
    ("a{1,99999999999999999999}", "more than 10000", 1),
    ("a(?i)b", "beginning", 1),
    ("(?x)a b", "verbose", 0),
    ("(?Pa)", "unknown kind", 0),
    (r"\xg1", "unfinished", 0),
    ("\\", "not known", 0),
    (r"\N{NO SUCH NAME}", "no character", 0),
    (r"\Ux", "unfinished", 0),
]


@pytest.mark.parametrize(("pattern", "what", "position"), REFUSED, ids=[pattern for pattern, _, _ in REFUSED])
def test_what_is_not_taken_is_refused_with_its_position(pattern: str, what: str, position: int) -> None:
    with pytest.raises(InvalidRequest, match=what) as caught:
        regex_dfa(pattern)
    assert f"at position {position}" in str(caught.value)
    assert caught.value.param == "regex"


@settings(max_examples=1500, deadline=None)
@given(st.text(alphabet="ab()[]{}|*+?^$.\\-,:<>=!#&12PimsxaunNxUuwd", max_size=9))
def test_no_pattern_is_taken_that_re_refuses(pattern: str) -> None:
    try:
        parse(pattern)
    except InvalidRequest:
        return
    re.compile(pattern)


HOSTILE = {
    "nested counts": "(a{1,200}){1,200}",
    "nested counts, thrice": "((a{1,100}){1,100}){1,100}",
    "a long dot": ".{0,100000}",
    "a long class": "[a-z]{1,1000000}",
    "a long class within the limit": "[a-z]{1,10000}",
    "twenty ago": "(a|b)*a(a|b){20}",
    "twelve ago": "(a|b)*a(a|b){12}",
    "thirteen ago": "[ab]*a[ab]{13}",
    "letters of all scripts": r"\w{1,500}",
    "letters, alternatives": "|".join(f"\\w{i}[^{i}]" for i in range(9000)),
    "many texts": "|".join(f"word{i}" for i in range(9000)),
    "many texts and a star": "|".join(f"word{i}" for i in range(9000)) + "|a*",
    "parentheses": "(" * 50_000 + ")" * 50_000,
    "open parentheses": "(" * 5000,
    "dots in dots": "(.{0,1000}){0,1000}",
    "stars in stars": "(" * 50 + "a" + ")*" * 50,
    "optional, then required": "(a?){1000}a{1000}",
    "optional, many": "a?" * 5000 + "a" * 5000,
    "nothing, often": "((x{0}){10000}){10000}",
    "nothing, in many ways": "(" + "|" * 90_000 + "a){10000}",
    "a long text": "a" * 2_000_000,
    "a long text within the limit": "é" * 99_000,
    "ignoring case": "(?i)" + "aßé" * 5000,
    "names": r"\N{EM DASH}" * 5000,
    "sets": "[" + "\\W\\d" * 20_000 + "]" + "{1,500}",
    "different sets": "".join(f"[^{chr(0x4E00 + i)}]" for i in range(5000)),
    "overlapping sets": "(" + "|".join(f"[{chr(0x100 + i)}-{chr(0x4E00 + i)}]{i}" for i in range(3000)) + ")*x",
    "powers of three": "(" * 90 + "a" + "){3}" * 90,
    "half a surrogate pair": r"\ud800",
    "half a pair in a set": "[\ud800-\udfff]+",
    "backtracking": "(a+)+b" * 100,
    "braces": "{" * 50_000,
    "brackets": "[" * 50_000,
    "comments": "(?#a)" * 15_000,
    "flags": "(?i)" * 20_000,
    "groups": "(?:)" * 20_000,
    "anchors": "^" * 50_000 + "$" * 50_000,
    "unions of suffixes": "|".join(f".{{{count}}}a" for count in range(1, 60)),
    "stars in a row": "".join(f"[{chr(97 + i % 26)}x]*" for i in range(2000)),
}


@pytest.mark.parametrize("pattern", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pattern_is_built_or_refused_within_two_seconds(pattern: str) -> None:
    begun = time.thread_time()
    message, size = "", 0
    try:
        size = regex_dfa(pattern).size_bytes
    except InvalidRequest as error:
        message = str(error)
    assert time.thread_time() - begun < 2
    assert size < 70_000_000
    assert len(message) < 400


def test_the_estimate_is_never_too_small() -> None:
    patterns = [pattern for pattern, _ in SAME] + [
        r"\w{1,5}",
        ".{0,300}",
        "[ab]*a[ab]{9}",
        "(é|[一-鿿]{2,9}|😀)*",
        "[a-z]{1,999}",
    ]
    for pattern in patterns:
        assert regex_dfa(pattern).states <= estimate(parse(pattern)) <= MAX_STATES, pattern


characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from("akKsSſİıßẞσςΣé")


@settings(max_examples=40, deadline=None)
@given(st.lists(characters, min_size=1, max_size=4), st.booleans(), st.sampled_from(["", "i", "a", "ai"]))
def test_sets_of_characters_are_the_ones_of_re(chars: list[str], negated: bool, flags: str) -> None:
    body = "".join(char if char.isalnum() else re.escape(char) for char in chars)
    source = f"[{'^' if negated else ''}{body}]"
    tree = parse(f"(?{flags}:{source})" if flags else source)
    assert isinstance(tree, Leaf)
    pattern = re.compile(source, re.IGNORECASE * ("i" in flags) | re.ASCII * ("a" in flags))
    rng = random.Random(0)
    tried = {*chars, *"".join(chars).lower(), *"".join(chars).upper(), *"akKsSſİıßẞσςΣé\n"}
    tried |= {chr(rng.randrange(*rng.choice([(0, 0x300), (0x300, 0xD800), (0xE000, 0x10FFFE)]))) for _ in range(300)}
    for char in tried:
        if ord(char) < 0x10FFFE:
            held = any(low <= ord(char) <= high for low, high in tree.ranges)
            assert held == (pattern.fullmatch(char) is not None), ascii(char)


@pytest.mark.parametrize(
    ("source", "ranges"), [("k", ((107, 107),)), ("[^Σ]", complement(((931, 931),))), (r"[\wſ]", ())]
)
def test_ignoring_case_is_worked_out_from_the_characters_that_have_case(
    source: str, ranges: tuple[tuple[int, int], ...]
) -> None:
    ranges = ranges or union([*meaning(r"\w", ""), (0x17F, 0x17F)])
    assert case_folded(source, "i", ranges) == meaning(source, "i")


def test_sets_and_what_they_leave_out_make_up_everything() -> None:
    for source in (r"\w", r"\d", r"\s", "[a-z]", "[^a]"):
        inside = meaning(source, "")
        assert complement(complement(inside)) == inside
        assert union([*inside, *complement(inside)]) == union(EVERY)
    assert partial_blocks(((97, 122),)) == 0
