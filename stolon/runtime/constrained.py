"""One answer on its way through the form that was asked for."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..lang.errors import EngineError, InvalidRequest
from ..lang.types import SamplingParams
from .grammar.matcher import Grammar, Matcher
from .preface import Preface


@dataclass(frozen=True, slots=True)
class Form:
    """What a request asks of its answers; shared by all of them.

    preface: what comes before the form, if something does
    ends: tokens that end an answer
    words: of a mask row, int32
    text_of, encode: what a token says, and the tokens of plain text that stands behind other text
    jump: append forced tokens without a forward pass of their own
    """

    grammar: Grammar
    preface: Preface | None
    ends: frozenset[int]
    words: int
    text_of: Callable[[int], bytes]
    encode: Callable[[str], list[int]]
    jump: bool

    def check_budget(self, max_tokens: int) -> None:
        """Raises InvalidRequest where `max_tokens` cannot hold an answer. 0 tokens are for computing a prompt."""
        form = self.grammar.matcher().distance()
        preface = 0 if self.preface is None else len(self.preface.tokens)
        if max_tokens < form + preface:
            before = f", {preface} of them to say what comes before its form" if preface else ""
            raise InvalidRequest(
                f"an answer in this form needs {form + preface} tokens{before}, but max_tokens is {max_tokens}; "
                "allow more",
                code="budget_too_small",
                param="max_tokens",
            )


class Constrained:
    """Knows which tokens may come next, which must, and when the answer is whole.

    **Forced tokens.** Where all legal answers go on with the same text, it comes in the tokens that the tokenizer would
    give, and no others are allowed (the last few are left to the model where they might grow with what follows). With
    `jump` they are handed out to be appended at once, without it they are what the mask allows, one by one: so jumping
    changes neither tokens nor text, as far as logits do not depend on how a sequence was cut into steps. What was said
    is never cut anew, and a forced token is only taken where the answer can still end in time.

    **The end.** `is_over` when nothing but an end may come, so no forward pass is spent on an end token; or when an end
    token was said, which is possible only where the answer is whole. There, and only there, stop tokens count; before
    they are text. `min_tokens` and `ignore_eos` put off an end for as long as there is something else to say.

    begun: after how many tokens the form began; None while the preface lasts
    matched: the token that ended the answer, if one did
    """

    def __init__(self, form: Form, params: SamplingParams) -> None:
        self.is_over = False
        self.matched: int | None = None
        self.begun: int | None = 0 if form.preface is None else None
        self.form = form
        self._params = params
        self._matcher: Matcher = form.grammar.matcher()
        self._state = 0  # of the preface
        self._reserve = 0 if form.preface is None else len(form.preface.tokens) + self._matcher.distance()
        self._said: list[int] = []  # since the form began
        self._count = 0  # of all tokens
        self._queue: deque[int] = deque()  # tokens that must come
        self._next: NDArray[np.int32] | None = None  # the next mask, where it was needed early
        # the log-probability of a token comes of the step that draws it
        told = params.logprobs is not None or bool(params.logprob_token_ids)
        self._jump = form.jump and not told

    @property
    def is_whole(self) -> bool:
        """Whether the answer could end here."""
        return self.begun is not None and self._matcher.is_accepting

    def start(self) -> list[int]:
        """Tokens that the answer begins with, to be computed with the prompt. Called first, once."""
        left = self._params.max_tokens
        self._look(left)
        run = self._jumped(left, left - 1)
        if self.is_over:
            # there must be something to draw: the last token of the form, or an end token where it has none
            self.is_over, self._next = False, None
            if self._said:
                self._matcher.rollback(1)
                self._count -= 1
                self._queue.append(run.pop())
                self._said.pop()
        return run

    def fill(self, row: NDArray[np.int32], left: int) -> None:
        """Set the bits of the tokens that may be drawn next. Runs beside the forward pass, in another thread.

        row: int32 [words]; left: tokens that may still come, this one included
        Raises EngineError where the answer cannot go on.
        """
        if self._queue:
            row[:] = 0
            allow(row, self._queue[0])
        elif self.begun is None:
            assert self.form.preface is not None
            row[:] = self.form.preface.mask(self._state)
        else:
            if self._next is None:
                self._matcher.fill_mask(row, left)
            else:
                row[:] = self._next
            self._edit_ends(row)

    def take(self, token: int, left: int) -> list[int]:
        """`token` was drawn, and `left` may follow. Returns the tokens that follow it without being drawn.

        Raises EngineError where the answer cannot go on.
        """
        if self.is_whole and not self._queue and (token in self.form.ends or token in self._params.stop_token_ids):
            self.is_over, self.matched = True, token
            return []
        if self._queue:
            self._queue.popleft()
        self._say(token, left)
        return self._jumped(left, left)

    def ahead(self) -> Constrained:
        """A copy to be told guesses: what it takes does not count for this one, and it hands no forced tokens out."""
        twin = copy.copy(self)
        twin._matcher, twin._queue, twin._said = self._matcher.copy(), self._queue.copy(), self._said.copy()
        twin._jump = False
        return twin

    def may_end(self, text: str) -> bool:
        """Whether `text`, a beginning of what was said since the form began, is a whole answer."""
        if self.begun is None:
            return False
        wanted, matcher = text.encode(), self._matcher.copy()
        lengths = [len(self.form.text_of(token)) for token in self._said]
        total, back = sum(lengths), 0
        while total > len(wanted):
            back += 1
            total -= lengths[-back]
        matcher.rollback(back)
        try:
            for token in self.form.encode(wanted[total:].decode()):
                matcher.advance(token)
        except (EngineError, UnicodeDecodeError):  # the text goes on in another way
            return False
        return matcher.is_accepting

    def _jumped(self, left: int, most: int) -> list[int]:
        """At most `most` of the tokens that must come now, said."""
        run: list[int] = []
        while self._jump and self._queue and len(run) < most:
            run.append(self._queue.popleft())
            self._say(run[-1], left - len(run))
        return run

    def _say(self, token: int, left: int) -> None:
        self._count += 1
        self._next = None
        if self.begun is None:
            preface = self.form.preface
            assert preface is not None
            self._state = preface.step(self._state, token)
            if self._state == preface.length:
                self.begun = self._count
                self._queue.clear()
        else:
            self._matcher.advance(token)
            self._said.append(token)
        self._look(left)

    def _look(self, left: int) -> None:
        """Find out what must come now, if that is not known."""
        if self._queue or left <= 0:
            return
        if self.begun is None:
            assert self.form.preface is not None
            if left <= self._reserve:
                self._queue.extend(self.form.preface.tokens)
        elif self._matcher.is_accepting:
            self._next = np.zeros(self.form.words, np.int32)
            self._matcher.fill_mask(self._next, left)
            self.is_over = not _without(self._next, self.form.ends).any()
        else:
            self._queue.extend(self._matcher.forced_tokens(self._said, left))

    def _edit_ends(self, row: NDArray[np.int32]) -> None:
        if self._matcher.is_accepting:
            if self._params.ignore_eos or self._count < self._params.min_tokens:
                going_on = _without(row, self.form.ends)
                row[:] = going_on if going_on.any() else row
            else:
                for token in self._params.stop_token_ids:
                    allow(row, token)
        if not row.any():
            raise EngineError("the form of the answer allows no further token here", code="grammar_dead_end")


def allows(row: NDArray[np.int32], token: int) -> bool:
    """Whether a mask has this token's bit."""
    return bool(row[token // 32] & _bit(token))


def _bit(token: int) -> np.int32:
    place = token % 32
    return np.int32((1 << place) - ((place == 31) << 32))  # bit 31 is the sign of the word


def allow(row: NDArray[np.int32], token: int) -> None:
    """Set a token's bit."""
    row[token // 32] |= _bit(token)


def _without(row: NDArray[np.int32], tokens: frozenset[int]) -> NDArray[np.int32]:
    left = np.array(row)
    for token in tokens:
        left[token // 32] &= ~_bit(token)
    return left
