"""Guesses at the next tokens of an answer, which are computed in the same step and kept if they come true."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .sequence import Sequence

LEAST_MATCH = 2  # tokens that must have stood before what is guessed
MOST_MATCH = 8  # from here on a longer match says nothing more
MOST_PLACES = 64  # the latest ones, that are looked at


class Guesser(Protocol):
    """Says what may come next."""

    def guess(self, sequence: Sequence, most: int) -> list[int]:
        """At most `most` tokens that may follow the last one of `sequence`; none of them may end an answer."""
        ...


class NgramGuesser:
    """What came next the last time that the same few tokens stood in the prompt or the answer.

    Keeps nothing: it looks through the tokens anew, which takes about 1 ms for a million of them.
    Source of the idea: prompt lookup decoding (Saxena 2023).

    ends: tokens that end an answer
    """

    def __init__(self, ends: frozenset[int]) -> None:
        self._ends = ends

    def guess(self, sequence: Sequence, most: int) -> list[int]:
        tokens = np.frombuffer(sequence.tokens, np.int32)
        found = _latest_longest(tokens)
        if found is None:
            return []
        guesses: list[int] = tokens[found : found + most].tolist()
        ends = self._ends.union(sequence.params.stop_token_ids)
        return next((guesses[:i] for i, token in enumerate(guesses) if token in ends), guesses)


def _latest_longest(tokens: NDArray[np.int32]) -> int | None:
    """Where that stands which once came behind the longest end of `tokens` that was there before, the latest if there
    are several; None if there is no such end of at least LEAST_MATCH tokens."""
    if len(tokens) <= LEAST_MATCH:
        return None
    last = tokens[-1]
    places = np.flatnonzero(tokens[LEAST_MATCH - 1 : -1] == last) + LEAST_MATCH  # behind the last token of each match
    length = 1
    while len(places) and length < MOST_MATCH:
        if length >= LEAST_MATCH:
            places = places[-MOST_PLACES:]
        longer = places[places > length]
        longer = longer[tokens[longer - length - 1] == tokens[-length - 1]]
        if not len(longer):
            break
        places = longer
        length += 1
    return int(places[-1]) if len(places) and length >= LEAST_MATCH else None
