"""Tokens to text, as they come: never half a character, never taken back."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from itertools import islice

from .tokenizer import Tokenizer

_Decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Text of one generated sequence. All deltas and `flush` together are what the tokens add to the prompt's text.

    A character whose bytes are not all there yet is held back; bytes that can no longer become one are U+FFFD at once.
    Bytes of such a character that the prompt ended in are part of the generated text.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> None:
        self._skip = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._decoder: _ByteDecoder | _WindowDecoder = (
            _WindowDecoder(tokenizer, skip_special_tokens)
            if tokenizer.rule is None
            else _ByteDecoder(tokenizer, tokenizer.rule.strip)
        )
        self._decoder.prime([id for id in prompt_ids if id not in self._skip])

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is certain once `tokens` have come."""
        return self._decoder.push([id for id in tokens if id not in self._skip])

    def flush(self) -> str:
        """What was held back; nothing may be pushed afterwards."""
        return self._decoder.flush()


class _ByteDecoder:
    """For tokenizers whose tokens stand for bytes."""

    def __init__(self, tokenizer: Tokenizer, strip: int) -> None:
        self._bytes_of = tokenizer.token_bytes
        self._utf8 = _Decoder("replace")
        self._strip = strip  # spaces that may still be dropped at the start of the text

    def prime(self, prompt: Sequence[int]) -> None:
        """Stand where `prompt` ends: it has used up the start of the text, and may end inside a character."""
        if self._strip:
            # a token that is dropped or empty leaves us at the start; the first real text ends it
            for id in prompt:
                self._strip_start(self._bytes_of(id).decode(errors="replace"))
                if not self._strip:
                    break
        # an unfinished character has at most three bytes, and its first one decides how the rest is read
        tail = b""
        for id in reversed(prompt):
            tail = self._bytes_of(id) + tail
            if len(tail) >= 3:
                break
        self._utf8.decode(tail)

    def push(self, tokens: Iterable[int]) -> str:
        text = self._utf8.decode(b"".join(map(self._bytes_of, tokens)))
        return self._strip_start(text) if self._strip and text else text

    def flush(self) -> str:
        text = self._utf8.decode(b"", True)
        return self._strip_start(text) if self._strip and text else text

    def _strip_start(self, text: str) -> str:
        while self._strip and text.startswith(" "):
            text, self._strip = text[1:], self._strip - 1
        if text:
            self._strip = 0
        return text


class _WindowDecoder:
    """For all others: decode a short window with and without what is new; the difference is the text.

    The window begins with tokens whose text is out already, so that the decoder's rules for a text's start do not
    apply to the new ones.
    """

    _CONTEXT = 6

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._window: list[int] = []
        self._done = 0  # of these, the first so many have their text out

    def prime(self, prompt: Sequence[int]) -> None:
        self._window = list(islice(reversed(prompt), self._CONTEXT))[::-1]
        self._done = len(self._window)

    def push(self, tokens: Iterable[int]) -> str:
        self._window.extend(tokens)
        return self._take(final=False)

    def flush(self) -> str:
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        before = self._text(self._window[: self._done])
        after = self._text(self._window)
        if not final and (after.endswith("\ufffd") or len(after) <= len(before)):
            return ""
        start = max(self._done - self._CONTEXT, len(self._window) - self._CONTEXT, 0)
        self._window = self._window[start:]
        self._done = len(self._window)
        return after[len(before) :]

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip)
