"""The shortest completion that can be found quickly: what lets an answer end within its budget.

llguidance does not know how far an end is. What is found here is a completion that was walked to its end on a copy of
the matcher, so its length is an upper bound that holds; nothing says that it is the least.

What a search may cost is counted in masks and tokens, never in time: the same request gets the same answer however busy
the machine is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from .llg_vocabulary import CLOSERS, COMMON, LlgVocabulary

# a walk takes the tokens most likely to close first; where nothing is said for one, by chance, so that no walk
# circles for ever; each further walk is led more by chance
_WALKS = 6
# the tokens of each walk at first, and where none came to an end: a walk may go astray, the next one less so
_LENGTHS = (64, 1_024)
# masks of all walks from one place, at some 20 us each on a vocabulary of bytes
MOST_MASKS = 16_384
# a token may have said letters that stood at the beginning of a known completion
_TAILS = 16
# most tails go on in a wrong way soon: these tokens of one are tried before the whole of it is
_PROBE = 8
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
    masks: int = MOST_MASKS,
) -> list[int] | None:
    """Tokens from here to a legal end, at most `limit`; None where no walk came to one. `matcher` is left as it was.

    hints: token runs that may end a string, tried where it cannot be ended at once; where text is not JSON, all of it
    is_json: whether brackets outside of strings close something
    enough: a length that needs not be bettered
    masks: how many may be computed
    """
    best: list[int] | None = None
    for length in (*(length for length in _LENGTHS if length < limit), limit):
        for seed in range(_WALKS):
            walk = _Walk(matcher.deep_copy(), vocabulary, hints, is_json, seed)
            found = walk.to_end(length if best is None else len(best) - 1, masks)
            masks -= walk.masks
            if found is not None:
                best = found
            if best is not None and len(best) <= max(enough, 8 * (seed + 1)):
                return best
        if best is not None:
            break
    return best


class Trials:
    """Tokens tried from one place for whether they lead to an end, without saying them.

    state: as it is at that place, and left so; end: an end token
    spent: tokens given to llguidance so far, at some 0.25 us each
    """

    def __init__(self, state: LLMatcher, end: int) -> None:
        self._state = state.deep_copy()  # a limit that is met here is none of the answer's
        self._end = end
        self.spent = 0

    def tail(self, begin: Sequence[int], known: list[int], most: int) -> list[int] | None:
        """The tail of `known`, of at most `most` tokens, that leads to an end behind `begin`, if one is soon found:
        none of it if that is an end, else the longest.
        """
        if self.lead_to_end([*begin]):
            return []
        for start in range(max(0, len(known) - most), min(len(known), _TAILS)):
            if self.lead_to_end([*begin, *known[start:]]):
                return known[start:]
        return None

    def lead_to_end(self, tokens: list[int]) -> bool:
        """Whether they are legal, and an end behind them is."""
        if not tokens:
            return self._state.is_accepting()
        return (len(tokens) < _PROBE or self._are_legal(tokens[:_PROBE])) and self._are_legal([*tokens, self._end])

    def _are_legal(self, tokens: list[int]) -> bool:
        self.spent += len(tokens)
        return self._state.validate_tokens(tokens) == len(tokens)


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
        self._end = vocabulary.tokenizer.eos_tokens[0]
        self.masks = 0

    def to_end(self, limit: int, masks: int) -> list[int] | None:
        path: list[int] = []
        while not self._matcher.is_accepting():
            if len(path) >= limit or self.masks >= masks:
                return None
            step = self._matcher.compute_ff_tokens() or self._step()
            if not step or not self._matcher.consume_tokens(step):
                return None
            path += step
        return path if len(path) <= limit else None

    def _step(self) -> list[int]:
        """The next tokens of the walk; none where there is no way on."""
        if not self._is_json:
            whole = [hint for hint in self._hints if self._matcher.validate_tokens([*hint, self._end]) > len(hint)]
            if whole:
                return min(whole, key=len)
        self.masks += 1
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
