"""What comes before an answer takes its form: anything, until a given text was said (the end of a model's thoughts)."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ..lang.errors import InvalidRequest
from .tokenizer import Tokenizer, check_text

MAX_BYTES = 1024  # of the text
_KEPT = 16  # prefaces that an engine keeps


class Preface:
    """All that is known of one such text; shared by the answers that ask for it.

    Where an answer stands is a number: how many bytes of the text it ends with; all of them, and the form begins.
    tokens: those that say the text, for answers that have to come to an end

    A token that would say the text and go on is not allowed, so the form begins at a token. Nor is an end.
    """

    def __init__(self, after: str, tokenizer: Tokenizer, vocab_size: int, ends: frozenset[int]) -> None:
        """ends: tokens that end an answer. Raises InvalidRequest for a text that is too long or cannot be said."""
        check_text(after, "after")
        self._text = after.encode()
        if len(self._text) > MAX_BYTES:
            raise InvalidRequest(f"after may have {MAX_BYTES} bytes, got {len(self._text)}", param="after")
        self._texts = [tokenizer.token_bytes(token) for token in range(vocab_size)]
        self._fallback = _fallback(self._text)
        self.tokens = _spelled(after, tokenizer)
        if self.said(self.tokens) is None or not set(self.tokens).isdisjoint(ends):
            raise InvalidRequest(f"this model's tokens cannot say {after!r}; give another text", param="after")
        allowed = np.ones(-(-vocab_size // 32) * 32, np.bool_)
        allowed[vocab_size:] = False
        allowed[[token for token in ends if token < vocab_size]] = False
        self._allowed = allowed
        last = self._text[-1]
        self._suspects = [token for token, text in enumerate(self._texts) if last in text[:-1]]
        self._masks: dict[int, NDArray[np.int32]] = {}

    @property
    def length(self) -> int:
        return len(self._text)

    def step(self, state: int, token: int) -> int:
        """Where an answer stands after `token`; `length` once the text was said."""
        return self._read(state, self._texts[token])[0]

    def said(self, tokens: Sequence[int]) -> int | None:
        """How many of `tokens`, the first of an answer, it takes to say the text."""
        state = 0
        for count, token in enumerate(tokens, 1):
            state = self.step(state, token)
            if state == self.length:
                return count
        return None

    def mask(self, state: int) -> NDArray[np.int32]:
        """int32 [words], shared: bits of the tokens that may come."""
        known = self._masks.get(state)
        if known is None:
            allowed = np.array(self._allowed)
            for token in self._suspects:
                after, left = self._read(state, self._texts[token])
                if after == self.length and left:
                    allowed[token] = False
            bits = np.packbits(allowed, bitorder="little").tobytes()
            known = self._masks[state] = np.frombuffer(bits, np.int32)
        return known

    def _read(self, state: int, text: bytes) -> tuple[int, int]:
        """Knuth, Morris and Pratt; stops where the text was said. The state then, and how many bytes are left."""
        for place, byte in enumerate(text, 1):
            while state and self._text[state] != byte:
                state = self._fallback[state]
            state += self._text[state] == byte
            if state == self.length:
                return state, len(text) - place
        return state, 0


class Prefaces:
    """Those of an engine. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._ends = ends
        self._known: dict[str, Preface] = {}
        self._lock = Lock()

    def get(self, after: str) -> Preface:
        """Takes a tenth of a second for a new text and a large vocabulary."""
        with self._lock:
            known = self._known.pop(after, None)
            if known is None:
                known = Preface(after, self._tokenizer, self._vocab_size, self._ends)
            self._known[after] = known
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
            return known


def _fallback(text: bytes) -> list[int]:
    """Entry n: the longest proper beginning of the first n bytes that is also their end."""
    fallback = [0, 0]
    for byte in text[1:]:
        state = fallback[-1]
        while state and text[state] != byte:
            state = fallback[state]
        fallback.append(state + (text[state] == byte))
    return fallback


def _spelled(text: str, tokenizer: Tokenizer) -> list[int]:
    """Its tokens behind other text, control tokens read as such."""
    tokens: list[int] = []
    for run in tokenizer.control.split(text):
        tokens.extend([run] if isinstance(run, int) else tokenizer.encode_run(run, "inside"))
    return tokens
