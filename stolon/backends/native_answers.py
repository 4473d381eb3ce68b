"""Reading the answers of `/generate`: SGLang's form, and stolon's, which is the same with increments."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from ..lang.errors import BackendProtocolError
from ..lang.types import Delta, FinishReason, TokenLogprob, Usage
from .exchange import ConnectionLostError, Event, truncated
from .jsonvalue import Json, as_list, as_object
from .refusal import error_from_object


@dataclass(slots=True)
class _Answer:
    """What has arrived of one of the `n` answers, and how many characters of it were handed on."""

    text: str = ""
    delivered: int = 0
    tokens: int = 0
    logprobs: int = 0
    finish: FinishReason | None = None
    matched: str | int | None = None
    usage: Usage = field(default_factory=Usage)


class NativeReader:
    """Hands out increments, whichever way the server streams.

    An event's `completion_tokens` counts all tokens so far. Where as many ids come with it, the event repeats the
    whole answer; where it has just the ids that are new, it is an increment. An event that adds nothing to the count
    is a repeated one and dropped; ids that fit neither way are an error.

    held_stops: stop strings that the server cuts off only at the end, after it has streamed their first characters;
        text that may be the start of one is held back here. stolon's own server holds it back itself.
    """

    def __init__(self, n: int, held_stops: tuple[str, ...] = ()) -> None:
        self._held_stops = held_stops
        self._answers = [_Answer() for _ in range(n)]
        self._prompt_logprobs_sent = False

    async def read(self, events: AsyncIterator[Event | None]) -> AsyncGenerator[Delta, None]:
        cause = "ended"
        try:
            async for event in events:
                if event is None:
                    cause = "said [DONE]"
                elif (delta := self._take(event.data)) is not None:
                    yield delta
        except ConnectionLostError as error:
            if not self._is_whole():
                raise truncated(self._answers[0].text, f"broke off ({error})") from error
        if not self._is_whole():
            raise truncated(self._answers[0].text, cause)
        for delta in self._finishes():
            yield delta

    def _is_whole(self) -> bool:
        return all(answer.finish for answer in self._answers)

    def _finishes(self) -> list[Delta]:
        answers = self._answers
        deltas = [Delta("", index=i, finish=a.finish, matched=a.matched) for i, a in enumerate(answers)]
        deltas[-1].usage = Usage(
            prompt_tokens=max(answer.usage.prompt_tokens for answer in answers),
            cached_tokens=max(answer.usage.cached_tokens for answer in answers),
            completion_tokens=sum(answer.usage.completion_tokens for answer in answers),
            requests=1,
        )
        return deltas

    def _take(self, data: Json) -> Delta | None:
        index = data.get("index", 0)
        if not isinstance(index, int) or not 0 <= index < len(self._answers):
            raise BackendProtocolError(f"the server sent answer {index!r} of {len(self._answers)}")
        answer = self._answers[index]
        meta = as_object(data.get("meta_info"))
        if meta is None:
            raise BackendProtocolError(f"the server's answer has no meta_info: {str(data)[:200]}")
        text, ids = _text_and_ids(data)
        total = meta.get("completion_tokens")
        if not isinstance(total, int):
            raise BackendProtocolError(f"the server's answer does not count its tokens: {str(meta)[:200]}")
        if answer.finish is not None:
            if total > answer.tokens:
                raise BackendProtocolError(f"the server sent more text after it had finished answer {index}")
            return None
        delta = Delta("", _new_tokens(answer, text, ids, total), index)
        self._add_logprobs(delta, answer, meta, total)
        self._note_end(answer, meta)
        delta.text = self._deliverable(answer)
        return delta if delta.text or delta.tokens or delta.prompt_logprobs else None

    def _deliverable(self, answer: _Answer) -> str:
        end = len(answer.text)
        if answer.finish is None or answer.matched in self._held_stops:
            end -= max((_overlap(answer.text, stop) for stop in self._held_stops), default=0)
        text = answer.text[answer.delivered : end]
        answer.delivered = max(answer.delivered, end)
        return text

    def _add_logprobs(self, delta: Delta, answer: _Answer, meta: Json, total: int) -> None:
        if meta.get("output_token_logprobs") is not None:
            rows = _logprobs(meta, "output")
            # like the ids: all so far, or the new ones
            new = rows[answer.logprobs :] if len(rows) == total else rows
            answer.logprobs += len(new)
            delta.logprobs = [row for row in new if row is not None]
        if meta.get("input_token_logprobs") and not self._prompt_logprobs_sent:
            self._prompt_logprobs_sent = True
            delta.prompt_logprobs = _logprobs(meta, "input")

    def _note_end(self, answer: _Answer, meta: Json) -> None:
        if meta.get("finish_reason") is None:
            return
        reason = as_object(meta["finish_reason"]) or {"type": meta["finish_reason"]}
        match reason.get("type"):
            case "stop":
                answer.finish = "stop"
            case "length":
                answer.finish = "length"
            case _:
                raise error_from_object({"message": reason.get("message", reason), "code": reason.get("status_code")})
        matched = reason.get("matched")
        answer.matched = matched if isinstance(matched, (str, int)) else None
        answer.usage = Usage(
            prompt_tokens=_count(meta.get("prompt_tokens")),
            cached_tokens=_count(meta.get("cached_tokens")),
            completion_tokens=answer.tokens,
        )


def _text_and_ids(data: Json) -> tuple[str, list[int]]:
    text, ids = data.get("text"), as_list(data.get("output_ids"))
    text = "" if text is None else text
    if not isinstance(text, str) or ids is None or not all(isinstance(token, int) for token in ids):
        raise BackendProtocolError(f"the server's answer lacks text or output_ids: {str(data)[:200]}")
    return text, ids


def _new_tokens(answer: _Answer, text: str, ids: list[int], total: int) -> list[int]:
    """The ids that `answer` does not have yet; its text and count are brought up to date."""
    if len(ids) == total and text.startswith(answer.text[: answer.delivered]):  # the whole answer so far
        new = ids[answer.tokens :]
        answer.text = text
    elif total == answer.tokens + len(ids):
        new = ids
        answer.text += text
    elif total <= answer.tokens and ids:
        return []  # seen before
    else:
        raise BackendProtocolError(
            f"the stream does not add up: {answer.tokens} tokens had arrived, {len(ids)} came, {total} are claimed"
        )
    answer.tokens = total
    return new


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the start of `stop`, but not all of it."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


def _logprobs(meta: Json, side: str) -> list[TokenLogprob | None]:
    """`side`: `input` or `output`; rows are [log-probability or null, id, text or null]."""
    tops = as_list(meta.get(f"{side}_top_logprobs")) or []
    extras = as_list(meta.get(f"{side}_token_ids_logprobs")) or []
    rows = as_list(meta.get(f"{side}_token_logprobs")) or []
    try:
        return [
            None
            if row[0] is None
            else TokenLogprob(
                token=int(row[1]),
                logprob=float(row[0]),
                text=row[2] or "",
                top=_pairs(tops, position),
                extra=_pairs(extras, position),
                top_texts=tuple(other[2] or "" for other in _row(tops, position)),
            )
            for position, row in enumerate(rows)
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise BackendProtocolError(f"the server's log-probabilities make no sense: {str(rows)[:200]}") from error


def _pairs(rows: list[Any], position: int) -> tuple[tuple[int, float], ...]:
    return tuple((int(token), float(logprob)) for logprob, token, *_ in _row(rows, position))


def _row(rows: list[Any], position: int) -> list[Any]:
    return rows[position] or [] if position < len(rows) else []


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
