"""Random requests that resemble each other."""

from __future__ import annotations

import random

from stolon.lang.types import SamplingParams

from .client import Rule
from .model import VOCABULARY


class Asker:
    """texts: tokens and salt of what has been asked or answered"""

    def __init__(self, rng: random.Random) -> None:
        self.texts: list[tuple[list[int], str]] = []
        self._rng = rng

    def remember(self, tokens: list[int], salt: str) -> None:
        self.texts.append((tokens, salt))
        del self.texts[:-40]

    def tokens(self, count: int) -> list[int]:
        return [self._rng.randrange(VOCABULARY) for _ in range(count)]

    def prompt(self) -> tuple[list[int], str]:
        """With its salt."""
        rng = self._rng
        if self.texts and rng.random() < 0.7:
            text, salt = rng.choice(self.texts[-12:])
            cut = rng.choice([len(text), len(text), rng.randrange(len(text) + 1)])
            if rng.random() < 0.1:
                salt = rng.choice(["", "a", "b"])
            return (text[:cut] + self.tokens(rng.randrange(4)))[:60] or [1], salt
        return self.tokens(rng.randrange(1, 41)), rng.choice(["", "", "a", "b"])

    def params(self) -> SamplingParams:
        rng = self._rng
        most = rng.choice([1, 3, 12, 12, 30])
        return SamplingParams(
            max_tokens=most,
            min_tokens=rng.choice([0, 0, 0, min(2, most)]),
            ignore_eos=rng.random() < 0.5,
            stop_token_ids=rng.choice([(), (), (3,)]),
            prompt_logprobs=rng.choice([None, None, None, 0]),
            logprob_start=rng.choice([0, 0, 3]),
        )

    def rule(self) -> tuple[Rule, bool]:
        """With whether what it forces is appended."""
        rng = self._rng
        return Rule(rng.choice([0, 0, 0, rng.randrange(1, 50)])), rng.random() < 0.6
