"""llguidance as an engine for JSON schemas and grammars, with a budget that it does not know of itself.

Budget. Beside the state a completion is kept: tokens that were walked to a legal end on a copy. Its length `known`
bounds the distance to an end. One token may lengthen the way by at most `jump` (from the schema, see
schema_cost.py; an estimate for Lark grammars), so the mask is left alone while known + jump tokens fit into what is
left after this token. Where they do not, only tokens stay after which a completion in time was walked. So an answer
whose completion fitted at its beginning ends in time, but not every answer that would fit is reachable near the end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from ...lang.errors import EngineError, InvalidRequest
from .llg_closing import allowed_tokens, shortest_known
from .llg_source import LIMITS, Source, first_line, refusal
from .llg_vocabulary import LlgVocabulary

# a completion longer than this is not looked for
LONGEST_COMPLETION = 16_384
# tokens tried one by one where the budget is nearly spent
_TRIED = 48
# tails of a known completion that are tried after a token that was not its own
_TAILS = 6
_LIMIT_STOPS = frozenset({"ParserTooComplex", "LexerTooComplex", "MaxTokensTotal", "MaxTokensParser"})


class LlgGrammar:
    """A compiled grammar; its matchers are copies of one that was built with it.

    Raises InvalidRequest (code "invalid_grammar" or "grammar_too_complex") where llguidance refuses `source`, and where
    no answer could be found that it allows.
    """

    def __init__(self, source: Source, vocabulary: LlgVocabulary) -> None:
        reach = source.reach
        self.vocabulary = vocabulary
        self.size_bytes = 65_536 + 8 * len(source.text)
        self._first = LLMatcher(vocabulary.tokenizer, source.text, log_level=0, limits=LIMITS)
        if self._first.is_error():
            raise refusal(self._first)
        encoded = [json.dumps(text, ensure_ascii=False)[1:] for text in reach.examples]
        self.hints = [vocabulary.tokenizer.tokenize_str(text) for text in encoded]
        self.completion = self._whole(reach.completion)
        opened = reach.jump if reach.jump is not None else len(self.completion) + 16
        # twice: a walk does not find the shortest way
        self.jump = 2 * vocabulary.openings * opened

    def matcher(self) -> LlgMatcher:
        return LlgMatcher(self, self._first.deep_copy())

    def _whole(self, text: str | None) -> list[int]:
        """Tokens of a whole answer: those of `text`, or what is found."""
        if text is not None:
            tokens = self.vocabulary.tokenizer.tokenize_str(text)
            trial = self._first.deep_copy()
            if len(tokens) <= LONGEST_COMPLETION and trial.consume_tokens(tokens) and trial.is_accepting():
                return tokens
        limit = 1024 if text is None else LONGEST_COMPLETION
        found = shortest_known(self._first, self.vocabulary, limit, self.hints)
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
        # for tokens left in a mask because the budget is nearly spent: the completion walked after each
        self._proven: dict[int, list[int]] = {}

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
        if token in self._proven:
            self._known, self._strayed = self._proven[token], 0
        elif not self._strayed and self._known and self._known[0] == token:
            del self._known[0]
        else:
            self._strayed += 1
        self._proven = {}

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
        self._proven = {}
        del self._said[kept:]

    def copy(self) -> LlgMatcher:
        twin = LlgMatcher(self._grammar, self._state.deep_copy())
        twin._known, twin._strayed, twin._said = list(self._known), self._strayed, list(self._said)
        twin._proven = self._proven
        return twin

    def forced(self) -> bytes:
        if self._state.is_accepting():
            return b""
        text = self._state.compute_ff_bytes()
        self._check()
        return text

    def forced_tokens(self, said: Sequence[int], budget: int) -> list[int]:
        """llguidance's own: its masks allow nothing else there, so they are within the budget if anything is."""
        if self._state.is_accepting():
            return []
        tokens = self._state.compute_ff_tokens()
        self._check()
        return tokens[:budget]

    def distance(self) -> int:
        if self._state.is_accepting():
            return 0
        self._walk_again()
        return len(self._known) + self._strayed * self._grammar.jump

    def _walk_again(self) -> None:
        """Find a completion of the present state, if the one at hand belongs to another."""
        if not self._strayed:
            return
        grammar = self._grammar
        old = _still_ending(self._state, self._known)
        limit = LONGEST_COMPLETION if old is None else len(old) - 1
        found = shortest_known(self._state, grammar.vocabulary, limit, grammar.hints) if limit > 0 else None
        found = old if found is None else found
        if found is not None:
            self._known, self._strayed = found, 0

    def _keep_what_ends_in_time(self, row: NDArray[np.int32], budget: int) -> None:
        if self._strayed:
            # no completion is known: nothing can be said about any token
            return
        self._proven = self._tokens_in_time(allowed_tokens(row), budget)
        row &= self._end_bits() if self._state.is_accepting() else 0
        for token in self._proven:
            # bit 31 is the sign of the word
            row[token // 32] |= np.int32((1 << (token % 32)) - ((token % 32 == 31) << 32))

    def _end_bits(self) -> NDArray[np.int32]:
        bits = np.zeros(self._grammar.vocabulary.words * 32, np.uint8)
        bits[self._grammar.vocabulary.tokenizer.eos_tokens] = 1
        return np.frombuffer(np.packbits(bits, bitorder="little").tobytes(), np.int32)

    def _tokens_in_time(self, allowed: NDArray[np.int64], budget: int) -> dict[int, list[int]]:
        """Those of a sample of `allowed` after which a completion ends within the budget, with that completion.

        The known completion is among them even where it is too long: it is the best there is.
        """
        kept = {self._known[0]: self._known[1:]} if self._known else {}
        ends = set(self._grammar.vocabulary.tokenizer.eos_tokens)
        stride = max(1, len(allowed) // _TRIED)
        for token in map(int, allowed[::stride][:_TRIED]):
            if token in ends or token in kept:
                continue
            copy = self._state.deep_copy()
            if copy.consume_token(token):
                completion = _still_ending(copy, self._known)
                if completion is not None and len(completion) < budget:
                    kept[token] = completion
        return kept

    def _check(self) -> None:
        if self._state.is_error():
            limit = self._state.stop_reason() in _LIMIT_STOPS
            raise EngineError(
                f"the grammar cannot go on: {first_line(self._state)}",
                code="grammar_limit" if limit else "grammar_dead_end",
            )


def _still_ending(state: LLMatcher, known: list[int]) -> list[int] | None:
    """The longest tail of `known` that leads to an end from `state`, if one of the first few does."""
    if state.is_accepting():
        return []
    for start in range(min(len(known), _TAILS)):
        tail = known[start:]
        if state.validate_tokens(tail) == len(tail):
            trial = state.deep_copy()
            if trial.consume_tokens(tail) and trial.is_accepting():
                return tail
    return None
