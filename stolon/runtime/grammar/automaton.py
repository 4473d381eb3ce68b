"""Regular constraints: regexes and choices, as a byte automaton with token masks made when a state is first reached.

Everything is exact: a token is legal where an answer in the form can go on with it and still end within the budget.
Threads may share a grammar; a matcher belongs to one answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ...lang.errors import EngineError, InvalidRequest
from .canonical import Canonical
from .dfa import Dfa, choices_dfa, regex_dfa
from .distance import UNREACHABLE, token_distances
from .trie import ClassTrie, Vocabulary

MASK_CACHE_BYTES = 32_000_000  # of one grammar
_ANY_BUDGET = 0
_LONGEST_RUN = 128  # bytes of forced text that are cut into tokens at once, at up to 0.1 ms a byte
_FEW = 8  # legal tokens among which one may be the only one that the tokenizer would give
_KEPT_RUNS = 4096  # of one grammar


@dataclass(frozen=True, slots=True, eq=False)
class _StateMask:
    """row: int32 [words], the tokens legal with a budget of `needs`, end tokens included; if `is_whole`, or of more."""

    row: NDArray[np.int32]
    needs: int
    is_whole: bool


class AutomatonGrammar:
    """An automaton and a vocabulary. `is_exact`: whether distances are the smallest there are (see distance.py)."""

    def __init__(self, dfa: Dfa, vocabulary: Vocabulary, *, mask_cache_bytes: int = MASK_CACHE_BYTES) -> None:
        """Raises InvalidRequest (code "grammar_empty") where no answer exists, or none that these tokens can say."""
        self.dfa = dfa
        self.vocabulary = vocabulary
        self._mask_cache_bytes = mask_cache_bytes
        self._masks: OrderedDict[tuple[int, int], _StateMask] = OrderedDict()
        self._runs: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        self._lock = Lock()
        if dfa.start == 0:
            raise InvalidRequest("the constraint allows no answer at all; loosen it", code="grammar_empty")
        self._trie = ClassTrie(vocabulary, dfa.byte_class, dfa.pairs())
        self.distances, self.is_exact = token_distances(dfa, self._trie)
        if self.distances[dfa.start] == UNREACHABLE:
            raise InvalidRequest(
                "the constraint allows no answer that this model's tokens can spell; loosen it", code="grammar_empty"
            )
        self.only = _only_byte(dfa)
        ends = np.zeros(vocabulary.size, np.bool_)
        ends[list(vocabulary.eos_ids)] = True
        self._ends = np.packbits(ends, bitorder="little")

    @property
    def size_bytes(self) -> int:
        """What is held at most, masks to come included."""
        arrays = (self.distances, self.only, self._ends)
        held = self.dfa.size_bytes + self._trie.size_bytes + sum(array.nbytes for array in arrays)
        return held + min(self._mask_cache_bytes, self.dfa.states * self.vocabulary.words * 4)

    def matcher(self) -> AutomatonMatcher:
        return AutomatonMatcher(self)

    def mask(self, state: int, budget: int) -> NDArray[np.int32]:
        """int32 [words], shared: the tokens after which an end is `budget` - 1 tokens away or less."""
        with self._lock:
            for key in ((state, _ANY_BUDGET), (state, budget)):
                if (known := self._masks.get(key)) is not None and known.needs <= budget:
                    self._masks.move_to_end(key)
                    return known.row
        made = self._made(state, budget)
        with self._lock:
            self._masks[state, _ANY_BUDGET if made.is_whole else budget] = made
            while len(self._masks) * made.row.nbytes > self._mask_cache_bytes and len(self._masks) > 1:
                self._masks.popitem(last=False)
        return made.row

    def forced(self, state: int, most: int | None = None) -> bytes:
        """The bytes, at most `most`, that every answer goes on with from `state`."""
        dfa, said = self.dfa, bytearray()
        while (byte := int(self.only[state])) >= 0 and len(said) != most:
            said.append(byte)
            state = int(dfa.table[state, dfa.byte_class[byte]])
        return bytes(said)

    def run(self, state: int) -> tuple[bytes, tuple[int, ...]]:
        """The beginning of what is forced, and the places in it where a legal token may begin that goes beyond it."""
        with self._lock:
            known = self._runs.get(state)
        if known is None:
            known = self._find_run(state)
            with self._lock:
                if len(self._runs) >= _KEPT_RUNS:
                    self._runs.clear()
                self._runs[state] = known
        return known

    def _find_run(self, state: int) -> tuple[bytes, tuple[int, ...]]:
        text = self.forced(state, _LONGEST_RUN)
        ends: list[int] = []
        for place, byte in enumerate(text):
            if self._trie.reaches(self.dfa.table, state, len(text) - place):
                ends.append(place)
            state = int(self.dfa.table[state, self.dfa.byte_class[byte]])
        return text, tuple(ends)

    def legal(self, state: int) -> list[int]:
        """The tokens that may come in `state`, whatever the budget."""
        row = self.mask(state, UNREACHABLE)
        return np.flatnonzero(np.unpackbits(np.frombuffer(row, np.uint8), bitorder="little")).tolist()

    def after(self, state: int, token: int) -> int:
        """The state after a legal token; an end token leads nowhere."""
        return self.dfa.step(state, self.vocabulary.texts[token] or b"")

    def _made(self, state: int, budget: int) -> _StateMask:
        walk = self._trie.walk(self.dfa.table, state)
        distance = self.distances[walk.state]
        near = distance[distance != UNREACHABLE]
        needs = int(near.max()) + 1 if near.size else 1
        bits = self._trie.allowed(walk.node[distance < min(budget, UNREACHABLE)])
        if self.dfa.accepting[state]:
            bits |= self._ends
        row = bits.tobytes().ljust(self.vocabulary.words * 4, b"\0")
        return _StateMask(np.frombuffer(row, np.int32), min(needs, budget), needs <= budget)


class AutomatonMatcher:
    """One answer's way through an AutomatonGrammar: the contract of matcher.py, nothing more."""

    __slots__ = ("_grammar", "_states")

    def __init__(self, grammar: AutomatonGrammar) -> None:
        self._grammar = grammar
        self._states = [grammar.dfa.start]  # after each token

    @property
    def is_accepting(self) -> bool:
        return bool(self._grammar.dfa.accepting[self._states[-1]])

    def fill_mask(self, row: NDArray[np.int32], budget: int) -> None:
        """row: may be longer than the vocabulary's words, as logits may be padded; the rest is cleared."""
        state = self._states[-1]
        if budget < self._grammar.distances[state]:
            raise EngineError(
                f"the answer needs {self.distance()} more tokens to end in its form, and may have {budget};"
                " allow more tokens",
                code="grammar_dead_end",
            )
        words = self._grammar.vocabulary.words
        row[:words] = self._grammar.mask(state, budget)
        row[words:] = 0

    def advance(self, token: int) -> None:
        """Raises EngineError where the mask did not allow `token`; the matcher is then as it was."""
        text = self._grammar.vocabulary.texts[token]
        state = self._grammar.dfa.step(self._states[-1], text) if text else 0
        if state == 0:
            raise EngineError(
                f"token {token} ({text!r}) breaks the form of the answer; was it sampled without its mask?",
                code="grammar_dead_end",
            )
        self._states.append(state)

    def rollback(self, count: int) -> None:
        """Raises ValueError, and does nothing, where fewer tokens were said."""
        if not 0 <= count < len(self._states):
            raise ValueError(f"cannot take back {count} tokens: {len(self._states) - 1} were said")
        del self._states[len(self._states) - count :]

    def copy(self) -> AutomatonMatcher:
        twin = AutomatonMatcher(self._grammar)
        twin._states = list(self._states)
        return twin

    def forced(self) -> bytes:
        return self._grammar.forced(self._states[-1])

    def forced_tokens(self, said: Sequence[int], budget: int) -> list[int]:
        """Nothing where the vocabulary does not know how its tokenizer cuts text."""
        grammar, canonical = self._grammar, self._grammar.vocabulary.canonical
        if canonical is None or grammar.only[self._states[-1]] < 0:
            return []
        state = self._states[-1]
        text, ends = grammar.run(state)
        tokens = canonical.cut(said, text, ends)
        if not tokens:
            tokens = self._only_one(canonical, said, len(text))
        for count, token in enumerate(tokens, 1):
            state = grammar.after(state, token)
            if grammar.distances[state] > budget - count:
                return tokens[: count - 1]
        return tokens

    def _only_one(self, canonical: Canonical, said: Sequence[int], length: int) -> list[int]:
        """The token that is forced because no other is ever read, where all of few are within the `length` bytes."""
        grammar, state = self._grammar, self._states[-1]
        legal = grammar.legal(state)
        if not 0 < len(legal) <= _FEW or any(len(grammar.vocabulary.texts[token] or b"") > length for token in legal):
            return []
        token = canonical.only(said, legal, lambda token: grammar.legal(grammar.after(state, token)))
        return [] if token is None else [token]

    def distance(self) -> int:
        return int(self._grammar.distances[self._states[-1]])


def _only_byte(dfa: Dfa) -> NDArray[np.int16]:
    """int16 [states]: the one byte that is legal there, -1 where there are more, or where an answer may end."""
    size = np.bincount(dfa.byte_class, minlength=dfa.table.shape[1])
    first = np.zeros(len(size), np.int16)
    first[dfa.byte_class[::-1]] = np.arange(255, -1, -1)
    legal = dfa.table != 0
    only = first[legal.argmax(axis=1)]
    only[(legal @ size != 1) | dfa.accepting] = -1
    return only


def compile_regex(pattern: str, vocabulary: Vocabulary) -> AutomatonGrammar:
    """The answers that `re.fullmatch(pattern, answer)` takes, but for the two last noncharacters of Unicode.

    Raises InvalidRequest for patterns that are wrong, not supported, too complex, or match nothing.
    """
    return AutomatonGrammar(regex_dfa(pattern), vocabulary)


def compile_choices(options: Sequence[str], vocabulary: Vocabulary) -> AutomatonGrammar:
    """Exactly one of `options`. Raises InvalidRequest for none, or too many."""
    return AutomatonGrammar(choices_dfa(options), vocabulary)
