"""Answers as `/generate` gives them: SGLang's `meta_info`, whole or event by event."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from ...lang.types import Delta, TokenLogprob
from . import wire
from .answers import Answer, Question, Reply
from .body import JsonObject
from .errors import HttpError
from .fields import finite
from .service import Tokenizer

Pair = tuple[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the answers to one request are written.

    ids: of each answer, in order
    is_list: the answer is a list, and events say to which entry they belong
    with_texts: log-probabilities carry the texts of their tokens; with_prompts: answers carry the prompt's ids
    """

    ids: Sequence[str]
    questions: Sequence[Question]
    is_list: bool
    with_texts: bool
    with_prompts: bool
    began_s: float
    tokenizer: Tokenizer


def replies(form: Form, found: Sequence[Reply]) -> list[JsonObject]:
    """All complete answers, in order."""
    written: list[JsonObject] = []
    for question, reply in zip(form.questions, found, strict=True):
        for answer in reply.answers:
            # the prompt is the same for all answers, and only the first brings its log-probabilities
            answer.prompt_logprobs = reply.answers[0].prompt_logprobs
            whole = _answer(form, question, answer, len(answer.tokens), form.ids[len(written)])
            _meta(whole)["cached_tokens"] = reply.usage.cached_tokens
            written.append(whole)
    return written


def _answer(form: Form, question: Question, answer: Answer, made: int, id: str) -> JsonObject:
    meta: JsonObject = {
        "id": id,
        "finish_reason": _finish(answer, made),
        "prompt_tokens": len(question.prompt),
        "completion_tokens": made,
        "e2e_latency": time.monotonic() - form.began_s,
    }
    if question.params.logprobs is not None:
        meta.update(_logprobs(form, question, answer))
    ids: JsonObject = {"prompt_token_ids": question.prompt} if form.with_prompts else {}
    return {"text": answer.text, "output_ids": answer.tokens, **ids, "meta_info": meta}


def _meta(answer: JsonObject) -> JsonObject:
    return cast(JsonObject, answer["meta_info"])


def _finish(answer: Answer, made: int) -> JsonObject | None:
    match answer.finish:
        case None:
            return None
        case "stop":
            return {"type": "stop", "matched": answer.matched}
        case "length":
            return {"type": "length", "length": made}
        case "abort":
            return {"type": "abort", "message": "the request was ended before its answer"}


def _logprobs(form: Form, question: Question, answer: Answer) -> JsonObject:
    prompt = answer.prompt_logprobs or []
    first = question.prompt[0]
    found: JsonObject = {
        "input_token_logprobs": [_entry(form, e.token, e.logprob) if e else _unknown(form, first) for e in prompt],
        "output_token_logprobs": [_entry(form, e.token, e.logprob) for e in answer.logprobs],
    }
    if question.params.logprobs:
        found["input_top_logprobs"] = [_entries(form, e and e.top) for e in prompt]
        found["output_top_logprobs"] = [_entries(form, e.top) for e in answer.logprobs]
    if question.params.logprob_token_ids:
        found["input_token_ids_logprobs"] = [_entries(form, e and e.extra) for e in prompt]
        found["output_token_ids_logprobs"] = [_entries(form, e.extra) for e in answer.logprobs]
    return found


def _entry(form: Form, token: int, logprob: float) -> list[object]:
    return [finite(logprob), token, form.tokenizer.token_text(token) if form.with_texts else None]


def _unknown(form: Form, token: int) -> list[object]:
    """The first token of a prompt: nothing comes before it."""
    return [None, token, form.tokenizer.token_text(token) if form.with_texts else None]


def _entries(form: Form, pairs: tuple[Pair, ...] | TokenLogprob | None) -> list[list[object]] | None:
    return None if not isinstance(pairs, tuple) else [_entry(form, token, value) for token, value in pairs]


class NativeEvents:
    """Events of one request. `text`, `output_ids` and log-probabilities grow from event to event (SGLang's way), or
    each event brings only what is new."""

    def __init__(self, form: Form, *, incremental: bool) -> None:
        self._form = form
        self._incremental = incremental
        self._first = [0]  # place of each question's first answer in the list of answers
        for question in form.questions:
            self._first.append(self._first[-1] + question.params.n)
        self._answers = [Answer() for _ in range(self._first[-1])]
        self._made = [0] * len(self._answers)

    def start(self) -> bytes:
        return b""

    def delta(self, place: int, delta: Delta) -> bytes:
        index = self._first[place] + delta.index
        if self._incremental:
            self._answers[index] = Answer()
        answer = self._answers[index]
        answer.add(delta)
        self._made[index] += len(delta.tokens)
        event = _answer(self._form, self._form.questions[place], answer, self._made[index], self._form.ids[index])
        if self._form.is_list:
            event["index"] = index
        if delta.usage is not None:
            _meta(event)["cached_tokens"] = delta.usage.cached_tokens
        return wire.event(event)

    def end(self) -> bytes:
        return wire.DONE

    def error(self, error: HttpError) -> bytes:
        return wire.failure(error)
