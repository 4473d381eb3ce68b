"""Lists of choices: the edges of what a list can hold."""

from __future__ import annotations

import pytest

from stolon.lang.constraint import Constraint
from stolon.lang.errors import InvalidRequest
from stolon.runtime.grammar.prepare import Backend, prepare
from tests.structured.edges import VOCABULARIES, words

LISTS: dict[str, tuple[list[str], list[str]]] = {
    "one a prefix of another": (["yes", "yesterday"], ["ye", "yest", "yesyes", ""]),
    "signs of regexes": (["a.c", "(x|y)*", "[", "\\d", "$^"], ["abc", "x", "1", ""]),
    "spaces at the ends": ([" a", "a ", "a"], [" a ", "  a"]),
    "outside of the first plane": (["😀", "数", "é"], ["😃", "学", "数学"]),
    "composed and decomposed": (["\u00e9", "e\u0301x"], ["e\u0301", "e"]),
    "the spelling of a control token": (["<|im_end|>", "</s>"], ["<|im_start|>", ""]),
    "NUL and line ends": (["a\x00b", "\n", "\r\n"], ["ab", "\r"]),
}


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("backend", ["auto", "llguidance", "outlines"])
@pytest.mark.parametrize("name", LISTS)
def test_every_choice_can_be_said_and_nothing_else(name: str, backend: Backend, kind: str) -> None:
    options, others = LISTS[name]
    said = words(kind)
    grammar = said.grammar(Constraint("choices", choices=tuple(options)), backend)
    assert [said.says(grammar, text) for text in options] == [True] * len(options)
    assert not any(said.says(grammar, text) for text in others)


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_tokens_that_end_within_a_character_say_choices_as_well(kind: str) -> None:
    # of forced text that such tokens divide, llguidance takes single bytes only
    options = ("👍🏽", "数学", "👩‍👩‍👧")
    said = words(kind)
    grammar = said.grammar(Constraint("choices", choices=options))
    assert all(said.says(grammar, text) for text in options)
    assert not said.says(grammar, "👍")


def test_a_choice_may_be_empty() -> None:
    said = words("byte-level")
    grammar = said.grammar(Constraint("choices", choices=("", "a")))
    assert said.says(grammar, "")
    assert said.says(grammar, "a")


def test_doubles_do_no_harm() -> None:
    said = words("bytes")
    assert said.says(said.grammar(Constraint("choices", choices=("a", "a"))), "a")


@pytest.mark.parametrize("backend", ["auto", "automaton", "llguidance", "outlines"])
def test_no_choices_are_refused(backend: Backend) -> None:
    with pytest.raises(InvalidRequest, match="at least one") as caught:
        prepare(Constraint("choices"), backend)
    assert caught.value.code == "invalid_choices"
