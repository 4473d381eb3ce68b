"""The OpenAI protocol, chat and completions, over any exchange and in any dialect of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ..lang.backend import Capabilities, GenerateRequest
from ..lang.errors import BackendRequestError, UnsupportedError
from ..lang.types import Delta
from .answers import AnswerReader
from .deadline import Deadline
from .dialects import Dialect, copied_params, unsupported
from .exchange import Exchange
from .jsonvalue import Json
from .turns import turns_of

CHAT_PATH = "/chat/completions"
COMPLETIONS_PATH = "/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What has to be known of a model to talk to it.

    is_chat: which route it is served on; None where the prompt decides
    limit_name: the chat route's field that bounds the answer
    extra: further fields of every request, as the user gave them
    """

    model: str
    dialect: Dialect
    is_chat: bool | None = True
    limit_name: str = "max_tokens"
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def capabilities(self) -> Capabilities:
        return Capabilities(
            params=self.dialect.params,
            chat_only=self.is_chat is True,
            roles=self.is_chat is not False,
            continue_assistant=self.is_chat is False or self.dialect.continues,
            choose=self.is_chat is not False,
        )


class OpenAIProtocol:
    def __init__(self, served: Served, exchange: Exchange) -> None:
        self.served = served
        self.exchange = exchange
        self._asks_usage = True

    def body(self, request: GenerateRequest) -> tuple[str, Json]:
        """Path and body. Raises UnsupportedError for what this server cannot honour."""
        served, params = self.served, request.params
        refused = unsupported(params, served.dialect.params)
        if refused:
            raise UnsupportedError(
                f"the {served.dialect.name} protocol has no {', '.join(refused)}; leave it out, or name the server's "
                "dialect if it has",
                param=refused[0],
            )
        body: Json = {"model": served.model, **copied_params(params, served.dialect.names)}
        if params.stop:
            body["stop"] = list(params.stop)
        if params.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
        if request.priority and served.dialect.any_prompt:
            body["priority"] = request.priority
        if served.is_chat is False or (served.is_chat is None and not request.prompt.has_roles()):
            return COMPLETIONS_PATH, {**body, **self._completion_fields(request), **served.extra}
        return CHAT_PATH, {**body, **self._chat_fields(request), **served.extra}

    def _chat_fields(self, request: GenerateRequest) -> Json:
        turns = turns_of(request.prompt, continues=self.served.dialect.continues)
        fields: Json = {"messages": turns.messages, self.served.limit_name: request.params.max_tokens}
        if turns.continued:
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.params.logprobs is not None:
            fields["logprobs"] = True
            fields |= {"top_logprobs": request.params.logprobs} if request.params.logprobs else {}
        return fields

    def _completion_fields(self, request: GenerateRequest) -> Json:
        if request.prompt.has_roles():
            raise UnsupportedError(
                f"{self.served.model} is a completion model and knows no roles; write plain text, or use a chat model"
            )
        fields: Json = {"prompt": request.prompt.text(), "max_tokens": request.params.max_tokens}
        if request.params.logprobs is not None:
            fields["logprobs"] = request.params.logprobs
        return fields

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Delta]:
        path, body = self.body(request)

        def attempt(deadline: Deadline) -> AsyncGenerator[Delta]:
            return self._attempt(path, body, request.params.n, deadline)

        async with aclosing(self.exchange.answer(attempt, request.timeout_s)) as deltas:
            async for delta in deltas:
                yield delta

    async def _attempt(self, path: str, body: Json, n: int, deadline: Deadline) -> AsyncGenerator[Delta]:
        body = {**body, "stream": True}
        if self._asks_usage:
            body.setdefault("stream_options", {"include_usage": True})
        try:
            events = self.exchange.events(path, body, deadline)
            async with aclosing(events), aclosing(AnswerReader(n).read(events)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        except BackendRequestError as error:
            if not (self._asks_usage and error.status in (400, 422) and "stream_options" in str(error)):
                raise
        self._asks_usage = False  # an old server: it answers without telling what the answer cost
        async with aclosing(self._attempt(path, body, n, deadline)) as deltas:
            async for delta in deltas:
                yield delta
