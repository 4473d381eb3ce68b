"""Who may call. Every matched route needs the key, except those that `OPEN` names."""

from __future__ import annotations

import hashlib
import hmac

from aiohttp import web

from .errors import HttpError

OPEN = frozenset({"/health", "/ready"})


def digest(key: str) -> bytes:
    """What is kept of the key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_open(request: web.Request) -> bool:
    """Decided on the route that was matched, never on what the request says its address is."""
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in OPEN


def check(request: web.Request, expected: bytes) -> None:
    """Raises HttpError 401 unless the request carries the key; reads nothing of the body."""
    header = request.headers.get("Authorization", "")
    scheme, _, key = header.partition(" ")
    is_right = hmac.compare_digest(digest(key.strip(" ")), expected)
    if scheme.lower() != "bearer" or not is_right:
        raise HttpError(
            401,
            "invalid_api_key",
            "send the server's key as `Authorization: Bearer KEY`",
            close=True,
            headers=(("WWW-Authenticate", "Bearer"),),
        )
