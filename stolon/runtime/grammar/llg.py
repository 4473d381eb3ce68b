"""llguidance as an engine for JSON schemas and grammars, with a budget that it does not know of itself.

Budget. Beside the state a completion is kept: tokens that were walked to a legal end on a copy. Its length bounds the
distance to an end. One token may lengthen the way by at most `jump` (from the schema, see schema_cost.py; from the
literals of a Lark grammar, which is an estimate), so the mask is left alone while completion and jump fit into what is
left after this token. Where they do not, a token stays if a completion in time was walked after it, or if it is letters
inside a string or of free text, which move no end. So an answer whose completion fitted at its beginning ends in time,
but not every answer that would fit is reachable near the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from ...lang.errors import EngineError, InvalidRequest
from .llg_closing import Trials, allowed_tokens, shortest_known
from .llg_examples import endings
from .llg_source import LIMITS, Reach, Source, first_line, refusal, speaks_of_limit
from .llg_vocabulary import FEW_OPENINGS, LlgVocabulary, bit_row
from .llg_ways import Ways

# a completion longer than this is not looked for
LONGEST_COMPLETION = 16_384
# tokens tried one by one where the budget is nearly spent, and tokens given to llguidance for all of them. The bound is
# a count and no time, so that load changes no answer
_TRIED = 128
_TRIED_WORK = 16_384
# masks of a search for an end in the middle of an answer
_SEARCH_MASKS = 1_024
# legal tokens among which one may be the only one that the tokenizer would give
_FEW = 8
# what is left over after letters: a name in the making may meet one that is taken, and need more letters
_SLACK = 3
# CPU seconds of llguidance's in one step that are slow, and how many slow steps an answer may have
_SLOW_STEP_S = 0.1
_SLOW_STEPS = 3
_LIMIT_STOPS = frozenset({"ParserTooComplex", "LexerTooComplex", "MaxTokensTotal", "MaxTokensParser"})


class LlgGrammar:
    """A compiled grammar; its matchers are copies of one that was built with it.

    jump, wide_jump: tokens by which a token may move the end, an ordinary one and one that begins many values
    harmless: int32 [words], tokens that move no end where text or a string is free; None where there may be patterns

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
        self._examples = tuple(reach.examples)
        self.is_json = reach.is_json
        self.ways = Ways(reach.ways, vocabulary)
        self.completion = self._whole(reach.completion)
        opened = self._opened(reach)
        self.jump = FEW_OPENINGS * opened
        self.wide_jump = max(FEW_OPENINGS, vocabulary.openings) * opened
        self.marks = tuple(mark.encode() for mark in reach.marks)
        first = bytes(sorted({mark[0] for mark in self.marks}))
        self.harmless = vocabulary.plain(first) if reach.plain else None

    @cached_property
    def hints(self) -> list[list[int]]:
        """Token runs that may end a string."""
        return [self.vocabulary.tokenizer.tokenize_str(text) for text in endings(self._examples, is_json=self.is_json)]

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
        found = shortest_known(self._first, self.vocabulary, limit, self.hints, is_json=self.is_json)
        if found is None:
            raise InvalidRequest(
                "no whole answer to this grammar was found; simplify it, or give it a shorter way to an end",
                code="grammar_too_complex",
            )
        return found

    def _opened(self, reach: Reach) -> int:
        """Tokens that an opened value takes, from its bytes and the bytes that a token of such text has."""
        if reach.jump is None:
            return len(self.completion) + 16
        text = b"".join(self.vocabulary.texts[token] for token in self.completion)
        per_byte = len(self.completion) / max(1, len(text))
        # half as much again, as other text may have shorter tokens
        return math.ceil(reach.jump * min(1.0, max(0.3, 1.5 * per_byte))) + 2


