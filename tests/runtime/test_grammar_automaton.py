"""Masks of regular constraints, against `re` and nothing else: every token tried, every way on tried."""

from __future__ import annotations

import itertools
import pickle
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import interegular
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stolon.lang.errors import EngineError, InvalidRequest
from stolon.runtime.grammar import trie
from stolon.runtime.grammar.automaton import AutomatonGrammar, compile_choices, compile_regex
from stolon.runtime.grammar.dfa import choices_dfa, regex_dfa
from stolon.runtime.grammar.distance import token_distances
from stolon.runtime.grammar.matcher import Grammar
from stolon.runtime.grammar.trie import Vocabulary

ATOMS = [
    "a",
    "b",
    "c",
    "é",
    "0",
    ".",
    r"\w",
    r"\d",
    "[ab]",
    "[^a]",
    r"[a-c0-9]",
    r"\.",
    "(?:)",
    r"\W",
    "(?i:B)",
    "[é-世]",
]
REPEATS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{0,2}", "{,2}", "{1,}", "{0}", "{2,3}?"]
BYTES = [bytes([byte]) for byte in range(256)]


def joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    chain = st.lists(parts, min_size=1, max_size=3).map("".join)
    choice = st.lists(parts, min_size=2, max_size=3).map(lambda options: f"({'|'.join(options)})")
    repeat = st.tuples(parts, st.sampled_from(REPEATS)).map(lambda pair: f"(?:{pair[0]}){pair[1]}")
    return chain | choice | repeat


patterns = st.recursive(st.sampled_from(ATOMS), joined, max_leaves=6)
pieces = st.sampled_from(
    [b"a", b"b", b"c", b"ab", b"ba", b"bc", b"aa", b"0", b"a0", "é".encode(), b"\xc3", b"\xa9", b"a\xc3", b".", b"\n"]
)


def said(vocabulary: Vocabulary, tokens: list[int]) -> bytes:
    return b"".join(vocabulary.texts[token] or b"" for token in tokens)


def is_answer(pattern: str, answer: bytes) -> bool:
    try:
        return re.fullmatch(pattern, answer.decode()) is not None
    except UnicodeDecodeError:
        return False


def allowed(grammar: Grammar, tokens: list[int], budget: int, words: int) -> set[int]:
    matcher = grammar.matcher()
    for token in tokens:
        matcher.advance(token)
    row = np.full(words + 1, -1, np.int32)
    matcher.fill_mask(row, budget)
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


def compiled_if_any(pattern: str, vocabulary: Vocabulary) -> AutomatonGrammar | None:
    """None where no answer exists, and no other reason to refuse."""
    try:
        return compile_regex(pattern, vocabulary)
    except InvalidRequest as error:
        if error.code != "grammar_empty":
            raise
        return None


def small_vocabulary(texts: list[bytes]) -> Vocabulary:
    """With an end token first, one that is no text, an empty one, and a second end token."""
    return Vocabulary([b"<end>", None, b"", *texts, b"a"], [0, len(texts) + 3])


@settings(max_examples=150, deadline=None)
@given(patterns, st.lists(pieces, min_size=1, max_size=4), st.integers(1, 4), st.data())
def test_a_mask_holds_exactly_the_tokens_that_some_answer_within_the_budget_goes_on_with(
    pattern: str, texts: list[bytes], budget: int, data: st.DataObject
) -> None:
    vocabulary = small_vocabulary(texts)
    ordinary = range(3, 3 + len(texts))
    answers = {
        tokens
        for count in range(budget + 1)
        for tokens in itertools.product(ordinary, repeat=count)
        if is_answer(pattern, said(vocabulary, list(tokens)))
    }
    grammar = compiled_if_any(pattern, vocabulary)
    if grammar is None:
        assert not answers
        return
    if not answers:
        assert grammar.matcher().distance() > budget
        with pytest.raises(EngineError, match="more tokens"):
            allowed(grammar, [], budget, vocabulary.words)
        return
    assert grammar.matcher().distance() == min(map(len, answers))
    answer = data.draw(st.sampled_from(sorted(answers)))
    for length in range(len(answer) + 1):
        prefix, left = answer[:length], budget - length
        onward = {other[length] for other in answers if other[:length] == prefix and len(other) > length}
        ends = set(vocabulary.eos_ids) if prefix in answers else set()
        if left:
            assert allowed(grammar, list(prefix), left, vocabulary.words) == onward | ends
        matcher = grammar.matcher()
        for token in prefix:
            matcher.advance(token)
        assert matcher.is_accepting == bool(ends)


@lru_cache(maxsize=4)
def full_vocabulary(seed: int) -> Vocabulary:
    """All bytes, and 300 longer texts."""
    rng = random.Random(seed)
    longer = ["".join(rng.choices("abcé0.世 \n", k=rng.randint(2, 5))).encode() for _ in range(300)]
    return Vocabulary([*BYTES, *longer, None], [556])


