"""The types that cross floors: how to draw tokens, and what comes back. Frozen, except what is made once per token."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from .errors import InvalidRequest

FinishReason = Literal["stop", "length", "abort"]

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to draw tokens; made once per request, never changed.

    Filters apply in this order: penalties and bias, temperature, top_k, top_p, min_p; then one draw whose
    randomness is a hash of (seed, position, token), so that it does not depend on the batch.
    """

    max_tokens: int = 128  # 0 computes the prompt and generates nothing
    min_tokens: int = 0
    n: int = 1  # answers per request; answer i is drawn with a seed derived from (seed, i)
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = -1  # -1 and 0: all tokens
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()  # no others are drawn; (): all may be
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    stop_regex: tuple[str, ...] = ()
    include_stop: bool = False  # keep the matched stop string in the text
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    seed: int | None = None  # None: a fresh one
    logprobs: int | None = None  # None: none; k >= 0: of the chosen token and of the k best
    prompt_logprobs: int | None = None  # the same for the prompt's tokens, from `logprob_start` on
    logprob_start: int = 0
    logprob_token_ids: tuple[int, ...] = ()  # further ids whose log-probability is wanted at each position

    @property
    def is_penalized(self) -> bool:
        """Whether what was said changes how likely tokens are."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

    def __post_init__(self) -> None:
        _at_least("max_tokens", self.max_tokens, 0)
        _at_least("min_tokens", self.min_tokens, 0)
        _at_least("n", self.n, 1)
        _at_least("top_k", self.top_k, -1)
        _at_least("logprob_start", self.logprob_start, 0)
        if self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens must be at most max_tokens ({self.max_tokens}), got {self.min_tokens}", param="min_tokens"
            )
        _within("temperature", self.temperature, 0.0, math.inf, open_above=True)
        _within("top_p", self.top_p, 0.0, 1.0, open_below=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("repetition_penalty", self.repetition_penalty, 0.0, math.inf, open_below=True, open_above=True)
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None:
                _at_least(name, value, 0)
        if self.seed is not None:
            _whole("seed", self.seed)
            if not -MAX_SEED - 1 <= self.seed <= MAX_SEED:
                raise InvalidRequest(f"seed must fit in 64 bits, got {self.seed}", param="seed")
        for _, bias in self.logit_bias:
            _within("logit_bias", bias, -100.0, 100.0)
        if any(not s for s in (*self.stop, *self.stop_regex)):
            raise InvalidRequest("stop must not contain an empty string; leave it out instead", param="stop")


def _whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"{name} must be a whole number, got {value!r}", param=name)


def _at_least(name: str, value: int, low: int) -> None:
    _whole(name, value)
    if value < low:
        raise InvalidRequest(f"{name} must be at least {low}, got {value}", param=name)


def _within(
    name: str, value: float, low: float, high: float, *, open_below: bool = False, open_above: bool = False
) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"{name} must be a number, got {value!r}", param=name)
    above = value > low if open_below else value >= low
    below = value < high if open_above else value <= high
    if not (above and below):  # NaN fails both
        left, right = "(" if open_below else "[", ")" if open_above else "]"
        raise InvalidRequest(f"{name} must be in {left}{low:g}, {high:g}{right}, got {value}", param=name)


@dataclass(slots=True)
class TokenLogprob:
    """Natural-log probability of one token, before temperature and filters.

    top: (id, log-probability) of the k most likely, best first; extra: of the ids that were asked for
    """

    token: int
    logprob: float
    text: str = ""
    top: tuple[tuple[int, float], ...] = ()
    extra: tuple[tuple[int, float], ...] = ()
    top_texts: tuple[str, ...] = ()  # for backends that know texts but no ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a request cost, in tokens; sums with `+`. `cached_tokens` are part of `prompt_tokens`."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            requests=self.requests + other.requests,
        )


@dataclass(slots=True)
class Delta:
    """One step of a stream, always an increment. The last one of each `index`, and only it, has a finish reason.

    index: which of the `n` answers this belongs to
    matched: the stop string, stop regex or token id that ended the answer, if one did
    prompt_logprobs: on the first delta, if asked for; the entry of the prompt's first token is None
    usage: on the last delta of the whole request (all answers summed)
    """

    text: str
    tokens: list[int] = field(default_factory=list[int])
    index: int = 0
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish: FinishReason | None = None
    matched: str | int | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a backend finds one option as the continuation of a prompt.

    logprobs: natural-log probability of each token after the longest token prefix that all the options share
    unconditional: the same tokens without the prompt, where that was asked for
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    unconditional: tuple[float, ...] | None = None

    @property
    def total(self) -> float:
        return sum(self.logprobs)

    @property
    def mean(self) -> float:
        return self.total / max(len(self.logprobs), 1)
