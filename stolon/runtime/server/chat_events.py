"""Chunks of streamed chat answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...lang.types import Delta, FinishReason, TokenLogprob, Usage
from . import wire
from .answers import Question
from .body import JsonObject
from .errors import HttpError
from .formats.choose import Reading, new_call_id
from .formats.source import Arguments, Call, Piece, Text, Thought
from .hearing import Hearing
from .sampling import StreamOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the answers to one request are written.

    first_form: a call is written as `function_call`, in OpenAI's first form
    top_logprobs: how many ranked tokens stand beside each; None: no log-probabilities; prompt_logprobs: the same of the
        prompt
    prompt_ids: None: no ids of tokens are sent
    """

    id: str
    created: int
    model: str
    reading: Reading
    parallel: bool
    first_form: bool
    stream_reasoning: bool
    options: StreamOptions
    top_logprobs: int | None
    prompt_logprobs: int | None
    prompt_ids: list[int] | None
    shows_thoughts: bool
    naming: wire.Naming

    def head(self, kind: str) -> JsonObject:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def finish_reason(self, reason: FinishReason | None, calls: int) -> str | None:
        """OpenAI's: an answer that ends by itself after a call ends for its calls."""
        if not calls or reason != "stop":
            return reason
        return "function_call" if self.first_form else "tool_calls"

    def logprobs(self, entries: list[TokenLogprob] | None) -> JsonObject | None:
        if self.top_logprobs is None or entries is None:
            return None
        return wire.chat_logprobs(entries, self.top_logprobs, self.naming)

    def of_prompt(self, entries: Sequence[TokenLogprob | None] | None) -> JsonObject:
        """What is said of the prompt."""
        said: JsonObject = {} if self.prompt_ids is None else {"prompt_token_ids": self.prompt_ids}
        if self.prompt_logprobs is not None:
            said["prompt_logprobs"] = self.naming.prompt_logprobs(entries or (), self.prompt_logprobs)
        return said


class ChatEvents:
    """Chunks of one streamed request. What is the same in all of them is encoded once."""

    def __init__(self, form: Form, question: Question) -> None:
        self._form = form
        self._frame = form.head("chat.completion.chunk")
        self._answers = question.params.n
        self._prompt_tokens = len(question.prompt)
        self._made = 0
        self._usage = Usage()
        self._calls = [-1] * self._answers  # places of those that began last
        self._hearings = (
            []
            if form.reading.is_plain
            else [
                Hearing(form.reading, parallel=form.parallel, in_pieces=form.stream_reasoning)
                for _ in range(self._answers)
            ]
        )
        self._heads = [
            f'data: {wire.encode(self._frame)[:-1]},"choices":[{{"index":{index},"delta":{{"content":'
            for index in range(self._answers)
        ]
        self._tail = '},"logprobs":null,"finish_reason":null}]' + (',"usage":null' if form.options.usage else "")
        self._tail += "}\n\n"

    def start(self) -> bytes:
        role = {"role": "assistant", "content": ""}
        return b"".join(
            self._chunk({"index": index, "delta": role, "finish_reason": None}, of_prompt=index == 0)
            for index in range(self._answers)
        )

    def delta(self, place: int, delta: Delta) -> bytes:
        self._made += len(delta.tokens)
        if delta.usage is not None:
            self._usage = delta.usage
        has_more = self._form.options.continuous or self._form.prompt_ids is not None
        is_plain = delta.finish is None and delta.logprobs is None and not has_more
        if self._hearings:
            heard = self._hearings[delta.index].hear(delta)
            pieces = [piece for piece in heard if self._form.shows_thoughts or not isinstance(piece, Thought)]
            if not is_plain or any(not isinstance(piece, Text) for piece in pieces):
                return self._pieces(pieces, delta)
            text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
        elif is_plain:
            text = delta.text
        else:
            return self._pieces([Text(delta.text)] if delta.text or delta.logprobs else [], delta)
        return f"{self._heads[delta.index]}{wire.encode(text)}{self._tail}".encode() if text else b""

    def _pieces(self, pieces: list[Piece], delta: Delta) -> bytes:
        """A chunk for each piece; the first brings the log-probabilities, the last the end."""
        says = [self._said(piece, delta.index) for piece in pieces]
        has_ids = self._form.prompt_ids is not None and bool(delta.tokens)
        if not says and (delta.logprobs or delta.finish is not None or has_ids):
            says.append({})
        chunks: list[bytes] = []
        for place, said in enumerate(says):
            choice: JsonObject = {"index": delta.index, "delta": said, "logprobs": None, "finish_reason": None}
            if place == 0:
                choice["logprobs"] = self._form.logprobs(delta.logprobs)
                if has_ids:
                    choice["token_ids"] = delta.tokens
            if place == len(says) - 1 and delta.finish is not None:
                calls = self._hearings[delta.index].calls if self._hearings else 0
                choice["finish_reason"] = self._form.finish_reason(delta.finish, calls)
                choice["matched_stop"] = delta.matched
            chunks.append(self._chunk(choice))
        return b"".join(chunks)

    def _said(self, piece: Piece, index: int) -> JsonObject:
        """What goes into `delta`."""
        match piece:
            case Text(text):
                return {"content": text}
            case Thought(text):
                return {"reasoning_content": text}
            case Call(name) if self._form.first_form:
                return {"function_call": {"name": name, "arguments": ""}}
            case Arguments(text) if self._form.first_form:
                return {"function_call": {"arguments": text}}
            case Call(name):
                self._calls[index] += 1
                call = {"id": new_call_id(self._form.reading.tools), "type": "function"}
                function = {"name": name, "arguments": ""}
                return {"tool_calls": [{"index": self._calls[index], **call, "function": function}]}
            case Arguments(text):
                return {"tool_calls": [{"index": self._calls[index], "function": {"arguments": text}}]}

    def end(self) -> bytes:
        if not self._form.options.usage:
            return wire.DONE
        thinking = sum(hearing.thinking_tokens for hearing in self._hearings) if self._form.reading.thinks else None
        return wire.event({**self._frame, "choices": [], "usage": wire.usage([self._usage], thinking)}) + wire.DONE

    def error(self, error: HttpError) -> bytes:
        return wire.failure(error)

    def _chunk(self, choice: JsonObject, *, of_prompt: bool = False) -> bytes:
        chunk = {**self._frame, "choices": [choice], **(self._form.of_prompt(None) if of_prompt else {})}
        if self._form.options.usage:
            chunk["usage"] = self._so_far() if self._form.options.continuous else None
        return wire.event(chunk)

    def _so_far(self) -> JsonObject:
        return wire.usage([Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._made)])
