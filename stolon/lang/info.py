"""What is known about a finished generation, put together from its increments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import BackendError, StreamTruncatedError
from .types import Delta, FinishReason, Score, TokenLogprob, Usage

_NO_USAGE = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """One generation: its text and what it cost.

    usage: of the whole request, also where it had several answers
    probs, scores: of a select, by option; probabilities are the softmax of what the choices method ranks by
    alternatives: all the answers of a gen with n > 1, this one first
    """

    text: str
    tokens: tuple[int, ...] = ()
    finish: FinishReason | None = None
    matched: str | int | None = None
    usage: Usage = _NO_USAGE
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    probs: dict[str, float] = field(default_factory=dict[str, float])
    scores: dict[str, Score] = field(default_factory=dict[str, Score])
    alternatives: tuple[Info, ...] = ()
    seconds: float = 0.0
    method_meta: dict[str, object] = field(default_factory=dict[str, object])
    text_in_logprobs: bool = False

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


class Answers:
    """Collects the increments of one request until each of its `n` answers has ended."""

    __slots__ = ("_deltas", "_usage")

    def __init__(self, n: int) -> None:
        self._deltas: list[list[Delta]] = [[] for _ in range(n)]
        self._usage = _NO_USAGE

    def add(self, delta: Delta) -> None:
        self._deltas[delta.index].append(delta)
        if delta.usage is not None:
            self._usage = delta.usage

    def finish(self, seconds: float, *, text_in_logprobs: bool) -> Info:
        """All of it. Raises StreamTruncatedError if an answer did not end, BackendError if it was aborted."""
        infos = [self._one(deltas, seconds, text_in_logprobs) for deltas in self._deltas]
        if len(infos) == 1:
            return infos[0]
        first = infos[0]
        return Info(
            text=first.text,
            tokens=first.tokens,
            finish=first.finish,
            matched=first.matched,
            usage=first.usage,
            logprobs=first.logprobs,
            prompt_logprobs=first.prompt_logprobs,
            alternatives=tuple(infos),
            seconds=seconds,
            text_in_logprobs=text_in_logprobs,
        )

    def _one(self, deltas: list[Delta], seconds: float, text_in_logprobs: bool) -> Info:
        whole = merged(deltas)
        if whole.finish is None:
            raise StreamTruncatedError("the stream ended before its answer did", text=whole.text)
        if whole.finish == "abort":
            raise BackendError("the backend aborted the request")
        return Info(
            text=whole.text,
            tokens=tuple(whole.tokens),
            finish=whole.finish,
            matched=whole.matched,
            usage=self._usage,
            logprobs=None if whole.logprobs is None else tuple(whole.logprobs),
            prompt_logprobs=None if whole.prompt_logprobs is None else tuple(whole.prompt_logprobs),
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
