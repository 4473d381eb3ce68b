"""What is known about a finished generation, put together from its increments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from .errors import BackendError, StreamTruncatedError
from .types import Delta, FinishReason, Score, TokenLogprob, Usage

NO_USAGE = Usage()
_EMPTY: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _EMPTY  # shared: dictionaries of their own would be three more objects per generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """One generation: its text and what it cost.

    usage: of the whole request, also where it had several answers
    probs, scores: of a select, by option; probabilities are the softmax of what the choices method ranks by
    alternatives: all the answers of a gen with n > 1, this one first
    value: what the text of a gen with a form was read as
    reasoning: what the model thought before it answered, where that is told apart; no part of `text`
    """

    text: str
    tokens: tuple[int, ...] = ()
    finish: FinishReason | None = None
    matched: str | int | None = None
    usage: Usage = NO_USAGE
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    probs: Mapping[str, float] = field(default_factory=_nothing)
    scores: Mapping[str, Score] = field(default_factory=_nothing)
    alternatives: tuple[Info, ...] = ()
    seconds: float = 0.0
    method_meta: Mapping[str, object] = field(default_factory=_nothing)
    text_in_logprobs: bool = False
    value: object = None
    reasoning: str | None = None

    def as_delta(self) -> Delta:
        """All of it as one increment."""
        return Delta(
            self.text,
            list(self.tokens),
            0,
            None if self.logprobs is None else list(self.logprobs),
            None if self.prompt_logprobs is None else list(self.prompt_logprobs),
            self.finish,
            self.matched,
            self.usage,
        )

    def meta(self) -> dict[str, Any]:
        """A fresh dictionary by SGLang's names."""
        meta: dict[str, Any] = {
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "cached_tokens": self.usage.cached_tokens,
            "e2e_latency": self.seconds,
        }
        if self.finish is not None:
            reason: dict[str, Any] = {"type": self.finish}
            meta["finish_reason"] = reason
            if self.matched is not None:
                reason["matched"] = self.matched
            if self.finish == "length":
                reason["length"] = len(self.tokens) or self.usage.completion_tokens
        if self.logprobs is not None:
            meta.update(token_meta(self.logprobs, "output", self.text_in_logprobs))
        if self.prompt_logprobs is not None:
            meta.update(token_meta(self.prompt_logprobs, "input", self.text_in_logprobs))
        if self.scores:
            meta["normalized_prompt_logprobs"] = [score.mean for score in self.scores.values()]
            meta["input_token_logprobs"] = [
                [(logprob, token, None) for logprob, token in zip(score.logprobs, score.tokens, strict=False)]
                for score in self.scores.values()
            ]
            meta["output_token_logprobs"] = [[] for _ in self.scores]
            meta.update(self.method_meta)
        return meta


def token_meta(logprobs: Sequence[TokenLogprob | None], side: str, with_text: bool) -> dict[str, Any]:
    """`output_token_logprobs` and `output_top_logprobs` (or `input_...`): triples of log-probability, id and text."""
    meta: dict[str, Any] = {
        f"{side}_token_logprobs": [
            (None, None, None) if one is None else (one.logprob, one.token, one.text if with_text else None)
            for one in logprobs
        ]
    }
    if any(one is not None and one.top for one in logprobs):
        meta[f"{side}_top_logprobs"] = [None if one is None else _best(one, with_text) for one in logprobs]
    return meta


def _best(one: TokenLogprob, with_text: bool) -> list[tuple[float, int, str | None]]:
    texts: Sequence[str | None] = one.top_texts if with_text and one.top_texts else [None] * len(one.top)
    return [(logprob, token, text) for (token, logprob), text in zip(one.top, texts, strict=True)]


def whole(deltas: Sequence[Delta], n: int, seconds: float, *, text_in_logprobs: bool) -> Info:
    """What the increments of a request with `n` answers come to.

    Raises StreamTruncatedError if an answer did not end, BackendError if it was aborted.
    """
    usage = next((delta.usage for delta in reversed(deltas) if delta.usage is not None), NO_USAGE)
    if n == 1:
        return _one(deltas, usage, seconds, text_in_logprobs)
    infos = tuple(
        _one([delta for delta in deltas if delta.index == index], usage, seconds, text_in_logprobs)
        for index in range(n)
    )
    return replace(infos[0], alternatives=infos)


def _one(deltas: Sequence[Delta], usage: Usage, seconds: float, text_in_logprobs: bool) -> Info:
    all_of_it = merged(deltas)
    if all_of_it.finish is None:
        raise StreamTruncatedError("the stream ended before its answer did", text=all_of_it.text)
    if all_of_it.finish == "abort":
        raise BackendError("the backend aborted the request")
    return Info(
        text=all_of_it.text,
        tokens=tuple(all_of_it.tokens),
        finish=all_of_it.finish,
        matched=all_of_it.matched,
        usage=usage,
        logprobs=None if all_of_it.logprobs is None else tuple(all_of_it.logprobs),
        prompt_logprobs=None if all_of_it.prompt_logprobs is None else tuple(all_of_it.prompt_logprobs),
        seconds=seconds,
        text_in_logprobs=text_in_logprobs,
    )


def merged(deltas: Sequence[Delta]) -> Delta:
    """One increment that says what all of `deltas` say."""
    if len(deltas) == 1:
        return deltas[0]
    logprobs = [one for delta in deltas for one in delta.logprobs or ()]
    last = deltas[-1] if deltas else Delta("")
    return Delta(
        "".join([delta.text for delta in deltas]),
        [token for delta in deltas for token in delta.tokens],
        last.index,
        logprobs if any(delta.logprobs is not None for delta in deltas) else None,
        next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None), None),
        last.finish,
        last.matched,
        next((delta.usage for delta in reversed(deltas) if delta.usage is not None), None),
    )