@settings(max_examples=300, deadline=None)
@given(patterns, st.integers(0, 3), st.integers(0, 6), st.randoms(use_true_random=False))
def test_whatever_is_drawn_under_the_masks_is_an_answer_and_ends_within_its_budget(
    pattern: str, seed: int, spare: int, rng: random.Random
) -> None:
    vocabulary = full_vocabulary(seed)
    grammar = compiled_if_any(pattern, vocabulary)
    if grammar is None:
        return
    assert grammar.is_exact
    matcher = grammar.matcher()
    budget = matcher.distance() + spare
    row = np.zeros(vocabulary.words, np.int32)
    tokens: list[int] = []
    while budget:
        matcher.fill_mask(row, budget)
        choice = rng.choice(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())
        if choice == 556:
            break
        forced = matcher.forced()
        text = vocabulary.texts[choice] or b""
        assert forced.startswith(text[: len(forced)])
        tokens.append(choice)
        matcher.advance(choice)
        budget -= 1
    assert matcher.is_accepting
    assert is_answer(pattern, said(vocabulary, tokens))


@settings(max_examples=60, deadline=None)
@given(
    patterns.filter(
        lambda p: (
            "??" not in p and "*?" not in p and "+?" not in p and "}?" not in p and "\\" not in p and "(?:)" not in p
        )
    )
)
def test_interegular_agrees_which_texts_are_answers(pattern: str) -> None:
    machine = interegular.parse_pattern(pattern.replace("{,2}", "{0,2}")).to_fsm()
    dfa = regex_dfa(pattern)
    for count in range(4):
        for chars in itertools.product("aBé0\n", repeat=count):
            text = "".join(chars)
            state = dfa.step(dfa.start, text.encode())
            assert bool(dfa.accepting[state]) == machine.accepts(text), text
    assert (dfa.start == 0) == machine.empty()


