"""`Anthropic`: Claude, by the Messages API."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ..lang.backend import Backend, Capabilities, GenerateRequest
from ..lang.constraint import Constraint
from ..lang.errors import BackendError, BackendProtocolError, InvalidRequest, UnsupportedError
from ..lang.prompt import Prompt
from ..lang.types import Delta, FinishReason, Usage
from .addresses import checked_url
from .choosing import choosing, chosen
from .deadline import Clock, Deadline
from .dialects import copied_params, unsupported
from .exchange import ConnectionLostError, Event, Exchange, Limits, truncated
from .http_client import HTTPClient
from .jsonvalue import Json, as_list, as_object
from .retry import RetryPolicy
from .strict_schema import StrictForm
from .strict_undo import StrictUndo
from .turns import turns_of
from .wire_forms import check_answerable, strict

_NAMES = {name: name for name in ("temperature", "top_p", "top_k")}
_PARAMS = frozenset(_NAMES) | {"max_tokens", "stop"}
_FORMS = frozenset({"choices", "regex", "json_schema"})
# https://platform.claude.com/docs/en/build-with-claude/structured-outputs, JSON Schema limitations
_NOT_TAKEN = frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems".split())
_FINISH: dict[str, FinishReason] = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}
_VERSION = "2023-06-01"

_CAPABILITIES = Capabilities(
    params=_PARAMS,
    chat_only=True,
    choose=True,
    constraints=_FORMS,
    refusals=(
        ("grammar", "the Messages API has no grammars; use json_schema or regex"),
        ("json_object", "the Messages API wants a schema; use json_schema"),
        ("choices_method", "it picks an option by a JSON schema and gives no scores; leave it out"),
    ),
)


class Anthropic(Backend):
    """A Claude model.

    api_key: None leaves it to `ANTHROPIC_API_KEY`
    timeout_s: seconds for a whole answer, retries included; `limits` has the finer ones
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str = "https://api.anthropic.com",
        max_retries: int = 2,
        timeout_s: float | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        key = api_key or os.environ.get("ANTHROPIC_API_KEY")
        if not key:
            raise InvalidRequest("Anthropic needs a key: api_key=..., or ANTHROPIC_API_KEY", param="api_key")
        limits = limits or Limits()
        limits = limits if timeout_s is None else replace(limits, total_s=timeout_s)
        headers = {"x-api-key": key, "anthropic-version": _VERSION}
        client = HTTPClient(checked_url(base_url).removesuffix("/v1"), None, limits.connect_s, headers=headers)
        self.model = model
        self._exchange = Exchange(client, limits, RetryPolicy(max_retries=max_retries), clock)

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        body = self._body(request)
        form = None if request.constraint is None else strict(request.constraint)

        async def attempt(deadline: Deadline) -> AsyncGenerator[Delta, None]:
            reader = _Reader(None if form is None else StrictUndo(form))
            events = self._exchange.events("/v1/messages", body, deadline)
            async with aclosing(events), aclosing(reader.read(events)) as deltas:
                async for delta in deltas:
                    yield delta

        async with aclosing(self._exchange.answer(attempt, request.timeout_s)) as deltas:
            async for delta in deltas:
                yield delta

    async def check(self, constraint: Constraint) -> None:
        if constraint.kind not in _FORMS:
            raise UnsupportedError(f"the form {constraint.kind!r} cannot be honoured", param=constraint.kind)
        check_answerable(constraint)
        _output_format(strict(constraint))

    async def choose(self, request: GenerateRequest, options: Sequence[str]) -> tuple[str, Usage]:
        return await chosen(self.stream(choosing(request, options)), options)

    def info(self) -> dict[str, object]:
        return {"model": self.model, "protocol": "anthropic"}

    async def close(self) -> None:
        await self._exchange.transport.close()

    def shutdown(self) -> None:
        """`close` for callers without an event loop, from any thread; does not wait. Forgetting it does no harm."""
        self._exchange.transport.shutdown()

    def __enter__(self) -> Anthropic:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _body(self, request: GenerateRequest) -> Json:
        """Raises UnsupportedError for what the Messages API cannot say."""
        params = request.params
        refused = unsupported(params, _PARAMS)
        if refused:
            raise UnsupportedError(f"the Messages API has no {', '.join(refused)}; leave it out", param=refused[0])
        body: Json = {"model": self.model, "max_tokens": params.max_tokens, "stream": True}
        body |= copied_params(params, _NAMES) | _messages(request.prompt)
        if params.stop:
            body["stop_sequences"] = list(params.stop)
        if request.constraint is not None:
            body["output_config"] = {"format": _output_format(strict(request.constraint))}
        return body


