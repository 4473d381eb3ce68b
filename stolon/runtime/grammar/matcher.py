"""What the engine asks of a compiled constraint, whichever engine compiled it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Matcher(Protocol):
    """One answer's way through a constraint. An end token is legal exactly where `is_accepting`.

    Raises EngineError (code "grammar_dead_end" or "grammar_limit") where it cannot go on; its answer alone ends.
    """

    @property
    def is_accepting(self) -> bool:
        """Whether what was said so far is a whole answer."""
        ...

    def fill_mask(self, row: NDArray[np.int32], budget: int) -> None:
        """Set the bits of the tokens that may come next; all others are cleared.

        row: int32 [ceil(vocab / 32)], bit i % 32 of word i // 32 is token i
        budget: tokens that may still come, at least 1, this one included and the end token not counted: only tokens
            after which a legal end is within reach stay
        """
        ...

    def advance(self, token: int) -> None:
        """`token`, which the mask allowed and which is no end token, was said."""
        ...

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""
        ...

    def copy(self) -> Matcher:
        """Another one at the same place, which goes its own way."""
        ...

    def forced(self) -> bytes:
        """The bytes that every legal answer continues with; empty where there is a choice, or an end is legal."""
        ...

    def forced_tokens(self, said: Sequence[int], budget: int) -> list[int]:
        """The tokens that come next in all legal answers that are cut into tokens as the tokenizer cuts them, and after
        which an end is still within `budget`; fewer than spell `forced`, as its last may grow with what follows.

        said: the answer so far, which is not cut anew
        """
        ...

    def distance(self) -> int:
        """Fewest tokens to a legal end; exact, or an upper bound by a known completion."""
        ...


class Grammar(Protocol):
    """A compiled constraint; shared by all answers that ask for it."""

    @property
    def size_bytes(self) -> int: ...

    def matcher(self) -> Matcher: ...
