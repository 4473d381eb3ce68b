"""Text that is forced, cut into tokens as the tokenizer cuts it where it reads the whole text at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock

_CONTEXT = 3  # tokens before a text that are read with it: a word may be cut in another way behind them
_KEPT = 4096  # texts whose tokens are known


class Canonical:
    """The cutting of one tokenizer. Safe to use from several threads.

    texts: by token id; None for tokens that are no text
    encode: tokens of plain text that stands behind other text
    """

    def __init__(self, texts: Sequence[bytes | None], encode: Callable[[str], list[int]]) -> None:
        self._texts = texts
        self._encode = encode
        self._known: OrderedDict[tuple[bytes, bytes, tuple[int, ...]], list[int]] = OrderedDict()
        self._lock = Lock()

    def cut(self, said: Sequence[int], text: bytes, ends: tuple[int, ...]) -> list[int]:
        """The tokens with which every canonical text goes on that begins with what was said and `text`.

        said: ends where `text` begins; it stays as it is
        ends: the places in `text`, its length not among them, at which a token may begin that goes beyond its end
        Of a text that goes on, the tokens before the one that reaches beyond `text`, or begins behind it, are those of
        the beginning up to there (so it is with byte pair encoding); what all these beginnings share is certain.
        """
        key = (self._before(said), text, ends)
        with self._lock:
            known = self._known.get(key)
            if known is None and len(self._known) >= _KEPT:
                self._known.popitem(last=False)
        if known is None:
            known = self._certain(*key)
            with self._lock:
                self._known[key] = known
        return known

    def _certain(self, before: bytes, text: bytes, ends: tuple[int, ...]) -> list[int]:
        certain = self._tokens(before, text)
        for end in ends:
            other = self._tokens(before, text[:end]) if certain else []
            shared = next((i for i, (a, b) in enumerate(zip(certain, other, strict=False)) if a != b), len(other))
            certain = certain[:shared]
        return certain

    def _before(self, said: Sequence[int]) -> bytes:
        """The last tokens' bytes, from the beginning of a character on."""
        text = b"".join(self._texts[token] or b"" for token in said[max(0, len(said) - _CONTEXT) :])
        start = next((place for place, byte in enumerate(text) if not _continues(byte)), len(text))
        return text[start:]

    def _tokens(self, before: bytes, text: bytes) -> list[int]:
        """Those of `text`, but for half a character at its end; none where they would not spell it."""
        text = _whole_characters(text)
        found = self._behind(before, text) if before else None
        return self._behind(b"", text) or [] if found is None else found

    def _behind(self, before: bytes, text: bytes) -> list[int] | None:
        """None where no token of both together begins where `text` does."""
        try:
            tokens = self._encode((before + text).decode())
        except UnicodeDecodeError:
            return None
        length, first = 0, 0
        while length < len(before) and first < len(tokens):
            length += len(self._texts[tokens[first]] or b"")
            first += 1
        spelled = b"".join(self._texts[token] or b"" for token in tokens[first:])
        return tokens[first:] if length == len(before) and spelled == text else None


def _continues(byte: int) -> bool:
    """Whether it stands inside a character of UTF-8."""
    return byte & 0xC0 == 0x80


def _whole_characters(text: bytes) -> bytes:
    """`text` up to a character that it ends in."""
    start = len(text)
    while start and len(text) - start < 4:
        start -= 1
        if not _continues(text[start]):
            try:
                text[start:].decode()
            except UnicodeDecodeError:
                return text[:start]
            return text
    return text
