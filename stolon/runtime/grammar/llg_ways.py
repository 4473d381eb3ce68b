"""Ways to an end that are known from the beginning: for pieces between marks, the shortest of each kind.

A completion alone leads to the shortest piece of all. Where the budget is nearly spent these are tried, too, so that a
call stays open that was meant, if its own shortest form fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from .llg_vocabulary import LlgVocabulary

_KEPT = 4_096  # rests of which the tokens are known
_LONGEST_FIRST = 32  # bytes of a token that is looked for


class Ways:
    """texts: of whole pieces"""

    def __init__(self, texts: Sequence[str], vocabulary: LlgVocabulary) -> None:
        self._texts = sorted((text.encode() for text in texts), key=len)
        self._longest = max(map(len, self._texts), default=0)
        self._vocabulary = vocabulary
        self.tokens = lru_cache(_KEPT)(self._tokens)

    def rests(self, said: Sequence[int]) -> list[bytes]:
        """What may follow of each piece: of those that `said` ends in, then of those that may begin; shortest first.

        Pieces may be listed that cannot follow.
        """
        if not self._texts:
            return []
        texts = self._vocabulary.texts
        before = b"".join(texts[token] for token in said[-self._longest :])
        begun = [text[size:] for text in self._texts if (size := _overlap(before, text))]
        return [*sorted(begun, key=len), *self._texts]

    def first_tokens(self, rests: Sequence[bytes]) -> list[int]:
        """Those with which one of them may begin."""
        ids = self._vocabulary.ids
        pieces = (rest[:size] for rest in rests for size in range(1, min(len(rest), _LONGEST_FIRST) + 1))
        return sorted({ids[piece] for piece in pieces if piece in ids})

    def _tokens(self, rest: bytes) -> tuple[int, ...]:
        return tuple(self._vocabulary.tokenizer.tokenize_bytes(rest))


def _overlap(before: bytes, text: bytes) -> int:
    """How long the longest beginning of `text` is, not all of it, that `before` ends with."""
    place = before.find(text[:1], max(0, len(before) - len(text) + 1))
    while place >= 0 and not text.startswith(before[place:]):
        place = before.find(text[:1], place + 1)
    return len(before) - place if place >= 0 else 0
