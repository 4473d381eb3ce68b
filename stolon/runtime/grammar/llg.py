"""llguidance as an engine for JSON schemas and grammars, with a budget that it does not know of itself.

Budget. Beside the state a completion is kept: tokens that were walked to a legal end on a copy. Its length `known`
bounds the distance to an end. One token may lengthen the way by at most `jump` (from the schema, see
schema_cost.py; an estimate for Lark grammars), so the mask is left alone while known + jump tokens fit into what is
left after this token. Where they do not, only tokens stay after which a completion in time was walked. So an answer
whose completion fitted at its beginning ends in time, but not every answer that would fit is reachable near the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from numpy.typing import NDArray

from ...lang.errors import EngineError, InvalidRequest
from .llg_closing import allowed_tokens, shortest_known
from .llg_vocabulary import LlgVocabulary

# a completion longer than this is not looked for
LONGEST_COMPLETION = 16_384
# tokens tried one by one where the budget is nearly spent
_TRIED = 48
_LIMIT_STOPS = frozenset({"ParserTooComplex", "LexerTooComplex", "MaxTokensTotal", "MaxTokensParser"})


@dataclass(frozen=True, slots=True)
class Reach:
    """completion: text of a whole answer, if one is known; jump: tokens by which one opened value may move the end"""

    completion: str | None = None
    jump: int | None = None


class LlgGrammar:
    """A compiled grammar; its matchers are copies of one that was built with it.

    Raises InvalidRequest (code "invalid_grammar" or "grammar_too_complex") where llguidance refuses `source`, and where
    no answer could be found that it allows.
    """

    def __init__(self, source: str, vocabulary: LlgVocabulary, reach: Reach | None = None) -> None:
        reach = reach or Reach()
        self.vocabulary = vocabulary
        self.size_bytes = 65_536 + 8 * len(source)
        self._first = LLMatcher(vocabulary.tokenizer, source, log_level=0, limits=LLParserLimits(verbose_errors=False))
        if self._first.is_error():
            raise _refusal(self._first)
        self.completion = self._whole(reach.completion)
        self.jump = vocabulary.openings * (reach.jump if reach.jump is not None else len(self.completion) + 16)

    def matcher(self) -> LlgMatcher:
        return LlgMatcher(self, self._first.deep_copy())

    def _whole(self, text: str | None) -> list[int]:
        """Tokens of a whole answer: those of `text`, or what is found."""
        if text is not None:
            tokens = self.vocabulary.tokenizer.tokenize_str(text)
            trial = self._first.deep_copy()
            if len(tokens) <= LONGEST_COMPLETION and trial.consume_tokens(tokens) and trial.is_accepting():
                return tokens
        found = shortest_known(self._first, self.vocabulary, 1024 if text is None else LONGEST_COMPLETION)
        if found is None:
            raise InvalidRequest(
                "no whole answer to this grammar was found; simplify it, or give it a shorter way to an end",
                code="grammar_too_complex",
            )
        return found


class LlgMatcher:
    """One answer's way through an `LlgGrammar`."""

    def __init__(self, grammar: LlgGrammar, state: LLMatcher) -> None:
        self._grammar = grammar
        self._state = state
        self._known = list(grammar.completion)
        # `_known` leads to an end from the state that was `_strayed` tokens ago: each of them may have moved the end
        self._strayed = 0
        self._said: list[int] = []

    @property
    def is_accepting(self) -> bool:
        return self._state.is_accepting()

    def fill_mask(self, row: NDArray[np.int32], budget: int) -> None:
        if row.dtype != np.int32 or row.size != self._grammar.vocabulary.words or not row.flags.c_contiguous:
            raise ValueError(f"a mask row is {self._grammar.vocabulary.words} int32 in one piece, got {row.shape}")
        self._state.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        self._check()
        if not row.any():
            raise EngineError("the grammar allows no further token here", code="grammar_dead_end")
        jump = self._grammar.jump
        if len(self._known) + (self._strayed + 1) * jump < budget:
            return
        self._walk_again()
        if len(self._known) + (self._strayed + 1) * jump >= budget:
            self._keep_what_ends_in_time(row, budget)

    def advance(self, token: int) -> None:
        if not self._state.consume_token(token):
            self._check()
            raise EngineError(f"token {token} is not allowed here", code="grammar_dead_end")
        self._check()
        self._said.append(token)
        if not self._strayed and self._known and self._known[0] == token:
            del self._known[0]
        else:
            self._strayed += 1

    def rollback(self, count: int) -> None:
        if count > len(self._said):
            raise ValueError(f"{len(self._said)} tokens were said, {count} cannot be taken back")
        if count and not self._state.rollback(count):
            self._check()
        kept = len(self._said) - count
        if count >= self._strayed:
            # what was said between here and there, and then what was known there, leads to an end from here
            self._known = self._said[kept : len(self._said) - self._strayed] + self._known
        self._strayed = max(0, self._strayed - count)
        del self._said[kept:]

    def forced(self) -> bytes:
        if self._state.is_accepting():
            return b""
        text = self._state.compute_ff_bytes()
        self._check()
        return text

    def distance(self) -> int:
        if self._state.is_accepting():
            return 0
        self._walk_again()
        return len(self._known) + self._strayed * self._grammar.jump

    def _walk_again(self) -> None:
        """Find a completion of the present state, if the one at hand belongs to another."""
        if not self._strayed:
            return
        found = shortest_known(self._state, self._grammar.vocabulary, LONGEST_COMPLETION)
        if found is not None:
            self._known, self._strayed = found, 0

    def _keep_what_ends_in_time(self, row: NDArray[np.int32], budget: int) -> None:
        if self._strayed:
            # no completion is known: nothing can be said about any token
            return
        kept = self._tokens_in_time(allowed_tokens(row.view(np.uint8)), budget)
        ends = row & self._end_bits() if self._state.is_accepting() else 0
        row[:] = ends
        for token in kept:
            row[token // 32] |= np.array(1 << (token % 32), np.uint32).view(np.int32)

    def _end_bits(self) -> NDArray[np.int32]:
        bits = np.zeros(self._grammar.vocabulary.words * 32, np.uint8)
        bits[self._grammar.vocabulary.tokenizer.eos_tokens] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)

    def _tokens_in_time(self, allowed: NDArray[np.int64], budget: int) -> list[int]:
        """Those of a sample of `allowed` after which the known completion, or a new one, ends within the budget."""
        known = self._known
        kept = known[:1]
        ends = set(self._grammar.vocabulary.tokenizer.eos_tokens)
        stride = max(1, len(allowed) // _TRIED)
        for token in map(int, allowed[::stride][:_TRIED]):
            if token in ends or token in kept:
                continue
            copy = self._state.deep_copy()
            if copy.consume_token(token) and self._ends_within(copy, budget - 1):
                kept.append(token)
        return kept

    def _ends_within(self, state: LLMatcher, budget: int) -> bool:
        if state.is_accepting():
            return True
        if len(self._known) <= budget and state.validate_tokens(self._known) == len(self._known):
            trial = state.deep_copy()
            return trial.consume_tokens(self._known) and trial.is_accepting()
        return False

    def _check(self) -> None:
        if self._state.is_error():
            limit = self._state.stop_reason() in _LIMIT_STOPS
            raise EngineError(
                f"the grammar cannot go on: {_first_line(self._state)}",
                code="grammar_limit" if limit else "grammar_dead_end",
            )


def _first_line(state: LLMatcher) -> str:
    return (state.get_error().strip() or "no reason given").splitlines()[0][:300]


def _refusal(state: LLMatcher) -> InvalidRequest:
    text = _first_line(state)
    large = any(word in text.lower() for word in ("too large", "too complex", "fuel", "limit"))
    return InvalidRequest(f"the grammar is refused: {text}", code="grammar_too_complex" if large else "invalid_grammar")
