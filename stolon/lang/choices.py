"""How `select` decides: three methods over the log-probabilities of the options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .errors import InvalidRequest
from .types import Score


@dataclass(frozen=True, slots=True)
class ChoicesDecision:
    """What a method decided.

    scores: what each option was ranked by, in the order of the options; their softmax are the reported probabilities
    meta_info: further numbers, by SGLang's names
    """

    decision: str
    scores: tuple[float, ...]
    meta_info: dict[str, object] = field(default_factory=dict[str, object])


class ChoicesMethod(Protocol):
    """A way to decide. A callable of one's own may be given to `select` as well."""

    @property
    def requires_unconditional_logprobs(self) -> bool: ...

    def __call__(self, choices: Sequence[str], scores: Sequence[Score]) -> ChoicesDecision: ...


def best_index(values: Sequence[float]) -> int:
    """Index of the largest value, the first of equals."""
    return max(range(len(values)), key=values.__getitem__)


def softmax(values: Sequence[float]) -> list[float]:
    highest = max(values)
    if highest == -math.inf:
        return [1.0 / len(values)] * len(values)
    weights = [math.exp(value - highest) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]


def mean_logprob(values: Sequence[float | None]) -> float:
    """Mean of what is known: a server that pads its first log-probability with None must not break a decision."""
    known = [value for value in values if value is not None]
    return sum(known) / max(len(known), 1)


@dataclass(frozen=True, slots=True)
class TokenLengthNormalized:
    """The option with the highest mean log-probability per token."""

    requires_unconditional_logprobs: bool = False

    def __call__(self, choices: Sequence[str], scores: Sequence[Score]) -> ChoicesDecision:
        means = tuple(mean_logprob(score.logprobs) for score in scores)
        return ChoicesDecision(choices[best_index(means)], means)


@dataclass(frozen=True, slots=True)
class GreedyTokenSelection:
    """What greedy decoding would pick: options drop out token by token.

    An option that is shorter than the longest counts as if it went on with its own mean. Ranked by totals otherwise.
    """

    requires_unconditional_logprobs: bool = False

    def __call__(self, choices: Sequence[str], scores: Sequence[Score]) -> ChoicesDecision:
        width = max(len(score.logprobs) for score in scores)
        matrix = [_row(score.logprobs, width) for score in scores]
        left = list(range(len(choices)))
        for column in range(width):
            highest = max(matrix[row][column] for row in left)
            left = [row for row in left if matrix[row][column] == highest]
            if len(left) == 1:
                break
        totals = tuple(mean_logprob(score.logprobs) * len(score.logprobs) for score in scores)
        return ChoicesDecision(choices[left[0]], totals, {"greedy_logprob_matrix": matrix})


@dataclass(frozen=True, slots=True)
class UnconditionalLikelihoodNormalized:
    """The option that the prompt makes most more likely, per token, than it is on its own."""

    requires_unconditional_logprobs: bool = True

    def __call__(self, choices: Sequence[str], scores: Sequence[Score]) -> ChoicesDecision:
        means = tuple(self._gain(score) for score in scores)
        meta: dict[str, object] = {"normalized_unconditional_prompt_logprobs": list(means)}
        return ChoicesDecision(choices[best_index(means)], means, meta)

    @staticmethod
    def _gain(score: Score) -> float:
        if score.unconditional is None:
            raise InvalidRequest(
                "unconditional_likelihood_normalized needs the log-probabilities of the options without the prompt, "
                "and the backend returned none; use token_length_normalized",
                param="choices_method",
            )
        return mean_logprob(_gains(score.logprobs, score.unconditional))


def _row(values: Sequence[float | None], width: int) -> list[float]:
    mean = mean_logprob(values)
    row = [mean if value is None else value for value in values]
    return [*row, *[mean] * (width - len(row))]


def _gains(given: Sequence[float | None], alone: Sequence[float | None]) -> list[float | None]:
    # nothing comes before a first token, so its unconditional log-probability may be unknown: 0
    return [None if value is None else value - (base or 0.0) for value, base in zip(given, alone, strict=True)]


token_length_normalized = TokenLengthNormalized()
greedy_token_selection = GreedyTokenSelection()
unconditional_likelihood_normalized = UnconditionalLikelihoodNormalized()