CHOICES = [
    ["yes", "yesterday"],
    ["", "a"],
    ["a", "a", "a"],
    ["a.c", "a*", "(", "\\d", "^$"],
    [" a", "a ", " "],
    ["😀", "é", "e\u0301", "世"],
    ["<end>", "end"],
    ["\U0010ffff", "\U0010fffe", "\0"],
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_every_choice_and_nothing_else_can_be_said_byte_by_byte(options: list[str]) -> None:
    vocabulary = Vocabulary([*BYTES, b"<end>", b"yes"], [256])
    grammar = compile_choices(options, vocabulary)
    reached: set[bytes] = set()
    waiting: list[list[int]] = [[]]
    while waiting:
        tokens = waiting.pop()
        for token in allowed(grammar, tokens, 100, vocabulary.words):
            if token == 256:
                reached.add(said(vocabulary, tokens))
            else:
                waiting.append([*tokens, token])
    assert reached == {option.encode() for option in options}


def test_twenty_thousand_choices_are_all_there_and_few_states_are_held() -> None:
    rng = random.Random(3)
    options = {"".join(rng.choices("abcdefgh-é", k=rng.randint(0, 9))) for _ in range(20_000)}
    dfa = choices_dfa(sorted(options))
    for option in options:
        assert dfa.accepting[dfa.step(dfa.start, option.encode())]
    others = {"".join(rng.choices("abcdefgh-é", k=rng.randint(0, 9))) for _ in range(2000)} - options
    assert not any(dfa.accepting[dfa.step(dfa.start, other.encode())] for other in others)
    assert dfa.states < sum(len(option.encode()) for option in options) / 2


@pytest.mark.parametrize(
    ("options", "match"), [([], "at least one"), (["\ud800"], "surrogate"), (["x" * 5_000_000], "bytes")]
)
def test_choices_that_cannot_be_are_refused(options: list[str], match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        choices_dfa(options)


HOSTILE_CHOICES = {
    "one after another": ["a" * count for count in range(1, 2800)],
    "all different": [bytes(random.Random(seed).choices(range(1, 128), k=15_000)).decode() for seed in range(20)],
    "two letters": ["".join(random.Random(seed).choices("ab", k=2000)) for seed in range(2000)],
    "very many": [str(number) for number in range(400_000)],
}


@pytest.mark.parametrize("options", HOSTILE_CHOICES.values(), ids=HOSTILE_CHOICES.keys())
def test_hostile_choices_are_built_or_refused_within_two_seconds(options: list[str]) -> None:
    begun = time.thread_time()
    try:
        dfa = choices_dfa(options)
    except InvalidRequest as error:
        dfa = None
        assert_too_complex(error)
    assert time.thread_time() - begun < 2
    if dfa is not None:
        assert all(
            dfa.accepting[dfa.step(dfa.start, option.encode())] for option in options[:: max(len(options) // 50, 1)]
        )


def assert_too_complex(error: InvalidRequest) -> None:
    assert (error.code, error.param) == ("grammar_too_complex", "choices")


def test_walks_that_are_too_wide_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = full_vocabulary(3)
    dfa = regex_dfa("[abc0]{20,40}|(.\n?){3}")
    expected = AutomatonGrammar(dfa, vocabulary).distances
    monkeypatch.setattr(trie, "MAX_WIDTH", 500)
    assert (AutomatonGrammar(dfa, vocabulary).distances == expected).all()


def test_a_constraint_that_the_tokens_cannot_spell_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="tokens can spell"):
        compile_choices(["ab"], Vocabulary([b"a", None], [1]))


def test_tokens_are_taken_back_and_never_more_than_were_said() -> None:
    vocabulary = full_vocabulary(0)
    matcher = compile_regex("(ab)*c", vocabulary).matcher()
    for byte in b"abab":
        matcher.advance(byte)
    matcher.rollback(3)
    matcher.rollback(0)
    assert matcher.forced() == b"b"
    with pytest.raises(ValueError, match="1 were said"):
        matcher.rollback(2)
    with pytest.raises(EngineError, match="breaks the form") as caught:
        matcher.advance(ord("a"))
    assert caught.value.code == "grammar_dead_end"
    matcher.advance(ord("b"))
    assert not matcher.is_accepting
    matcher.advance(ord("c"))
    assert matcher.is_accepting
    assert matcher.forced() == b""


def test_forced_bytes_end_where_there_is_a_choice_or_an_end() -> None:
    vocabulary = full_vocabulary(0)
    assert compile_choices(["yes", "yesterday"], vocabulary).matcher().forced() == b"yes"
    assert compile_regex('{"name": [ab]}', vocabulary).matcher().forced() == b'{"name": '
    assert compile_regex("", vocabulary).matcher().forced() == b""


def test_tokens_that_say_the_same_are_allowed_together_and_special_ones_never() -> None:
    vocabulary = Vocabulary([b"a", b"a", None, b"<|im_end|>", b"b"], [3])
    grammar = compile_regex("(?s:.)*", vocabulary)
    assert allowed(grammar, [], 9, vocabulary.words) == {0, 1, 3, 4}
    assert allowed(compile_regex("[a<|>_imend]+", vocabulary), [], 9, vocabulary.words) == {0, 1}


def test_masks_do_not_change_when_few_of_them_are_kept() -> None:
    vocabulary = full_vocabulary(1)
    dfa = regex_dfa("([ab]{3}|c0*){1,4}")
    kept = AutomatonGrammar(dfa, vocabulary)
    dropped = AutomatonGrammar(dfa, vocabulary, mask_cache_bytes=vocabulary.words * 4)
    rng = random.Random(0)
    for _ in range(200):
        state, budget = rng.randrange(1, dfa.states), rng.randint(1, 15)
        assert (kept.mask(state, budget) == dropped.mask(state, budget)).all()
        assert (kept.mask(state, budget) == AutomatonGrammar(dfa, vocabulary).mask(state, budget)).all()
    assert len(dropped._masks) == 1


def test_an_automaton_can_be_built_in_one_process_and_used_in_another() -> None:
    vocabulary = full_vocabulary(0)
    dfa = regex_dfa("([ab]{2}|é)+")
    sent = pickle.loads(pickle.dumps(dfa))
    assert (
        AutomatonGrammar(sent, vocabulary).mask(sent.start, 9) == AutomatonGrammar(dfa, vocabulary).mask(dfa.start, 9)
    ).all()


def test_answers_in_several_threads_share_a_grammar_and_its_few_kept_masks() -> None:
    vocabulary = full_vocabulary(1)
    dfa = regex_dfa("[abc]{1,40}")
    alone = AutomatonGrammar(dfa, vocabulary)
    shared = AutomatonGrammar(dfa, vocabulary, mask_cache_bytes=5 * vocabulary.words * 4)

    def agrees(seed: int) -> bool:
        rng = random.Random(seed)
        asked = [(rng.randrange(1, dfa.states), rng.randint(1, 50)) for _ in range(300)]
        return all((shared.mask(*pair) == alone.mask(*pair)).all() for pair in asked)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(agrees, range(8)))


def test_where_distances_are_too_large_to_work_out_answers_still_end_in_time() -> None:
    vocabulary = full_vocabulary(2)
    grammar = compile_regex('"[abc0. ]{60,900}"', vocabulary)
    exact = grammar.distances
    rough, whole = token_distances(grammar.dfa, grammar._trie, 2000)
    assert grammar.is_exact
    assert not whole
    assert (rough >= exact).all()
    assert (rough > exact).any()
    grammar.distances = rough
    matcher, rng = grammar.matcher(), random.Random(5)
    row = np.zeros(vocabulary.words, np.int32)
    tokens: list[int] = []
    for budget in range(matcher.distance(), 0, -1):
        matcher.fill_mask(row, budget)
        choice = rng.choice(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())
        if choice == 556:
            break
        tokens.append(choice)
        matcher.advance(choice)
    assert is_answer('"[abc0. ]{60,900}"', said(vocabulary, tokens))
