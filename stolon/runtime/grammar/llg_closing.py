"""The shortest completion that can be found quickly: what lets an answer end within its budget.

llguidance does not know how far an end is. What is found here is a completion that was walked to its end on a copy of
the matcher, so its length is an upper bound that holds; nothing says that it is the least.
"""

from __future__ import annotations

import random

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from .llg_vocabulary import CLOSERS, COMMON, LlgVocabulary

# a walk takes the tokens most likely to close first; where nothing is said for one, by chance, so that no walk
# circles for ever; each further walk is led more by chance
_WALKS = 6
# outside of strings JSON has only the letters of true, false and null to begin a value, and e in numbers
_LETTERS_OF_WORDS = 4


def allowed_tokens(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.flatnonzero(np.unpackbits(mask, bitorder="little"))


def shortest_known(matcher: LLMatcher, vocabulary: LlgVocabulary, limit: int) -> list[int] | None:
    """Tokens from here to a legal end, at most `limit`; None where no walk came to one. `matcher` is left as it was."""
    best: list[int] | None = None
    for walk in range(_WALKS):
        found = _walk(matcher.deep_copy(), vocabulary, limit if best is None else len(best) - 1, walk)
        if found is not None:
            best = found
        if best is not None and len(best) <= 8 * (walk + 1):
            break
    return best


def _walk(matcher: LLMatcher, vocabulary: LlgVocabulary, limit: int, seed: int) -> list[int] | None:
    chance = random.Random(seed)
    path: list[int] = []
    while not matcher.is_accepting():
        if len(path) >= limit:
            return None
        step = matcher.compute_ff_tokens() or [_choose(matcher, vocabulary, chance, seed)]
        if step == [-1] or not matcher.consume_tokens(step):
            return None
        path += step
    return path if len(path) <= limit else None


def _choose(matcher: LLMatcher, vocabulary: LlgVocabulary, chance: random.Random, seed: int) -> int:
    ids = allowed_tokens(np.frombuffer(matcher.compute_bitmask(), np.uint8))
    if matcher.is_error() or not len(ids):
        return -1
    if np.isin(vocabulary.letters, ids, assume_unique=True).sum() > _LETTERS_OF_WORDS:
        # inside a string: what closes a list out there is a letter here
        inside = ids[vocabulary.ends_string[ids]]
        ids = inside if len(inside) else ids[~vocabulary.only_closes[ids]]
    if not len(ids):
        return -1
    ranks = vocabulary.closing_rank[ids]
    best = int(ranks.min())
    if best < CLOSERS and chance.random() >= 0.1 * seed:
        closest = ids[ranks == best]
    elif chance.random() < 0.5:
        closest = ids[ranks <= best]
    else:
        # a pattern asks for its letters in some order: any that is allowed may be the way on
        closest = ids[ranks <= max(best, COMMON)]
    return int(closest[chance.randrange(len(closest))])
