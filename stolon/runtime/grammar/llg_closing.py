"""The shortest completion that can be found quickly: what lets an answer end within its budget.

llguidance does not know how far an end is. What is found here is a completion that was walked to its end on a copy of
the matcher, so its length is an upper bound that holds; nothing says that it is the least.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from .llg_vocabulary import CLOSERS, COMMON, LlgVocabulary

# a walk takes the tokens most likely to close first; where nothing is said for one, by chance, so that no walk
# circles for ever; each further walk is led more by chance
_WALKS = 6
_LONGEST_S = 0.5  # CPU seconds of all walks from one place
# a token may have said letters that stood at the beginning of a known completion
_TAILS = 16
# outside of strings JSON has only the letters of true, false and null to begin a value, and e in numbers
_LETTERS_OF_WORDS = 4


def allowed_tokens(row: NDArray[np.int32] | bytes) -> NDArray[np.int64]:
    """The ids of the bits that are set in a mask row."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(row, np.uint8), bitorder="little"))


def shortest_known(
    matcher: LLMatcher,
    vocabulary: LlgVocabulary,
    limit: int,
    hints: Sequence[list[int]] = (),
    *,
    is_json: bool = True,
    enough: int = 0,
) -> list[int] | None:
    """Tokens from here to a legal end, at most `limit`; None where no walk came to one. `matcher` is left as it was.

    hints: token runs that may end a string, tried where it cannot be ended at once
    is_json: whether brackets outside of strings close something
    enough: a length that needs not be bettered
    """
    best: list[int] | None = None
    deadline = time.thread_time() + _LONGEST_S
    for seed in range(_WALKS):
        walk = _Walk(matcher.deep_copy(), vocabulary, hints, is_json, seed)
        found = walk.to_end(limit if best is None else len(best) - 1, deadline)
        if found is not None:
            best = found
        if best is not None and len(best) <= max(enough, 8 * (seed + 1)):
            break
    return best


def tail_to_end(state: LLMatcher, known: list[int], most: int) -> list[int] | None:
    """The longest tail of `known`, of at most `most` tokens, that leads to an end from `state`, if one soon does."""
    if state.is_accepting():
        return []
    for start in range(max(0, len(known) - most), min(len(known), _TAILS)):
        tail = known[start:]
        trial = state.deep_copy()
        if trial.try_consume_tokens(tail) == len(tail) and trial.is_accepting():
            return tail
    return None


class _Walk:
    def __init__(
        self, matcher: LLMatcher, vocabulary: LlgVocabulary, hints: Sequence[list[int]], is_json: bool, seed: int
    ) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._hints = hints
        self._is_json = is_json
        self._seed = seed
        self._chance = random.Random(seed)

    def to_end(self, limit: int, deadline: float) -> list[int] | None:
        path: list[int] = []
        while not self._matcher.is_accepting():
            if len(path) >= limit or time.thread_time() > deadline:
                return None
            step = self._matcher.compute_ff_tokens() or self._step()
            if not step or not self._matcher.consume_tokens(step):
                return None
            path += step
        return path if len(path) <= limit else None

    def _step(self) -> list[int]:
        """The next tokens of the walk; none where there is no way on."""
        ids = allowed_tokens(self._matcher.compute_bitmask())
        if self._matcher.is_error():
            return []
        words = self._vocabulary
        if self._is_json and np.isin(words.letters, ids, assume_unique=True).sum() > _LETTERS_OF_WORDS:
            # inside a string: what closes a list out there is a letter here
            inside = ids[words.ends_string[ids]]
            if not len(inside):
                hint = next((h for h in self._hints if self._matcher.validate_tokens(h) == len(h)), None)
                if hint is not None:
                    return hint
            ids = inside if len(inside) else ids[~words.only_closes[ids]]
        return [self._choose(ids)] if len(ids) else []

    def _choose(self, ids: NDArray[np.int64]) -> int:
        ranks = (self._vocabulary.closing_rank if self._is_json else self._vocabulary.sign_rank)[ids]
        best = int(ranks.min())
        if best < CLOSERS and self._chance.random() >= 0.1 * self._seed:
            closest = ids[ranks == best]
        elif self._chance.random() < 0.5:
            closest = ids[ranks <= best]
        else:
            # a pattern asks for its letters in some order: any that is allowed may be the way on
            closest = ids[ranks <= max(best, COMMON)]
        return int(closest[self._chance.randrange(len(closest))])
