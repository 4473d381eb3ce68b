"""Hostile constraints end in the error that is theirs, or in a grammar that works; nothing else suffers."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

import stolon.runtime
from stolon.lang.constraint import Constraint
from stolon.lang.errors import EngineError, InvalidRequest
from stolon.runtime.grammar import llg
from stolon.runtime.grammar.compiler import GrammarCompiler
from stolon.runtime.grammar.matcher import Grammar, Matcher
from stolon.runtime.tokenizer import Tokenizer
from tests.structured.hostile import HOSTILE, OK

TINY = Path(stolon.runtime.__file__).parent / "tiny" / "model"
TOKENIZER = Tokenizer.load(TINY)
ROWS = -(-TOKENIZER.vocab_size // 32)


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    before = threading.active_count()
    made = GrammarCompiler(TOKENIZER, TOKENIZER.vocab_size, frozenset(TOKENIZER.eos_ids))
    made.prepare()
    yield made
    children = psutil.Process().children()
    made.close()
    assert threading.active_count() == before
    assert not any(child.is_running() and child.status() != "zombie" for child in children)


class _Limit(Exception):
    """A grammar that works met one of its limits."""


def answer(grammar: Grammar, budget: int) -> list[list[int]]:
    """The masks of an answer drawn by chance."""
    matcher, chance = grammar.matcher(), random.Random(1)
    row = np.zeros(ROWS, np.int32)
    masks: list[list[int]] = []
    while len(masks) < budget:
        try:
            matcher.fill_mask(row, budget - len(masks))
        except EngineError as error:
            raise _Limit if error.code == "grammar_limit" else error from error
        masks.append(row.tolist())
        allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
        inside = [int(token) for token in allowed if token not in TOKENIZER.eos_ids]
        if not inside:
            break
        matcher.advance(chance.choice(inside))
    assert matcher.is_accepting
    return masks


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_constraint_ends_in_its_error_or_in_a_grammar(name: str, compiler: GrammarCompiler) -> None:
    constraint, expected = HOSTILE[name]
    other = compiler.compile(Constraint("choices", choices=("yes", "no"))).result()
    quiet = answer(other, 5)
    memory = psutil.Process().memory_info().rss
    future = compiler.compile(constraint)
    assert answer(other, 5) == quiet
    error = future.exception(timeout=60)
    if error is None:
        assert OK in expected
        with suppress(_Limit):
            answer(future.result(), max(12, future.result().matcher().distance()))
    else:
        assert isinstance(error, InvalidRequest)
        assert error.code in expected
        assert len(str(error)) < 1_000
    assert psutil.Process().memory_info().rss - memory < 256_000_000


def say_letters(matcher: Matcher, count: int) -> None:
    row = np.zeros(ROWS, np.int32)
    (letter,) = TOKENIZER.encode("a", bos=False)
    for step in range(count):
        matcher.fill_mask(row, 10_000 - step)
        matcher.advance(letter)


def test_there_are_as_many_hostile_constraints_as_promised() -> None:
    assert len(HOSTILE) >= 48


def test_a_grammar_that_becomes_slow_ends_its_own_answer_only(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llg, "_SLOW_STEP_S", 0.001)
    slow = compiler.compile(Constraint("grammar", 'start: start start | "a" | "aa"')).result().matcher()
    with pytest.raises(EngineError) as caught:
        say_letters(slow, 3_000)
    assert caught.value.code == "grammar_limit"
    assert answer(compiler.compile(Constraint("choices", choices=("yes", "no"))).result(), 5)
