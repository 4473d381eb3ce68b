"""`RuntimeEndpoint`: stolon's server, or someone else's SGLang or vLLM server, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..lang.backend import Backend, Capabilities, GenerateRequest
from ..lang.constraint import Constraint
from ..lang.errors import BackendRequestError, UnsupportedError
from ..lang.prompt import Prompt
from ..lang.types import Delta, Score, Usage
from .addresses import checked_url
from .deadline import Clock
from .dialects import NATIVE, dialect_of
from .exchange import Exchange, Limits
from .http_client import HTTPClient
from .jsonvalue import Json, as_list, as_object
from .native_protocol import NativeProtocol
from .openai_protocol import OpenAIProtocol, Served
from .per_loop import PerLoop
from .retry import RetryPolicy
from .wire_forms import SERVED

T = TypeVar("T")

_STOLON = Capabilities(params=NATIVE.params, score=True, constraints=SERVED, constrains_after=True)


@dataclass(frozen=True, slots=True)
class Recognised:
    """kind: `stolon`, `sglang`, `vllm`, or `openai` for whatever else speaks that protocol"""

    kind: str
    model: str


def recognise(model_info: Json | None, models: Json | None) -> Recognised:
    """By what `/get_model_info` (None: there is no such route) and `/v1/models` say."""
    rows = as_list((models or {}).get("data")) or []
    first = (as_object(rows[0]) if rows else None) or {}
    info = model_info or {}
    kind = str(first.get("owned_by"))
    if kind not in ("stolon", "sglang", "vllm"):
        kind = "sglang" if "model_path" in info else "openai"
    return Recognised(
        kind, str(first.get("id") or info.get("served_model_name") or info.get("model_path") or "default")
    )


class _Server:
    """A recognised server and the ways to speak with it."""

    def __init__(self, found: Recognised, exchange: Exchange) -> None:
        self.kind = found.kind
        self.model = found.model
        is_stolon = found.kind == "stolon"
        self._native = NativeProtocol(exchange, is_stolon=is_stolon) if found.kind in ("stolon", "sglang") else None
        self._takes_roles = is_stolon
        served = Served(model=found.model, dialect=dialect_of(found.kind), is_chat=None, root="/v1")
        self.openai = OpenAIProtocol(served, exchange)
        self.capabilities = self._capabilities(served)

    def _capabilities(self, served: Served) -> Capabilities:
        if self.kind == "stolon":
            return _STOLON
        return replace(served.capabilities(), score=self._native is not None or served.scores)

    def native_for(self, prompt: Prompt) -> NativeProtocol | None:
        return self._native if self._takes_roles or not prompt.has_roles() else None


class RuntimeEndpoint(Backend):
    """A server at `base_url`; what kind it is, it is asked at the first request.

    api_key: sent as a bearer token
    verify: None checks certificates as usual, a path against the authorities in that file, False not at all
    timeout_s: seconds for a whole answer, retries included; `limits` has the finer ones
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        verify: bool | str | None = None,
        *,
        max_retries: int = 2,
        timeout_s: float | None = None,
        limits: Limits | None = None,
        retries: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        limits = limits or Limits()
        self._limits = limits if timeout_s is None else replace(limits, total_s=timeout_s)
        self.base_url = checked_url(base_url).removesuffix("/v1")
        self._api_key = api_key
        self._verify = verify
        self._retries = retries or RetryPolicy(max_retries=max_retries)
        self._clock = clock
        self._exchange = self._new_exchange()
        self._server: _Server | None = None
        self._learning = PerLoop(asyncio.Lock)

    @property
    def endpoint(self) -> RuntimeEndpoint:
        """Itself: what SGLang's `Runtime` calls its connection."""
        return self

    @property
    def capabilities(self) -> Capabilities:
        """Those of stolon's server until the server has said what it is; each request is checked again then."""
        return self._server.capabilities if self._server is not None else _STOLON

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        server = await self._learned(request.timeout_s)
        protocol = server.native_for(request.prompt) or server.openai
        async with aclosing(protocol.stream(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def check(self, constraint: Constraint) -> None:
        server = await self._learned()
        # the native route of stolon's server knows the form that begins after the reasoning, no other route does
        server.openai.check(replace(constraint, after="") if server.kind == "stolon" else constraint)

    async def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> list[Score]:
        server = await self._learned()
        protocol = server.native_for(prompt) or server.openai
        return await protocol.score(prompt, options, unconditional=unconditional)

    async def choose(self, request: GenerateRequest, options: Sequence[str]) -> tuple[str, Usage]:
        server = await self._learned(request.timeout_s)
        if not server.capabilities.choose:
            raise UnsupportedError(f"a {server.kind} server answers with one of given options by their scores")
        return await server.openai.choose(request, options)

    async def prefill(self, prompt: Prompt) -> None:
        native = (await self._learned()).native_for(prompt)
        if native is not None:
            await native.prefill(prompt)

    async def flush_cache(self) -> bool:
        """False where there is nothing to flush, or the cache is in use."""
        try:
            await self._exchange.text("POST", "/flush_cache")
        except BackendRequestError as error:
            if error.status in (400, 404, 405):
                return False
            raise
        return True

    def get_model_name(self) -> str:
        """The name the server gives its model; asks it, from any thread."""
        if self._server is None:
            found = _from_outside(self._recognised_anew())
            return found.model
        return self._server.model

    def info(self) -> dict[str, object]:
        """What the server says about itself; asks it, from any thread."""
        return _from_outside(self._described())

    async def close(self) -> None:
        await self._exchange.transport.close()

    def shutdown(self) -> None:
        """`close` for callers without an event loop, from any thread; does not wait. Forgetting it does no harm."""
        self._exchange.transport.shutdown()

    def __enter__(self) -> RuntimeEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def _learned(self, timeout_s: float | None = None) -> _Server:
        async with self._learning.here():
            if self._server is None:
                self._server = _Server(await _recognised(self._exchange, timeout_s), self._exchange)
            return self._server

    def _new_exchange(self) -> Exchange:
        client = HTTPClient(self.base_url, self._api_key, self._limits.connect_s, self._verify)
        return Exchange(client, self._limits, self._retries, self._clock)

    async def _recognised_anew(self) -> Recognised:
        exchange = self._new_exchange()
        try:
            return await _recognised(exchange, None)
        finally:
            await exchange.transport.close()

    async def _described(self) -> dict[str, object]:
        exchange = self._new_exchange()
        try:
            found = await _recognised(exchange, None)
            said = as_object(await _unless_missing(exchange, "/get_server_info", None)) or {}
            return {**said, "model": found.model, "server": found.kind}
        finally:
            await exchange.transport.close()


async def _recognised(exchange: Exchange, timeout_s: float | None) -> Recognised:
    model_info = as_object(await _unless_missing(exchange, "/get_model_info", timeout_s))
    models = as_object(await _unless_missing(exchange, "/v1/models", timeout_s))
    return recognise(model_info, models)


async def _unless_missing(exchange: Exchange, path: str, timeout_s: float | None) -> Any:
    """The JSON at `path`; None where the server has no such route."""
    try:
        return await exchange.request("GET", path, timeout_s=timeout_s)
    except BackendRequestError as error:
        if error.status in (404, 405):
            return None
        raise


def _from_outside(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, on a loop and a thread of its own: the caller's may be running already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
