"""Who may call. Every matched route needs the key, except those in `OPEN`; the operator's need the admin key."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from .errors import HttpError
from .request import Request

# the page is the same bytes for everybody: what it shows it asks for, with the key that its user types
OPEN = frozenset({"/health", "/ping", "/ready", "/"})
OPERATOR = frozenset({"/flush_cache", "/reset_prefix_cache"})


@dataclass(frozen=True, slots=True)
class Keys:
    """What is kept of the keys. users: empty where nobody is asked for one; admin: None where there is none of its own,
    so that whoever may call may do what the operator may, except read what others sent
    """

    users: tuple[bytes, ...] = ()
    admin: bytes | None = None


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def admit(request: Request, keys: Keys) -> None:
    """Raises HttpError 401 unless the request carries a key that opens its route; reads nothing of the body.

    Decided on the route that was matched, never on what the request says its address is. Sets
    `is_admin`, `may_operate` and `caller`.
    """
    if not keys.users and keys.admin is None:
        return
    given = _given(request)
    is_admin = keys.admin is not None and hmac.compare_digest(given, keys.admin)
    request.caller = given.hex()
    request.is_admin = is_admin
    request.may_operate = is_admin or keys.admin is None
    if is_admin or request.route in OPEN:
        return
    if request.route in OPERATOR:
        operators_only(request)
    # all of them, so that the time tells nothing of which it was
    if keys.users and not sum(hmac.compare_digest(given, key) for key in keys.users):
        raise _refusal("send the server's key as `Authorization: Bearer KEY`")


def operators_only(request: Request) -> None:
    """Raises HttpError 401 unless the request may do what the operator may."""
    if not request.may_operate:
        raise _refusal("this is the operator's: send the server's admin key as `Authorization: Bearer KEY`")


def _given(request: Request) -> bytes:
    """Of the key that came; Anthropic's clients have a header of their own for it."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return digest(key.strip(" "))
    return digest(request.headers.get("X-Api-Key", "")) if not scheme else b""


def _refusal(message: str) -> HttpError:
    return HttpError(401, "invalid_api_key", message, close=True, headers=(("WWW-Authenticate", "Bearer"),))
