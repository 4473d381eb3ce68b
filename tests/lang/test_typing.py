"""What type checkers see. `assert_type` does nothing at run time; pyright, which checks the tests too, is the judge."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

from stolon import Batch, State, function, gen, select
from stolon.lang.ir import Gen, Select


@function
def count(s: State, word: str, *, times: int = 1) -> int:
    s += word
    return times


@function
async def later(s: State, word: str) -> float:
    return float(len(word))


class Asker:
    @function
    def ask(self, s: State, question: str) -> str:
        return question


async def test_states_values_and_handles_are_typed(scripted):
    scripted("r")
    state = count("a", times=2)
    assert_type(state, State[int])
    assert_type(state.value, int)
    assert_type(count.run("a", temperature=0).value, int)
    assert_type((await later.arun("a")).value, float)
    assert_type(count.map(["a"]), Batch[int])
    assert_type(Asker().ask.run("q").value, str)
    assert_type(gen("x"), Gen[str])
    assert_type(select("x", ["a"]), Select[str])
    node = gen("x")

    @function
    def program(s: State) -> str:
        s += node
        for branch, item in s.fork([1, 2]):
            assert_type(branch, State[Any])
            assert_type(item, int)
        assert_type(s.fork(2)[node] if False else [""], list[str])
        return assert_type(s[node], str)

    assert_type(program().value, str)