def _messages(prompt: Prompt) -> Json:
    """The turns; those of the system at the beginning have a field of their own."""
    messages = turns_of(prompt, continues=True).messages
    count = next((index for index, one in enumerate(messages) if one["role"] != "system"), len(messages))
    spoken = messages[count:]
    wrong = [message["role"] for message in spoken if message["role"] not in ("user", "assistant")]
    if wrong:
        raise UnsupportedError(
            f"the Messages API takes a {wrong[0]} turn nowhere but at the beginning"
            if wrong[0] == "system"
            else f"the Messages API has no {wrong[0]} turns; put it into user(...)"
        )
    system = "\n\n".join(message["content"] for message in messages[:count])
    return {"messages": spoken} | ({"system": system} if system else {})


def _output_format(form: StrictForm | None) -> Json:
    if form is None:
        raise UnsupportedError("the Messages API wants a schema; use json_schema", param="json_object")
    _check_taken(form.schema, "#")
    return {"type": "json_schema", "schema": form.schema}


def _check_taken(schema: Any, pointer: str) -> None:
    for index, item in enumerate(as_list(schema) or []):
        _check_taken(item, f"{pointer}/{index}")
    for key, inner in (as_object(schema) or {}).items():
        here = f"{pointer}/{key}"
        if key in _NOT_TAKEN:
            raise UnsupportedError(
                f"schema {here}: {key!r} cannot be said in the Messages API; fallback='retry' checks and asks again",
                param=here,
            )
        if key in ("properties", "$defs"):
            for name, one in (as_object(inner) or {}).items():
                _check_taken(one, f"{here}/{name}")
        elif key != "enum":
            _check_taken(inner, here)


class _Reader:
    """Reads one answer's events. A stream that ends without a stop reason is truncated."""

    def __init__(self, undo: StrictUndo | None) -> None:
        self._undo = undo
        self._text: list[str] = []
        self._finish: FinishReason | None = None
        self._matched: str | None = None
        self._counts: dict[str, int] = {}

    async def read(self, events: AsyncIterator[Event | None]) -> AsyncGenerator[Delta, None]:
        cause = "ended"
        try:
            async for event in events:
                text = "" if event is None else self._take(event.data)
                if text:
                    yield Delta(text)
        except ConnectionLostError as error:
            cause = f"broke off ({error})"
            if self._finish is None:
                raise truncated("".join(self._text), cause) from error
        if self._finish is None:
            raise truncated("".join(self._text), cause)
        rest = self._undo.finish(whole=self._finish == "stop" and self._matched is None) if self._undo else ""
        yield Delta(rest, finish=self._finish, matched=self._matched, usage=self._usage())

    def _take(self, data: Json) -> str:
        match data.get("type"):
            case "message_start":
                self._count(as_object(data.get("message")) or {})
            case "content_block_delta":
                return self._piece(as_object(data.get("delta")) or {})
            case "message_delta":
                self._count(data)
                self._end(as_object(data.get("delta")) or {})
            case "message" if "content" in data:
                raise BackendProtocolError("the server answered with one message where a stream was asked for")
            case _:
                pass  # ping, the borders of blocks, and whatever comes to the protocol later
        return ""

    def _piece(self, delta: Json) -> str:
        text = delta.get("text") if delta.get("type") == "text_delta" else ""
        if not isinstance(text, str):
            raise BackendProtocolError(f"the server sent {type(text).__name__} where text was expected")
        if text and self._finish is not None:
            raise BackendProtocolError("the server sent more text after it had finished the answer")
        self._text.append(text)
        return self._undo.feed(text) if self._undo else text

    def _end(self, delta: Json) -> None:
        reason = delta.get("stop_reason")
        if reason is None:
            return
        if reason not in _FINISH:
            raise BackendError(
                f"the server ended the answer early: {reason!r}; the text so far is {''.join(self._text)[:200]!r}"
            )
        self._finish = _FINISH[reason]
        matched = delta.get("stop_sequence")
        self._matched = matched if isinstance(matched, str) else None

    def _count(self, holder: Json) -> None:
        counts = as_object(holder.get("usage")) or {}
        self._counts |= {name: count for name, count in counts.items() if isinstance(count, int)}

    def _usage(self) -> Usage:
        cached = self._counts.get("cache_read_input_tokens", 0)
        written = self._counts.get("cache_creation_input_tokens", 0)
        return Usage(
            prompt_tokens=self._counts.get("input_tokens", 0) + cached + written,
            cached_tokens=cached,
            completion_tokens=self._counts.get("output_tokens", 0),
            requests=1,
        )
