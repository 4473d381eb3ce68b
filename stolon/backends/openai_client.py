"""The `openai` package as a transport: its authentication, its URLs, its connections; none of its retries or readers.

Its own stream reader takes a cut stream for a finished one and fails on comments, so bodies are handed on as bytes.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ..lang.errors import BackendError, BackendTimeout, BackendUnavailable, InvalidRequest
from .addresses import is_followed
from .exchange import MAX_REFUSAL_BYTES, ConnectionLostError, Reply
from .jsonvalue import Json, unpaired_surrogate
from .per_loop import PerLoop


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIAccount:
    """Where to send requests and as whom; None leaves it to the environment variables that `openai` reads."""

    base_url: str | None = None
    api_key: str | None = None
    organization: str | None = None
    is_azure: bool = False
    azure_endpoint: str | None = None
    api_version: str | None = None


class _Refusal(Exception):
    """Carries an answer that is no success out of the HTTP client, before `openai` reads all of its body."""

    def __init__(self, reply: _ReadReply) -> None:
        super().__init__(f"status {reply.status}")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class _ReadReply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    async def chunks(self) -> AsyncGenerator[bytes]:
        yield self.body


@dataclass(frozen=True, slots=True)
class _OpenReply:
    response: Any  # httpx.Response with openai 2, httpx2.Response with openai 3
    http: Any

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self.response.headers

    async def chunks(self) -> AsyncGenerator[bytes]:
        try:
            async for chunk in self.response.aiter_raw():
                yield chunk
        except self.http.TransportError as error:
            raise ConnectionLostError(str(error) or type(error).__name__) from error


class OpenAIClient:
    """One `AsyncOpenAI` (or `AsyncAzureOpenAI`) for each event loop it is used from."""

    def __init__(self, account: OpenAIAccount, connect_s: float) -> None:
        import openai  # here: the module takes half a second to load, and most programs never need it

        self._openai: Any = openai
        self._http = _http_library(self._openai)
        self._account = account
        self._connect_s = connect_s
        self._clients = PerLoop(self._new_client, lambda client: client.close())
        self._new_client()  # refuses a missing key now, at the user's line

    @asynccontextmanager
    async def send(self, method: str, path: str, body: Json | None) -> AsyncGenerator[Reply]:
        client: Any = self._clients.here()
        fields = dict(body or {})
        resource = {"/chat/completions": client.chat.completions, "/completions": client.completions}[path]
        named = {name: fields.pop(name) for name in ("model", "messages", "prompt", "stream") if name in fields}
        sending = resource.with_streaming_response.create(
            **named, extra_body=fields, extra_headers={"Accept-Encoding": "identity"}
        )
        try:
            response = await sending.__aenter__()
        except UnicodeEncodeError as error:
            place = unpaired_surrogate(body)
            raise InvalidRequest(f"{place}: unpaired surrogate; send whole characters", param=place) from error
        except (self._openai.APIConnectionError, self._http.TransportError, _Refusal) as error:
            refusal = error if isinstance(error, _Refusal) else error.__cause__
            if not isinstance(refusal, _Refusal):
                raise self._no_connection(error, str(client.base_url)) from error
            yield refusal.reply
            return
        try:
            yield _OpenReply(response.http_response, self._http)
        finally:
            await sending.__aexit__(None, None, None)

    async def close(self) -> None:
        await self._clients.close()

    def shutdown(self) -> None:
        self._clients.shutdown()

    def _new_client(self) -> Any:
        account = self._account
        options: dict[str, Any] = {
            "api_key": account.api_key or _key_for_none(account),
            "organization": account.organization,
            "base_url": account.base_url,
            "max_retries": 0,  # retries are ours
            "http_client": self._openai.DefaultAsyncHttpxClient(
                event_hooks={"response": [_stop_at_refusal]},
                timeout=self._openai.Timeout(None, connect=self._connect_s),
            ),
            "timeout": self._openai.Timeout(None, connect=self._connect_s),
        }
        try:
            if account.is_azure:
                azure = {"azure_endpoint": account.azure_endpoint, "api_version": account.api_version}
                return self._openai.AsyncAzureOpenAI(**options, **azure)
            return self._openai.AsyncOpenAI(**options)
        except (self._openai.OpenAIError, ValueError) as error:
            raise InvalidRequest(f"no OpenAI client can be made: {error}") from error

    def _no_connection(self, error: BaseException, url: str) -> BackendError:
        cause = error.__cause__ or error
        if isinstance(cause, self._http.ConnectTimeout):
            return BackendTimeout(f"no connection to {url} within {self._connect_s:g} s")
        return BackendUnavailable(f"no server answers at {url}: {str(cause) or type(cause).__name__}")


def _http_library(openai: Any) -> Any:
    """openai 2 stands on httpx, openai 3 on httpx2: whichever its client class comes from."""
    homes = (parent.__module__.split(".")[0] for parent in openai.DefaultAsyncHttpxClient.__mro__)
    return importlib.import_module(next(home for home in homes if home.startswith("httpx")))


def _key_for_none(account: OpenAIAccount) -> str | None:
    """`openai` wants some key; a server that was named may well want none."""
    return "none" if account.base_url and not os.environ.get("OPENAI_API_KEY") else None


async def _stop_at_refusal(response: Any) -> None:
    status = response.status_code
    if 200 <= status < 300 or is_followed(status, str(response.request.url), response.headers.get("location")):
        return
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_REFUSAL_BYTES:
            break
    raise _Refusal(_ReadReply(status, response.headers, bytes(body)))
