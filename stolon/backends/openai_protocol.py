"""The OpenAI protocol, chat and completions, over any exchange and in any dialect of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from ..lang.backend import Capabilities, GenerateRequest
from ..lang.constraint import Constraint
from ..lang.errors import BackendRequestError, UnsupportedError
from ..lang.prompt import Prompt, Text
from ..lang.types import Delta, SamplingParams, Score, Usage
from .answers import AnswerReader
from .choosing import choosing, chosen
from .deadline import Deadline
from .dialects import Dialect, copied_params, unsupported
from .exchange import Exchange
from .foreign_scores import score_by_echo, score_by_prompt_logprobs
from .jsonvalue import Json
from .strict_schema import StrictForm
from .strict_undo import StrictUndo
from .turns import turns_of
from .wire_forms import SERVED, STRICT, check_answerable, openai_fields, strict

CHAT_PATH = "/chat/completions"
COMPLETIONS_PATH = "/completions"

_NO_METHODS = (
    "choices_method",
    "it picks an option by a JSON schema and gives no scores; leave it out, or use RuntimeEndpoint, which has them",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What has to be known of a model to talk to it.

    is_chat: which route it is served on; None where the prompt decides
    limit_name: the chat route's field that bounds the answer
    root: what stands before the routes, where the transport does not add it
    extra: further fields of every request, as the user gave them
    """

    model: str
    dialect: Dialect
    is_chat: bool | None = True
    limit_name: str = "max_tokens"
    root: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def scores(self) -> bool:
        """vLLM gives the log-probabilities of a prompt on both routes; nobody else does on the chat route."""
        return self.dialect.name == "vllm" or (self.is_chat is False and self.dialect.any_prompt)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            params=self.dialect.params,
            chat_only=self.is_chat is True,
            roles=self.is_chat is not False,
            continue_assistant=self.is_chat is False or self.dialect.continues,
            score=self.scores,
            choose=self.is_chat is not False,
            constraints=self._constraints(),
            refusals=(*self.dialect.refusals(), *(() if self.scores else (_NO_METHODS,)), *self._no_forms()),
        )

    def _constraints(self) -> frozenset[str]:
        if self.dialect.name != "openai":
            return SERVED
        return frozenset() if self.is_chat is False else STRICT

    def _no_forms(self) -> tuple[tuple[str, str], ...]:
        """Why it holds an answer to no such form."""
        if self.dialect.name != "openai":
            return ()
        if self.is_chat is False:
            return tuple((kind, "completion models take no form for their answers") for kind in SERVED)
        return (("grammar", "the OpenAI protocol has no grammars; use json_schema or regex"),)


# tokens that the wrapper of an answer may cost beyond those of the answer
_WRAPPING = 16


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
        body: Json = {"model": served.model, **copied_params(params, served.dialect.names, served.dialect.always)}
        if params.stop:
            body["stop"] = list(params.stop)
        if params.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
        if request.priority and served.dialect.any_prompt:
            body["priority"] = request.priority
        if request.constraint is not None:
            body |= openai_fields(request.constraint, served.dialect.name)
            if self._undo(request) is not None:
                params = replace(params, max_tokens=params.max_tokens + _WRAPPING)
                request = replace(request, params=params)
        if served.is_chat is False or (served.is_chat is None and not request.prompt.has_roles()):
            path = served.root + COMPLETIONS_PATH
            return path, {**body, **self._completion_fields(request), **served.extra}
        return served.root + CHAT_PATH, {**body, **self._chat_fields(request), **served.extra}

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

    def check(self, constraint: Constraint) -> None:
        """Raises UnsupportedError for a form that cannot be sent, or whose answer cannot be checked."""
        kind = constraint.kind
        if kind not in self.served.capabilities().constraints:
            why = dict(self.served.capabilities().refusals).get(kind, "this server has no field for it")
            raise UnsupportedError(f"the form {kind!r} cannot be honoured: {why}", param=kind)
        check_answerable(constraint)
        openai_fields(constraint, self.served.dialect.name)

    def _undo(self, request: GenerateRequest) -> StrictForm | None:
        """What an answer to `request` has to be changed back from."""
        if request.constraint is None or self.served.dialect.name != "openai":
            return None
        return strict(request.constraint)

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        path, body = self.body(request)
        form = self._undo(request)

        async def attempt(deadline: Deadline) -> AsyncGenerator[Delta, None]:
            undos = [StrictUndo(form) for _ in range(request.params.n)] if form is not None else None
            async with aclosing(self._attempt(path, body, request.params.n, deadline)) as deltas:
                async for delta in deltas:
                    yield delta if undos is None else _undone(delta, undos[delta.index])

        async with aclosing(self.exchange.answer(attempt, request.timeout_s)) as deltas:
            async for delta in deltas:
                yield delta

    async def _attempt(self, path: str, body: Json, n: int, deadline: Deadline) -> AsyncGenerator[Delta, None]:
        sent = {**body, "stream": True}
        if self._asks_usage:
            sent.setdefault("stream_options", {"include_usage": True})
        try:
            events = self.exchange.events(path, sent, deadline)
            async with aclosing(events), aclosing(AnswerReader(n).read(events)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        except BackendRequestError as error:
            if not (self._asks_usage and error.status in (400, 422) and "stream_options" in str(error)):
                raise
        self._asks_usage = False  # an older server: it answers without telling what the answer cost
        async with aclosing(self._attempt(path, body, n, deadline)) as deltas:
            async for delta in deltas:
                yield delta

    async def choose(self, request: GenerateRequest, options: Sequence[str]) -> tuple[str, Usage]:
        """Exactly one of `options`, as a form that allows nothing else."""
        if self.served.is_chat is False:
            raise UnsupportedError(f"{self.served.model} is a completion model and takes no schema for its answer")
        return await chosen(self.stream(choosing(request, options)), options)

    async def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool) -> list[Score]:
        """Raises UnsupportedError where the server tells no log-probabilities of a prompt."""
        served = self.served
        if not served.scores:
            raise UnsupportedError(
                f"the {served.dialect.name} protocol gives no log-probabilities of given options; "
                "`RuntimeEndpoint` reaches the native route of a stolon or SGLang server, "
                'and `dialect="vllm"` a vLLM server'
            )
        prompts = [prompt, *(prompt.append(Text(option)) for option in options)]
        asked = [self.body(GenerateRequest(prompt=p, params=SamplingParams(max_tokens=1))) for p in prompts]
        by = score_by_prompt_logprobs if served.dialect.name == "vllm" else score_by_echo
        return await by(self.exchange, asked, unconditional=unconditional)


def _undone(delta: Delta, undo: StrictUndo) -> Delta:
    text = undo.feed(delta.text)
    if delta.finish is not None:
        text += undo.finish(whole=delta.finish == "stop" and not isinstance(delta.matched, str))
    return replace(delta, text=text)