class LlgMatcher:
    """One answer's way through an `LlgGrammar`."""

    def __init__(self, grammar: LlgGrammar, state: LLMatcher) -> None:
        self._grammar = grammar
        self._state = state
        self._known = list(grammar.completion)
        # `_known` leads to an end from the state that was `_strayed` tokens ago: they may have moved it by `_drift`
        self._strayed = 0
        self._drift = 0
        self._said: list[int] = []
        # for tokens left in a mask because the budget is nearly spent: the completion walked after each
        self._proven: dict[int, list[int]] = {}
        self._slow = 0

    @property
    def is_accepting(self) -> bool:
        return self._state.is_accepting()

    def fill_mask(self, row: NDArray[np.int32], budget: int) -> None:
        vocabulary = self._grammar.vocabulary
        if row.dtype != np.int32 or row.size != vocabulary.words or not row.flags.c_contiguous:
            raise ValueError(f"a mask row is {vocabulary.words} int32 in one piece, got {row.shape}")
        begun = time.thread_time()
        self._state.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        self._check(begun)
        if not row.any():
            raise EngineError("the grammar allows no further token here", code="grammar_dead_end")
        if len(self._known) + self._drift + self._grammar.wide_jump < budget:
            return
        if len(self._known) + self._drift + self._grammar.jump >= budget:
            self._walk_again(budget)
        if len(self._known) + self._drift + self._grammar.jump < budget:
            narrow = row & ~vocabulary.wide
            if narrow.any():
                row[:] = narrow
                return
        self._keep_what_ends_in_time(row, budget)

    def advance(self, token: int) -> None:
        begun = time.thread_time()
        if not self._state.consume_token(token):
            self._check()
            raise EngineError(f"token {token} is not allowed here", code="grammar_dead_end")
        self._check(begun)
        self._said.append(token)
        if token in self._proven:
            self._known, self._strayed, self._drift = self._proven[token], 0, 0
        elif not self._strayed and self._known and self._known[0] == token:
            del self._known[0]
        else:
            self._strayed += 1
            self._drift += self._moved(token)
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
        self._drift = sum(map(self._moved, self._said[kept - self._strayed :]))

    def copy(self) -> LlgMatcher:
        twin = LlgMatcher(self._grammar, self._state.deep_copy())
        twin._known, twin._said, twin._proven = list(self._known), list(self._said), self._proven
        twin._strayed, twin._drift = self._strayed, self._drift
        return twin

    def forced(self) -> bytes:
        if self._state.is_accepting():
            return b""
        text = self._state.compute_ff_bytes()
        self._check()
        return text

    def forced_tokens(self, said: Sequence[int], budget: int) -> list[int]:
        """llguidance's own: its masks allow nothing else there, so they are within the budget if anything is. It leaves
        out a token where a shorter one is legal, too; that one is forced all the same if the other is never read there.
        """
        if self._state.is_accepting():
            return []
        tokens = self._state.compute_ff_tokens()
        self._check()
        if not tokens and len(self._known) + self._drift + self._grammar.wide_jump < budget:
            tokens = self._only_one(said)
        return tokens[:budget]

    def _only_one(self, said: Sequence[int]) -> list[int]:
        canonical, text = self._grammar.vocabulary.canonical, self._state.compute_ff_bytes()
        if canonical is None or not text:
            return []
        legal: list[int] = allowed_tokens(self._state.compute_bitmask()).tolist()
        self._check()
        texts = self._grammar.vocabulary.texts
        if not 0 < len(legal) <= _FEW or any(len(texts[token]) > len(text) for token in legal):
            return []

        def after(token: int) -> list[int]:
            copy = self._state.deep_copy()
            copy.consume_token(token)
            return allowed_tokens(copy.compute_bitmask()).tolist()

        token = canonical.only(said, legal, after)
        return [] if token is None else [token]

    def distance(self) -> int:
        if self._state.is_accepting():
            return 0
        if self._strayed:
            self._walk_again(LONGEST_COMPLETION)
        return len(self._known) + self._drift

    def _moved(self, token: int) -> int:
        return self._grammar.wide_jump if self._grammar.vocabulary.is_wide[token] else self._grammar.jump

    def _walk_again(self, budget: int) -> None:
        """Find a completion of the present state within the budget, if the one at hand is another state's or longer."""
        if not self._strayed and len(self._known) <= budget:
            return
        trials, grammar = self._trials(), self._grammar
        found = trials.tail([], self._known, budget)
        if found is None:
            found = self._along(trials, [], grammar.ways.rests(self._said), budget)
        if found is None:
            most = min(budget, LONGEST_COMPLETION)
            found = shortest_known(
                self._state,
                grammar.vocabulary,
                most,
                grammar.hints,
                is_json=grammar.is_json,
                enough=most,
                masks=_SEARCH_MASKS,
            )
        if found is not None:
            self._known, self._strayed, self._drift = found, 0, 0

    def _keep_what_ends_in_time(self, row: NDArray[np.int32], budget: int) -> None:
        is_accepting = self._state.is_accepting()
        if not is_accepting and (self._strayed or len(self._known) > budget):
            raise EngineError(
                f"no end of the answer is known that {budget} more tokens reach; allow more tokens",
                code="grammar_dead_end",
            )
        kept = row & self._end_bits() if is_accepting else np.zeros_like(row)
        kept |= self._harmless(row, budget)
        self._proven = self._tokens_in_time(allowed_tokens(row & ~kept), budget)
        for token in self._proven:
            # bit 31 is the sign of the word
            kept[token // 32] |= np.int32((1 << (token % 32)) - ((token % 32 == 31) << 32))
        row[:] = kept

    def _harmless(self, row: NDArray[np.int32], budget: int) -> NDArray[np.int32] | int:
        """The tokens of `row` that only add letters to a string, or to text, that is free here."""
        grammar = self._grammar
        singles = grammar.vocabulary.singles
        if grammar.harmless is None or len(self._known) + _SLACK > budget or self._is_in_mark():
            return 0
        return row & grammar.harmless if bool(((row & singles) == singles).all()) else 0

    def _is_in_mark(self) -> bool:
        """Whether what was said ends with the beginning of a mark, which one letter more may make whole."""
        marks = self._grammar.marks
        if not marks:
            return False
        texts = self._grammar.vocabulary.texts
        said = b"".join(texts[token] for token in self._said[-max(map(len, marks)) :])
        return any(said.endswith(mark[:size]) for mark in marks for size in range(1, len(mark)))

    def _end_bits(self) -> NDArray[np.int32]:
        bits = np.zeros(self._grammar.vocabulary.words * 32, np.bool_)
        bits[self._grammar.vocabulary.tokenizer.eos_tokens] = True
        return bit_row(bits)

    def _tokens_in_time(self, allowed: NDArray[np.int64], budget: int) -> dict[int, list[int]]:
        """Those of the first of `allowed` after which a completion ends within the budget, with that completion.

        The first in a vocabulary are the ones that are used most. The known completion is always among them.
        """
        kept = {self._known[0]: self._known[1:]} if self._known else {}
        ends = set(self._grammar.vocabulary.tokenizer.eos_tokens)
        trials, ways = self._trials(), self._grammar.ways
        rests = ways.rests(self._said)
        first = [token for token in ways.first_tokens(rests) if token in allowed[np.searchsorted(allowed, token) :][:1]]
        for token in dict.fromkeys((*first, *map(int, allowed[:_TRIED]))):
            if token in ends or token in kept:
                continue
            if trials.spent >= _TRIED_WORK:
                break
            completion = trials.tail([token], self._known, budget - 1)
            if completion is None:
                completion = self._along(trials, [token], rests, budget - 1)
            if completion is not None:
                kept[token] = completion
        return kept

    def _along(self, trials: Trials, begin: list[int], rests: Sequence[bytes], most: int) -> list[int] | None:
        """What follows `begin` on one of the ways, if that is at most so many tokens and leads to an end."""
        text = b"".join(self._grammar.vocabulary.texts[token] for token in begin)
        for rest in rests:
            if rest.startswith(text):
                tokens = [*self._grammar.ways.tokens(rest[len(text) :])]
                if len(tokens) <= most and trials.lead_to_end([*begin, *tokens]):
                    return tokens
        return None

    def _trials(self) -> Trials:
        return Trials(self._state, self._grammar.vocabulary.tokenizer.eos_tokens[0])

    def _check(self, begun: float | None = None) -> None:
        """begun: by time.thread_time(), when the step began that is to be watched"""
        if self._state.is_error():
            text = first_line(self._state)
            limit = self._state.stop_reason() in _LIMIT_STOPS or speaks_of_limit(text)
            raise EngineError(
                f"the grammar cannot go on: {text}", code="grammar_limit" if limit else "grammar_dead_end"
            )
        if begun is not None and time.thread_time() - begun > _SLOW_STEP_S:
            self._slow += 1
            if self._slow > _SLOW_STEPS:
                raise EngineError(
                    f"the grammar is too slow: {self._slow} steps took more than {_SLOW_STEP_S:g} s each; simplify it",
                    code="grammar_limit",
                )
