"""Who may call. Every matched route needs the key, except those in `OPEN`; the operator's need the admin key."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from aiohttp import web

from .errors import HttpError

# the page is the same bytes for everybody: what it shows it asks for, with the key that its user types
OPEN = frozenset({"/health", "/ready", "/"})
OPERATOR = frozenset({"/flush_cache"})
IS_ADMIN = web.RequestKey("is_admin", bool)


@dataclass(frozen=True, slots=True)
class Keys:
    """What is kept of the keys. user: None where nobody is asked for one; admin: None where there is none of its own,
    so that whoever may call may do what the operator may, except read what others sent
    """

    user: bytes | None = None
    admin: bytes | None = None


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def admit(request: web.Request, keys: Keys) -> None:
    """Raises HttpError 401 unless the request carries a key that opens its route; reads nothing of the body.

    Decided on the route that was matched, never on what the request says its address is. Sets IS_ADMIN.
    """
    given = _given(request)
    is_admin = keys.admin is not None and hmac.compare_digest(given, keys.admin)
    request[IS_ADMIN] = is_admin
    resource = request.match_info.route.resource
    route = None if resource is None else resource.canonical
    if is_admin or route in OPEN:
        return
    if route in OPERATOR and keys.admin is not None:
        raise _refusal("this route is the operator's: send the server's admin key as `Authorization: Bearer KEY`")
    if keys.user is not None and not hmac.compare_digest(given, keys.user):
        raise _refusal("send the server's key as `Authorization: Bearer KEY`")


def _given(request: web.Request) -> bytes:
    """Of the key that came; Anthropic's clients have a header of their own for it."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return digest(key.strip(" "))
    return digest(request.headers.get("X-Api-Key", "")) if not scheme else b""


def _refusal(message: str) -> HttpError:
    return HttpError(401, "invalid_api_key", message, close=True, headers=(("WWW-Authenticate", "Bearer"),))
