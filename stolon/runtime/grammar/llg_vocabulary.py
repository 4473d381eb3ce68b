"""What llguidance is told of a vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray

from .canonical import Canonical

# tokens that begin more values or keys than these are set apart: few tokens do
FEW_OPENINGS = 2
_SIGNS = frozenset(bytes([sign]) for sign in b"!\"#$%&')*+,-./:;=>?@\\^_`|~")
# bytes; llguidance takes none beyond 255 and panics, and such tokens are runs of one sign
_LONGEST_TOKEN = 200
_NOT_PLAIN = frozenset(b'"\\\x7f') | frozenset(range(0x20))
# ranks below the first close something; above the second are tokens that open, space and bytes of other scripts
CLOSERS, COMMON = 12, 30
_FAR, _LAST = 40, 60


class LlgVocabulary:
    """The bytes of every token, and which tokens are no text.

    eos_ids: the end tokens; their bits are set exactly where an answer may end
    rows: width of the logits; ids from len(token_bytes) on are never legal
    encode: the tokenizer's own encoding of plain text, without special tokens; where it is missing, the longest token
        that fits is taken, and forced text is then not cut as the model saw it in training
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        *,
        eos_ids: Collection[int],
        special_ids: Collection[int] = (),
        rows: int | None = None,
        encode: Callable[[str], list[int]] | None = None,
    ) -> None:
        self.rows = max(rows or 0, len(token_bytes))
        self.words = (self.rows + 31) // 32
        silent = {*eos_ids, *special_ids}
        tokens = [b"" if id in silent or len(text) > _LONGEST_TOKEN else text for id, text in enumerate(token_bytes)]
        tokens += [b""] * (self.rows - len(tokens))
        described = _Described(tokens, sorted(eos_ids), sorted(silent), encode)
        self.tokenizer = LLTokenizer(cast("Any", described), n_vocab=self.rows, eos_token=sorted(eos_ids))
        # how soon a token leads to an end, by its bytes alone: the order in which completions are looked for
        self.closing_rank: NDArray[np.int32] = np.full(self.rows, _LAST, np.int32)
        self.closing_rank[:] = [_closing_rank(token) for token in tokens]
        # the same where the text is not JSON: any sign may close something there
        is_sign = np.array([len(token) == 1 and token in _SIGNS for token in tokens], np.bool_)
        self.sign_rank = np.where(is_sign, np.minimum(self.closing_rank, CLOSERS), self.closing_rank).astype(np.int32)
        self.letters = np.array([i for i, token in enumerate(tokens) if len(token) == 1 and token.isalpha()], np.int64)
        self.ends_string = np.zeros(self.rows, np.bool_)
        self.ends_string[:] = [token[:1] == b'"' for token in tokens]
        self.only_closes = self.closing_rank < 0
        self.texts = tokens  # empty for what is no text
        self.ids = described.ids
        self.canonical = None if encode is None else Canonical(tokens, encode)
        self._plain: dict[bytes, NDArray[np.int32]] = {}
        self.openings = max((_openings(token) for token in tokens), default=1)
        self.is_wide: NDArray[np.bool_] = np.zeros(self.rows, np.bool_)
        self.is_wide[:] = [_openings(token) > FEW_OPENINGS for token in tokens]
        self.wide = bit_row(self.is_wide)
        singles = [len(token) == 1 and 0x20 <= token[0] < 0x7F for token in tokens]
        self.singles = bit_row(np.array(singles, np.bool_))

    def plain(self, without: bytes) -> NDArray[np.int32]:
        """int32 [words], shared: tokens that are whole characters and stand inside a JSON string as they are.

        without: bytes that none of them holds
        """
        if without not in self._plain:
            refused = frozenset(without) | _NOT_PLAIN
            self._plain[without] = bit_row(np.array([_is_plain(token, refused) for token in self.texts], np.bool_))
        return self._plain[without]


class _Described:
    """The attributes by which llguidance recognises a tokenizer that is described and not loaded."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self, tokens: list[bytes], eos_ids: list[int], special_ids: list[int], encode: Callable[[str], list[int]] | None
    ) -> None:
        self.tokens = tokens
        self.eos_token_id = eos_ids[0]
        self.special_token_ids = special_ids
        self._encode = encode
        self.ids = {token: id for id, token in reversed(list(enumerate(tokens))) if token}
        self._longest = max(map(len, self.ids), default=0)

    def __call__(self, text: bytes | str) -> list[int]:
        said = text.encode() if isinstance(text, str) else text
        try:
            return self._by_length(said) if self._encode is None else self._encode(said.decode())
        except UnicodeDecodeError:  # forced text may begin or end within a character
            return self._by_length(said)

    def _by_length(self, text: bytes) -> list[int]:
        """The longest token that fits, again and again; bytes that no token says are left out."""
        found: list[int] = []
        at = 0
        while at < len(text):
            sizes = range(min(self._longest, len(text) - at), 0, -1)
            size = next((size for size in sizes if text[at : at + size] in self.ids), 0)
            if size:
                found.append(self.ids[text[at : at + size]])
            at += size or 1
        return found


def _closing_rank(token: bytes) -> int:
    if not token:
        return _LAST
    if not token.strip(b"]}"):
        return 0 - min(len(token), 8)
    if not token.strip(b']}"'):
        # `"}` ends more than `"`, which may also begin a string
        return 10 - min(len(token), 8)
    if token in (b",", b":"):
        return CLOSERS - 1
    if token.isdigit():
        return 13 if len(token) == 1 else 20
    if token[:1] in b"{[":
        return _FAR + min(len(token), 8)
    if token[:1].isspace() or not token.isascii():
        return _LAST
    return 14 if token[:1] in b"ntf" and len(token) == 1 else 25


def _openings(token: bytes) -> int:
    """How many values or keys a token may begin."""
    return max(1, sum(token.count(mark) for mark in (b"{", b"[", b",", b":")) + 1)


def _is_plain(token: bytes, refused: frozenset[int]) -> bool:
    if not token or not refused.isdisjoint(token):
        return False
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def bit_row(chosen: NDArray[np.bool_]) -> NDArray[np.int32]:
    """A mask row of a choice of tokens."""
    words = -(-len(chosen) // 32)
    return np.frombuffer(np.packbits(chosen, bitorder="little").tobytes().ljust(words * 4, b"\0"), np.int32)
