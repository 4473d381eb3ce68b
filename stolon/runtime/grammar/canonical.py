"""Text that is forced, cut into tokens as the tokenizer cuts it where it reads the whole text at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

_CONTEXT = 3  # tokens before a text that are read with it: a word may be cut in another way behind them
_KEPT = 4096  # texts, and pairs of tokens, of which is known how they are read
_MOST_BEHIND = 256  # tokens that are tried behind another, at some 20 µs each
K = TypeVar("K")
V = TypeVar("V")


class Canonical:
    """The cutting of one tokenizer. Safe to use from several threads.

    texts: by token id; None for tokens that are no text
    encode: tokens of plain text that stands behind other text
    """

    def __init__(self, texts: Sequence[bytes | None], encode: Callable[[str], list[int]]) -> None:
        self._texts = texts
        self._encode = encode
        self._cuts = _Kept[tuple[bytes, bytes, tuple[int, ...]], list[int]]()
        self._pairs = _Kept[tuple[bytes, int, tuple[int, ...]], bool]()

    def cut(self, said: Sequence[int], text: bytes, ends: tuple[int, ...]) -> list[int]:
        """The tokens with which every canonical text goes on that begins with what was said and `text`.

        said: ends where `text` begins; it stays as it is
        ends: the places in `text`, its length not among them, at which a token may begin that goes beyond its end
        Of a text that goes on, the tokens before the one that reaches beyond `text`, or begins behind it, are those of
        the beginning up to there (so it is with byte pair encoding); what all these beginnings share is certain. White
        space at the end of `text` may lose its last character to a word behind it.
        """
        key = (self._before(said), text, ends)
        known = self._cuts.get(key)
        if known is None:
            known = self._certain(*key)
            self._cuts.put(key, known)
        return known

    def only(self, said: Sequence[int], legal: Sequence[int], after: Callable[[int], Sequence[int]]) -> int | None:
        """The one of the `legal` next tokens with which a canonical text can go on; None where there may be several.

        after: the legal tokens behind one of them
        Of two tokens where one begins the other, the shorter is the tokenizer's only if it comes out, followed by some
        legal token, where both are read together, or where a word takes the white space that follows; if that never
        happens, it is not.
        """
        longest = max(legal, key=lambda token: len(self._texts[token] or b""))
        before = self._before(said)
        if any(token != longest and self._may_come(before, token, after(token)) for token in legal):
            return None
        return longest

    def _may_come(self, before: bytes, token: int, behind: Sequence[int]) -> bool:
        if len(behind) > _MOST_BEHIND:
            return True
        key = (before, token, tuple(behind))
        known = self._pairs.get(key)
        if known is None:
            known = any(self._reads(before, token, follower) for follower in behind)
            self._pairs.put(key, known)
        return known

    def _reads(self, before: bytes, token: int, follower: int) -> bool:
        """Whether both come out as they are, where that can be found out."""
        first, second = self._texts[token], self._texts[follower]
        if not first or not second:
            return True
        try:
            tokens = self._encode((before + first + second).decode())
            alone = self._encode((before + first).decode()) if second == _last_space(second) else []
        except UnicodeDecodeError:
            return True
        return tokens[-2:] == [token, follower] or alone[-1:] == [token]

    def _certain(self, before: bytes, text: bytes, ends: tuple[int, ...]) -> list[int]:
        text = _whole_characters(text)
        certain, space = self._tokens(before, text), _last_space(text)
        if space:
            apart = self._tokens(before, text.removesuffix(space)) + self._tokens(b"", space)
            certain = _shared(certain, apart)
        for end in ends:
            certain = _shared(certain, self._tokens(before, text[:end])) if certain else []
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


class _Kept(Generic[K, V]):
    """What was found lately."""

    def __init__(self) -> None:
        self._found: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            return self._found.get(key)

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._found[key] = value
            if len(self._found) > _KEPT:
                self._found.popitem(last=False)


def _shared(first: list[int], second: list[int]) -> list[int]:
    """With what both begin."""
    count = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(second))
    return first[:count]


def _last_space(text: bytes) -> bytes:
    """The character of white space that `text`, of whole characters, ends in; empty if it ends in another."""
    last = text.decode(errors="replace")[-1:]
    return last.encode() if last.isspace() else b""


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
