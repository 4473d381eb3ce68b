"""`OpenAI`: the OpenAI API, Azure's, and every server that speaks the same protocol."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from ..lang.backend import Backend, Capabilities, GenerateRequest
from ..lang.constraint import Constraint
from ..lang.prompt import Prompt
from ..lang.types import Delta, Score, Usage
from .addresses import checked_url
from .deadline import Clock
from .dialects import DialectName, dialect_of
from .exchange import Exchange, Limits
from .openai_client import OpenAIAccount, OpenAIClient
from .openai_protocol import OpenAIProtocol, Served
from .retry import RetryPolicy

_COMPLETION_MODELS = re.compile(r"(.*/)?(gpt-3\.5-turbo-instruct|davinci|babbage|text-)")
# these refuse `max_tokens`: their hidden reasoning counts towards the limit, which has a name of its own there
_REASONING_MODELS = re.compile(r"(.*/)?(o\d|gpt-5)")


@dataclass(slots=True)
class TokenUsage:
    """What a backend has used since it was made or `reset`, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def reset(self) -> None:
        self.prompt_tokens = self.completion_tokens = 0

    def add(self, usage: Usage) -> None:
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens


class OpenAI(Backend):
    """A model behind an OpenAI-style API.

    base_url, api_key, organization: None leaves them to `OPENAI_BASE_URL`, `OPENAI_API_KEY` and `OPENAI_ORG_ID`; a
        server named by `base_url` may do without a key
    is_chat_model: None tells by the model's name; False uses the completion route, which knows no roles
    is_azure: also true when `azure_endpoint` is given; `model` is then the name of the deployment
    dialect: what the server understands beyond the OpenAI protocol; with any but "openai" text without roles is
        sent to the completion route and chats to the chat route
    extra_body: further fields of every request, sent as they are
    timeout_s: seconds for a whole answer, retries included; `limits` has the finer ones
    token_usage: the sum of what the answers so far have cost
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        organization: str | None = None,
        is_chat_model: bool | None = None,
        is_azure: bool = False,
        azure_endpoint: str | None = None,
        api_version: str | None = None,
        dialect: DialectName = "openai",
        extra_body: Mapping[str, Any] | None = None,
        max_retries: int = 2,
        timeout_s: float | None = None,
        limits: Limits | None = None,
        retries: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        spoken = dialect_of(dialect)
        if is_chat_model is None and not spoken.any_prompt:
            is_chat_model = _COMPLETION_MODELS.match(model) is None
        limits = limits or Limits()
        if timeout_s is not None:
            limits = replace(limits, total_s=timeout_s)
        account = OpenAIAccount(
            base_url=None if base_url is None else checked_url(base_url),
            api_key=api_key,
            organization=organization,
            is_azure=is_azure or azure_endpoint is not None,
            azure_endpoint=azure_endpoint,
            api_version=api_version,
        )
        served = Served(
            model=model,
            dialect=spoken,
            is_chat=is_chat_model,
            limit_name="max_completion_tokens" if _REASONING_MODELS.match(model) else "max_tokens",
            extra=dict(extra_body or {}),
        )
        client = OpenAIClient(account, limits.connect_s)
        exchange = Exchange(client, limits, retries or RetryPolicy(max_retries=max_retries), clock)
        self.model = model
        self.token_usage = TokenUsage()
        self._protocol = OpenAIProtocol(served, exchange)
        self._capabilities = served.capabilities()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Delta]:
        async with aclosing(self._protocol.stream(request)) as deltas:
            async for delta in deltas:
                if delta.usage is not None:
                    self.token_usage.add(delta.usage)
                yield delta

    async def check(self, constraint: Constraint) -> None:
        self._protocol.check(constraint)

    async def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> list[Score]:
        return await self._protocol.score(prompt, options, unconditional=unconditional)

    async def choose(self, request: GenerateRequest, options: Sequence[str]) -> tuple[str, Usage]:
        answer, usage = await self._protocol.choose(request, options)
        self.token_usage.add(usage)
        return answer, usage

    def info(self) -> dict[str, object]:
        return {"model": self.model, "protocol": self._protocol.served.dialect.name}

    async def close(self) -> None:
        await self._protocol.exchange.transport.close()

    def shutdown(self) -> None:
        """`close` for callers without an event loop, from any thread; does not wait. Forgetting it does no harm."""
        self._protocol.exchange.transport.shutdown()

    def __enter__(self) -> OpenAI:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
