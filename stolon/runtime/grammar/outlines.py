"""outlines-core's own index over the whole vocabulary, for comparison: every state knows its tokens, nothing is lazy.

Regexes and choices only: of JSON schemas outlines-core ignores or misreads too much. Two marks stand around the pattern
as tokens of their own, for the reasons that dfa.py gives, so that answers are the same as with the automaton; the price
is time and memory, which grow with the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import outlines_core  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from ...lang.constraint import Constraint
from ...lang.errors import EngineError, InvalidRequest, UnsupportedError
from .charset import END_MARK, START_MARK
from .dfa import written
from .dialect import Choice, parse
from .distance import UNREACHABLE
from .estimate import estimate
from .llg_vocabulary import bit_row

Ints = NDArray[np.int32]


class _Index(Protocol):
    def get_initial_state(self) -> int: ...
    def get_final_states(self) -> set[int]: ...
    def get_transitions(self) -> dict[int, dict[int, int]]: ...


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """An automaton over tokens. Row s is begin[s] to begin[s + 1] of `tokens`, sorted, and of `after`; it starts at 0.

    begin: int32 [states + 1]; tokens, after: int32 [links]; accepting: bool [states]
    """

    begin: Ints
    tokens: Ints
    after: Ints
    accepting: NDArray[np.bool_]

    def arrays(self) -> list[NDArray[Any]]:
        return [self.begin, self.tokens, self.after, self.accepting]


def token_table(constraint: Constraint, texts: Sequence[bytes]) -> TokenTable:
    """texts: by token id, empty for what is no text. Raises InvalidRequest as `parse` and `estimate` do."""
    match constraint.kind:
        case "regex":
            pattern = constraint.text
        case "choices" if constraint.choices:
            pattern = "|".join(map(re.escape, constraint.choices))
        case "choices":
            raise InvalidRequest(
                "choices must not be empty: name at least one text", param="choices", code="invalid_choices"
            )
        case _:
            raise UnsupportedError(
                f"the grammar backend outlines takes no {constraint.kind}; use auto or llguidance",
                param=constraint.kind,
                code="unsupported_constraint",
            )
    tree = parse(pattern)
    if tree == Choice(()):
        raise InvalidRequest("the constraint allows no answer at all; loosen it", code="grammar_empty")
    estimate(tree)
    start, end, eos = len(texts), len(texts) + 1, len(texts) + 2
    known: dict[bytes, list[int]] = {chr(START_MARK).encode(): [start], chr(END_MARK).encode(): [end]}
    for id, text in enumerate(texts):
        if text:
            known.setdefault(text, []).append(id)
    vocabulary = cast(object, outlines_core.Vocabulary(eos, known))  # pyright: ignore[reportUnknownMemberType]
    marked = f"{chr(START_MARK)}{written(tree)}{chr(END_MARK)}"
    index = cast(_Index, outlines_core.Index(marked, vocabulary))  # pyright: ignore[reportUnknownMemberType]
    rows = index.get_transitions()
    first = rows[index.get_initial_state()].get(start)
    return _table(rows, first, end)


def _table(rows: dict[int, dict[int, int]], first: int | None, end: int) -> TokenTable:
    """The rows that are reached from `first`, without the marks."""
    number = {} if first is None else {first: 0}
    waiting = list(number)
    begin, tokens, after = [0], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    accepting: list[bool] = []
    for state in waiting:  # grows on the way
        row = rows.get(state, {})
        accepting.append(end in row)
        said = sorted(token for token in row if token < end - 1)
        for token in said:
            if row[token] not in number:
                number[row[token]] = len(number)
                waiting.append(row[token])
        tokens.append(np.array(said, np.int32))
        after.append(np.array([number[row[token]] for token in said], np.int32))
        begin.append(begin[-1] + len(said))
    return TokenTable(
        np.array(begin, np.int32), np.concatenate(tokens), np.concatenate(after), np.array(accepting, np.bool_)
    )


class OutlinesGrammar:
    """A token table and what ends an answer."""

    def __init__(self, table: TokenTable, rows: int, eos_ids: frozenset[int]) -> None:
        """rows: width of the logits. Raises InvalidRequest (code "grammar_empty") where no answer exists."""
        self.table = table
        self.rows = rows
        ends = np.zeros(rows, np.bool_)
        ends[list(eos_ids)] = True
        self.ends = bit_row(ends)
        self.distances = _distances(table)
        if not len(self.distances) or self.distances[0] == UNREACHABLE:
            raise InvalidRequest("the constraint allows no answer at all; loosen it", code="grammar_empty")

    @property
    def size_bytes(self) -> int:
        return sum(array.nbytes for array in (*self.table.arrays(), self.ends, self.distances))

    def matcher(self) -> OutlinesMatcher:
        return OutlinesMatcher(self)


class OutlinesMatcher:
    """One answer's way through an OutlinesGrammar. Nothing is said to be forced."""

    def __init__(self, grammar: OutlinesGrammar) -> None:
        self._grammar = grammar
        self._states = [0]

    @property
    def is_accepting(self) -> bool:
        return bool(self._grammar.table.accepting[self._states[-1]])

    def fill_mask(self, row: NDArray[np.int32], budget: int) -> None:
        grammar = self._grammar
        if budget < self.distance():
            raise EngineError(
                f"the answer needs {self.distance()} more tokens to end in its form, and may have {budget}",
                code="grammar_dead_end",
            )
        links = self._links()
        near = grammar.distances[grammar.table.after[links]] < budget
        chosen = np.zeros(grammar.rows, np.bool_)
        chosen[grammar.table.tokens[links][near]] = True
        bits = bit_row(chosen)
        row[: len(bits)] = bits | grammar.ends if self.is_accepting else bits
        row[len(bits) :] = 0

    def advance(self, token: int) -> None:
        links = self._links()
        tokens = self._grammar.table.tokens[links]
        place = int(np.searchsorted(tokens, token))
        if place == len(tokens) or tokens[place] != token:
            raise EngineError(f"token {token} breaks the form of the answer", code="grammar_dead_end")
        self._states.append(int(self._grammar.table.after[links][place]))

    def rollback(self, count: int) -> None:
        if not 0 <= count < len(self._states):
            raise ValueError(f"cannot take back {count} tokens: {len(self._states) - 1} were said")
        del self._states[len(self._states) - count :]

    def copy(self) -> OutlinesMatcher:
        twin = OutlinesMatcher(self._grammar)
        twin._states = list(self._states)
        return twin

    def forced(self) -> bytes:
        return b""

    def forced_tokens(self, said: Sequence[int], budget: int) -> list[int]:
        return []

    def distance(self) -> int:
        return int(self._grammar.distances[self._states[-1]])

    def _links(self) -> slice:
        begin = self._grammar.table.begin
        return slice(int(begin[self._states[-1]]), int(begin[self._states[-1] + 1]))


def _distances(table: TokenTable) -> Ints:
    """int32 [states]: fewest tokens to an end."""
    states = len(table.accepting)
    before = np.repeat(np.arange(states), np.diff(table.begin))
    found = np.where(table.accepting, 0, UNREACHABLE).astype(np.int32)
    for step in range(1, states + 1):
        near = before[found[table.after] == step - 1]
        reached = np.unique(near[found[near] == UNREACHABLE])
        if not len(reached):
            break
        found[reached] = step
    return found
