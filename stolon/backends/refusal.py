"""What a server says when it will not answer, as the language's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from ..lang.errors import (
    BackendError,
    BackendRequestError,
    BackendTimeout,
    BackendUnavailable,
    OverloadedError,
)
from .jsonvalue import as_object

_MESSAGE_CHARACTERS = 2_000
_PASSING_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504, 529})  # the last is Anthropic's: overloaded
# these come with status 429 and do not pass by waiting
_LASTING_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


def error_from_status(status: int, headers: Mapping[str, str], body: str) -> BackendError:
    if 300 <= status < 400:
        where = headers.get("location", "nowhere")[:200]
        return BackendRequestError(
            f"the server redirects to {where} (status {status}), which is not followed; use that as base URL "
            "if you trust it",
            status=status,
        )
    message, code = _message_of(body)
    message = f"the server answered with status {status}: {message}"
    if status in _PASSING_STATUSES and code not in _LASTING_CODES:
        wait_s = retry_after_s(headers)
        if status == 429 or wait_s is not None:
            return OverloadedError(message, retry_after_s=wait_s)
        if status == 408:
            return BackendTimeout(message)
        if status >= 500:
            return BackendUnavailable(message)
    return BackendRequestError(message, status=status)


def error_from_object(error: object) -> BackendError:
    """For an error object inside an answer whose status was 200."""
    message, code = _message_in(error)
    message = f"the server reports an error: {message}"
    fields = as_object(error) or {}
    status = fields.get("code", fields.get("status_code"))
    if isinstance(status, int) and 400 <= status < 600:
        return error_from_status(status, {}, json.dumps({"error": {"message": message, "code": code}}))
    if code in ("rate_limit_exceeded", "overloaded", "server_overloaded"):
        return OverloadedError(message)
    return BackendError(message)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long the server asks to wait: seconds, or a date; None if it does not say so in a way that can be read."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        due = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if due.tzinfo is None:
        due = due.replace(tzinfo=timezone.utc)
    return max((due - datetime.now(timezone.utc)).total_seconds(), 0.0)


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None  # NaN fails both


def _message_of(body: str) -> tuple[str, str | None]:
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return (body.strip()[:_MESSAGE_CHARACTERS] or "no message", None)
    return _message_in((as_object(value) or {}).get("error", value))


def _message_in(error: object) -> tuple[str, str | None]:
    fields = as_object(error)
    if fields is None:
        return str(error)[:_MESSAGE_CHARACTERS], None
    code = fields.get("code")
    message = fields.get("message") or fields.get("detail") or json.dumps(fields)
    return str(message)[:_MESSAGE_CHARACTERS], None if code is None else str(code)
