"""The OpenAI protocol as JSON: from a request to a body, and from the events of an answer to deltas."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from ..lang.errors import BackendError, BackendProtocolError
from ..lang.types import Delta, FinishReason, TokenLogprob, Usage
from .exchange import ConnectionLostError, Event, truncated
from .jsonvalue import Json, as_list, as_object

_STOP = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence", "tool_calls", "function_call"})
_LENGTH = frozenset({"length", "max_tokens"})


@dataclass(slots=True)
class _Answer:
    """What has arrived of one of the `n` answers; its finish is held back until nothing can follow it."""

    text: list[str] = field(default_factory=list[str])
    finish: FinishReason | None = None
    matched: str | int | None = None


class AnswerReader:
    """Reads one answer's events, of the chat or the completion protocol, streamed or whole.

    Text is handed on at once. The finish reasons come at the end of the stream, when usage is known and nothing can
    follow them; text after a finish reason is an error. A stream that ends without them is truncated, even when the
    server said [DONE].
    """

    def __init__(self, n: int) -> None:
        self._answers = [_Answer() for _ in range(n)]
        self._usage: Usage | None = None
        self._last_id: bytes | None = None

    async def read(self, events: AsyncIterator[Event | None]) -> AsyncGenerator[Delta]:
        cause = "ended"
        try:
            async for event in events:
                if event is None:
                    cause = "said [DONE]"
                    continue
                for delta in self._take(event):
                    yield delta
        except ConnectionLostError as error:
            if not self._is_whole():
                raise truncated(self.text(), f"broke off ({error})") from error
        if not self._is_whole():
            raise truncated(self.text(), cause)
        for delta in self._finishes():
            yield delta

    def text(self) -> str:
        """What has arrived of the first answer."""
        return "".join(self._answers[0].text)

    def _is_whole(self) -> bool:
        return all(answer.finish for answer in self._answers)

    def _finishes(self) -> list[Delta]:
        deltas = [
            Delta("", index=i, finish=answer.finish, matched=answer.matched) for i, answer in enumerate(self._answers)
        ]
        deltas[-1].usage = self._usage
        return deltas

    def _take(self, event: Event) -> list[Delta]:
        if event.id is not None and event.id == self._last_id:
            return []  # the same event again: proxies that resume a stream do this
        self._last_id = event.id
        data = event.data
        if data.get("usage") is not None:
            self._usage = read_usage(data["usage"])
        choices = as_list(data.get("choices"))
        if choices is None:
            raise BackendProtocolError(f"the server's answer has no list of choices: {str(data)[:200]}")
        if event.whole and not choices:
            raise BackendProtocolError("the server's answer has an empty list of choices")
        return [delta for choice in choices if (delta := self._take_choice(choice, event.whole)) is not None]

    def _take_choice(self, value: object, is_whole: bool) -> Delta | None:
        choice = as_object(value)
        if choice is None:
            raise BackendProtocolError(f"the server sent a choice that is no object: {str(value)[:200]}")
        index = choice.get("index", 0)
        if not isinstance(index, int) or not 0 <= index < len(self._answers):
            raise BackendProtocolError(f"the server sent choice {index!r} although {len(self._answers)} were asked for")
        answer = self._answers[index]
        text, logprobs = _text_of(choice, is_whole), read_logprobs(choice.get("logprobs"))
        if text and answer.finish:
            raise BackendProtocolError(f"the server sent more text after it had finished answer {index}")
        answer.text.append(text)
        if choice.get("finish_reason") is not None:
            answer.finish = self._finish(choice["finish_reason"])
            answer.matched = _matched(choice)
        return Delta(text, index=index, logprobs=logprobs) if text or logprobs else None

    def _finish(self, reason: object) -> FinishReason:
        if reason in _STOP:
            return "stop"
        if reason in _LENGTH:
            return "length"
        # a short answer must not look like a whole one
        raise BackendError(f"the server ended the answer early: {reason!r}; the text so far is {self.text()[:200]!r}")


def _text_of(choice: Json, is_whole: bool) -> str:
    if "text" in choice:  # completions
        content = choice["text"]
    else:
        said = as_object(choice.get("message" if is_whole else "delta") or {})
        if said is None:
            raise BackendProtocolError(f"the server sent a choice without a message: {str(choice)[:200]}")
        if said.get("refusal"):
            raise BackendError(f"the model refused: {said['refusal']}")
        content = said.get("content")
    if content is None:
        return ""
    if not isinstance(content, str):
        raise BackendProtocolError(f"the server sent {type(content).__name__} where text was expected")
    return content


def _matched(choice: Json) -> str | int | None:
    """What ended the answer: SGLang and stolon say `matched_stop`, vLLM `stop_reason`."""
    matched = choice.get("matched_stop", choice.get("stop_reason"))
    return matched if isinstance(matched, (str, int)) else None


def read_usage(value: object) -> Usage:
    usage = as_object(value)
    if usage is None:
        raise BackendProtocolError(f"the server sent a usage that is no object: {str(value)[:200]}")
    details = as_object(usage.get("prompt_tokens_details")) or {}
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        cached_tokens=_count(details.get("cached_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        requests=1,
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def read_logprobs(value: object) -> list[TokenLogprob] | None:
    """Of the chat form (`content`) or the completion form (parallel lists); ids are -1, as neither form has them."""
    logprobs = as_object(value)
    if logprobs is None:
        return None
    try:
        if logprobs.get("content") is not None:
            return [_chat_logprob(entry) for entry in logprobs["content"]]
        tops = logprobs.get("top_logprobs") or [None] * len(logprobs.get("tokens") or ())
        rows = zip(logprobs.get("tokens") or (), logprobs.get("token_logprobs") or (), tops, strict=True)
        return [_completion_logprob(*row) for row in rows] or None
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise BackendProtocolError(f"the server's log-probabilities make no sense: {str(logprobs)[:200]}") from error


def _chat_logprob(entry: Any) -> TokenLogprob:
    top = entry.get("top_logprobs") or ()
    return TokenLogprob(
        token=-1,
        logprob=float(entry["logprob"]),
        text=entry["token"],
        top=tuple((-1, float(other["logprob"])) for other in top),
        top_texts=tuple(other["token"] for other in top),
    )


def _completion_logprob(token: str, logprob: float, top: dict[str, float] | None) -> TokenLogprob:
    best = sorted((top or {}).items(), key=lambda item: -item[1])
    return TokenLogprob(
        token=-1,
        logprob=float(logprob),
        text=token,
        top=tuple((-1, float(value)) for _, value in best),
        top_texts=tuple(text for text, _ in best),
    )
