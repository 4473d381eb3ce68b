"""The compiler service: limits, sharing, refusals, and that nothing of it is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import stolon.runtime
from stolon.lang.constraint import Constraint
from stolon.lang.errors import EngineClosedError, InvalidRequest, UnsupportedError
from stolon.runtime.grammar.compiled import CompiledGrammars
from stolon.runtime.grammar.compiler import GrammarCompiler
from stolon.runtime.grammar.frames import FrameError, packed, read_frame, write_frame
from stolon.runtime.grammar.matcher import Matcher
from stolon.runtime.tokenizer import Tokenizer

TINY = Path(stolon.runtime.__file__).parent / "tiny" / "model"
SLOW_REGEX = Constraint("regex", r"(\w{1,30}){1,30}")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(TINY)


@pytest.fixture
def compiler(tokenizer: Tokenizer) -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(tokenizer, tokenizer.vocab_size, frozenset(tokenizer.eos_ids))
    yield made
    made.close()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "grammar.child" in " ".join(child.cmdline())]


KINDS = [
    (Constraint("regex", "[0-9]{3}-[0-9]{4}"), "555-1234"),
    (Constraint("choices", choices=("yes", "yesterday")), "yesterday"),
    (Constraint("json_schema", '{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}},'
                ' "additionalProperties": false}'), '{"a": 5}'),
    (Constraint("json_object"), '{"a": [1, null]}'),
    (Constraint("grammar", 'start: "(" start ")" | "x"'), "((x))"),
]  # fmt: skip


@pytest.mark.parametrize(("constraint", "answer"), KINDS, ids=lambda value: getattr(value, "kind", ""))
def test_every_kind_of_constraint_is_compiled_and_takes_an_answer_in_its_form(
    constraint: Constraint, answer: str, compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    matcher = compiler.compile(constraint).result().matcher()
    row = np.zeros(-(-tokenizer.vocab_size // 32), np.int32)
    for token in tokenizer.encode(answer, bos=False):
        matcher.fill_mask(row, 100)
        assert row[token // 32] >> (token % 32) & 1
        matcher.advance(token)
    assert matcher.is_accepting


def test_outlines_own_index_is_made_in_a_child_that_is_told_the_vocabulary(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size, frozenset(tokenizer.eos_ids), backend="outlines")
    for pattern, answer in (("[0-9]{3}", "555"), ("yes|yesterday", "yesterday")):
        matcher = compiler.compile(Constraint("regex", pattern)).result().matcher()
        for token in tokenizer.encode(answer, bos=False):
            matcher.advance(token)
        assert matcher.is_accepting
    with pytest.raises(UnsupportedError):
        compiler.compile(Constraint("json_object")).result()
    compiler.close()


def test_equal_constraints_share_one_grammar_whatever_their_space(compiler: GrammarCompiler) -> None:
    first = compiler.compile(Constraint("json_schema", '{"type": "integer"}'))
    second = compiler.compile(Constraint("json_schema", ' {"type":"integer"} '))
    assert first.result() is second.result()
    assert compiler.compile(Constraint("json_schema", '{"type": "integer"}')).result() is first.result()


def test_cancelling_one_waiter_leaves_the_others_their_grammar(compiler: GrammarCompiler) -> None:
    constraint = Constraint("regex", "[a-f]+")
    cancelled, kept = compiler.compile(constraint), compiler.compile(constraint)
    assert cancelled.cancel()
    assert kept.result().matcher().distance() == 1


def test_a_refusal_is_remembered_and_each_caller_gets_an_error_of_its_own(compiler: GrammarCompiler) -> None:
    errors = [compiler.compile(Constraint("regex", "(((")).exception() for _ in range(2)]
    assert all(isinstance(error, InvalidRequest) and error.code == "invalid_regex" for error in errors)
    assert errors[0] is not errors[1]


def test_what_hangs_is_killed_at_its_limit_and_the_next_constraint_is_served(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size, frozenset(tokenizer.eos_ids), limit_s=0.001)
    with pytest.raises(InvalidRequest) as caught:
        compiler.compile(SLOW_REGEX).result()
    assert caught.value.code == "grammar_too_complex"
    compiler._limit_s = 30
    assert compiler.compile(Constraint("regex", "[ab]{2}")).result().matcher().distance() >= 1
    compiler.close()


def test_a_child_that_was_killed_from_outside_is_replaced(compiler: GrammarCompiler) -> None:
    compiler.compile(Constraint("regex", "[ab]{2}")).result()
    (child,) = children()
    child.kill()
    child.wait()
    assert compiler.compile(Constraint("regex", "[ab]{3}")).result().matcher().distance() >= 1


def test_closing_ends_all_threads_and_children_and_fails_what_waits(tokenizer: Tokenizer) -> None:
    before = threading.active_count()
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size, frozenset(tokenizer.eos_ids))
    futures = [compiler.compile(Constraint("regex", f"(a|b){{{n}}}")) for n in range(1, 9)]
    compiler.close()
    outcomes = [future.exception(timeout=10) for future in futures]
    assert all(error is None or isinstance(error, EngineClosedError) for error in outcomes)
    assert isinstance(compiler.compile(Constraint("json_object")).exception(), EngineClosedError)
    assert threading.active_count() == before
    assert children() == []


def test_children_end_when_their_parent_is_killed() -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from stolon.lang.constraint import Constraint\n"
        "from stolon.runtime.grammar.compiler import GrammarCompiler\n"
        "from stolon.runtime.tokenizer import Tokenizer\n"
        f"tokenizer = Tokenizer.load(Path({str(TINY)!r}))\n"
        "compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size, frozenset(tokenizer.eos_ids))\n"
        "compiler.compile(Constraint('regex', 'a+')).result()\n"
        "print(*compiler._children.pids, flush=True); time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert pids


class _Sized:
    """A grammar that is only large."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def matcher(self) -> Matcher:
        raise NotImplementedError


def test_the_store_holds_no_more_bytes_than_it_may_and_forgets_the_oldest_use() -> None:
    store = CompiledGrammars(100)
    for name in "abc":
        store.put(name, 0, _Sized(30))
    assert store.get("a") is not None
    store.put("d", 0, _Sized(30))
    assert store.get("b") is None
    assert store.get("a") is not None
    store.put("e", 0, _Sized(101))
    assert store.get("e") is None
    assert store.size_bytes == 90


def test_frames_come_out_as_they_went_in_and_a_cut_one_is_an_error() -> None:
    arrays = [np.arange(6, dtype=np.int32).reshape(2, 3), np.array([True, False])]
    reading, writing = os.pipe()
    write_frame(writing, packed({"a": "é"}, arrays))
    head, found = read_frame(reading)
    assert head == {"a": "é"}
    assert all(
        np.array_equal(one, other) and one.dtype == other.dtype for one, other in zip(arrays, found, strict=True)
    )
    os.write(writing, packed({"a": 1})[:-1])
    os.close(writing)
    with pytest.raises(FrameError):
        read_frame(reading)
    os.close(reading)
