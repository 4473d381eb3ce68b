"""aiohttp as a transport: JSON to one server, bodies as bytes, no redirect away from where the key belongs."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urljoin

import aiohttp

from ..lang.errors import BackendError, BackendProtocolError, BackendTimeout, BackendUnavailable
from .addresses import checked_url, is_followed
from .exchange import ConnectionLostError, Reply
from .jsonvalue import Json
from .per_loop import PerLoop

_MAX_REDIRECTS = 3


@dataclass(frozen=True, slots=True)
class _Reply:
    response: aiohttp.ClientResponse

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self.response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self.response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLostError(str(error) or type(error).__name__) from error


class HTTPClient:
    """One session for each event loop it is used from.

    verify: None checks certificates against the system's authorities, a path against those in that file, False
        checks nothing
    headers: further ones, of every request
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        connect_s: float,
        verify: bool | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.base_url = checked_url(base_url)
        self._headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._headers |= headers or {}
        self._connect_s = connect_s
        self._ssl = ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify is not False
        self._sessions = PerLoop(self._new_session, aiohttp.ClientSession.close)

    @asynccontextmanager
    async def send(self, method: str, path: str, body: Json | None) -> AsyncGenerator[Reply, None]:
        response = await self._responded(method, self.base_url + path, body)
        try:
            yield _Reply(response)
        finally:
            # gives the connection back when the body was read to its end, and closes it otherwise
            response.release()

    async def close(self) -> None:
        await self._sessions.close()

    def shutdown(self) -> None:
        self._sessions.shutdown()

    async def _responded(self, method: str, url: str, body: Json | None) -> aiohttp.ClientResponse:
        session = self._sessions.here()
        for _ in range(_MAX_REDIRECTS):
            try:
                response = await session.request(
                    method, url, json=body, headers=self._headers, allow_redirects=False, ssl=self._ssl
                )
            except (aiohttp.ClientError, OSError) as error:
                raise self._no_answer(error) from error
            location = response.headers.get("location")
            if not is_followed(response.status, url, location):
                return response
            response.close()
            url = urljoin(url, location or "")
        raise BackendProtocolError(f"{self.base_url} redirects in circles")

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
            auto_decompress=False,
            trust_env=True,
        )

    def _no_answer(self, error: Exception) -> BackendError:
        cause = str(error) or type(error).__name__
        match error:
            case aiohttp.ServerTimeoutError():
                return BackendTimeout(f"no connection to {self.base_url} within {self._connect_s:g} s")
            case aiohttp.ClientConnectorError():
                return BackendUnavailable(
                    f"no server answers at {self.base_url} ({cause}); is `python -m stolon.launch_server` running?"
                )
            case aiohttp.ClientResponseError():
                return BackendProtocolError(f"{self.base_url} does not answer in HTTP: {cause}")
            case _:
                return BackendUnavailable(f"{self.base_url} closed the connection without an answer: {cause}")
