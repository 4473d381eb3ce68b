"""Which pages of other origins may read answers (CORS). By itself none may; the page at `/` is of the server's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ...lang.errors import InvalidRequest
from .settings import ServerConfig

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_METHODS = ("GET", "HEAD", "POST")
# headers that a browser lets any page send, by Fetch
_ALWAYS = frozenset({"accept", "accept-language", "content-language", "content-type"})
_ANY = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Sharing:
    """origins, methods, headers: who may ask how, or `*`; headers in small letters
    credentials: also with what a browser knows of the server, such as its password
    """

    origins: frozenset[str]
    methods: frozenset[str]
    headers: frozenset[str]
    credentials: bool

    @classmethod
    def of(cls, settings: ServerConfig) -> Sharing | None:
        """None: nobody else may. Raises InvalidRequest, which names the flag."""
        origins = _words("--allowed-origins", settings.allowed_origins)
        methods = _words("--allowed-methods", settings.allowed_methods)
        headers = _words("--allowed-headers", settings.allowed_headers)
        if not origins:
            rest = {
                "--allowed-methods": methods != ["*"],
                "--allowed-headers": headers != ["*"],
                "--allow-credentials": settings.allow_credentials,
            }
            if stray := next((name for name, given in rest.items() if given), None):
                raise InvalidRequest(f"{stray} says what other origins may; name them with --allowed-origins")
            return None
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                example = "an origin is * or as http://localhost:3000, without a path"
                raise InvalidRequest(f"--allowed-origins: {example}, got {origin[:80]!r}")
        upper = frozenset(method.upper() for method in methods)
        lower = frozenset(header.lower() for header in headers)
        return cls(frozenset(origins), upper, lower, settings.allow_credentials)

    def granted(self, asked: Mapping[str, str]) -> dict[str, str]:
        """Headers of the answer to a request with the headers `asked`."""
        if self.origins == _ANY and not self.credentials:
            found = {"Access-Control-Allow-Origin": "*"} if "Origin" in asked else {}
        else:
            # a cache must not give one origin's answer to another
            found = {"Vary": "Origin"}
            if self._knows(asked.get("Origin")):
                found["Access-Control-Allow-Origin"] = asked["Origin"]
        if "Access-Control-Allow-Origin" in found:
            found["Access-Control-Expose-Headers"] = "X-Request-Id, Retry-After"
            if self.credentials:
                found["Access-Control-Allow-Credentials"] = "true"
        return found

    def preflight(self, method: str, asked: Mapping[str, str]) -> dict[str, str] | None:
        """Headers of the answer to a browser that asks whether it may ask; None: that is no such question, or the
        answer is no."""
        wanted = asked.get("Access-Control-Request-Method")
        if method != "OPTIONS" or wanted is None or not self._knows(asked.get("Origin")):
            return None
        names = [name.strip() for name in asked.get("Access-Control-Request-Headers", "").split(",") if name.strip()]
        if self.methods != _ANY and wanted not in self.methods:
            return None
        if any(not _TOKEN.fullmatch(name) or not self._takes(name.lower()) for name in names):
            return None
        methods = _METHODS if self.methods == _ANY else sorted(self.methods)
        found = {"Access-Control-Allow-Methods": ", ".join(methods), "Access-Control-Max-Age": "600"}
        return {**found, "Access-Control-Allow-Headers": ", ".join(names)} if names else found

    def _knows(self, origin: str | None) -> bool:
        return origin is not None and ("*" in self.origins or origin in self.origins)

    def _takes(self, header: str) -> bool:
        return "*" in self.headers or header in self.headers or header in _ALWAYS


def _words(flag: str, given: Sequence[str]) -> list[str]:
    """Several words, or vLLM's JSON list of them."""
    if len(given) != 1 or not given[0].startswith("["):
        return list(given)
    try:
        found: Any = json.loads(given[0])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in cast("list[object]", found)):
        raise InvalidRequest(f"{flag} must be words, or a JSON list of strings, got {given[0][:80]!r}")
    return cast("list[str]", found)
