"""Errors as clients see them: one JSON shape, whatever failed and on whatever route."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from aiohttp import web

from ...lang.errors import (
    BackendTimeout,
    BackendUnavailable,
    EngineClosedError,
    EngineError,
    InvalidRequest,
    OverloadedError,
    UnsupportedError,
)
from .. import limits


@dataclass(slots=True, eq=False)
class HttpError(Exception):
    """An answer that is an error; raised anywhere below a route.

    retry_after_s: sent as a header, in whole seconds; close: the connection ends with this answer
    """

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    close: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.message


def invalid(message: str, param: str | None, code: str = "invalid_value") -> HttpError:
    """The request is at fault: 400."""
    return HttpError(400, code, message, param)


def unavailable(message: str, code: str = "engine_unavailable") -> HttpError:
    return HttpError(503, code, message, retry_after_s=5)


def overloaded(message: str, retry_after_s: float | None = None) -> HttpError:
    return HttpError(503, "overloaded", message, retry_after_s=retry_after_s or 1)


def shutting_down() -> HttpError:
    return HttpError(503, "shutting_down", "the server is shutting down", retry_after_s=5, close=True)


def from_exception(error: Exception) -> HttpError | None:
    """What a client is told about `error`; None if nobody foresaw it (it is then a fault of ours)."""
    match error:
        case HttpError():
            return error
        case UnsupportedError():
            return HttpError(400, error.code or "unsupported_parameter", str(error), error.param)
        case InvalidRequest():
            return HttpError(400, error.code or "invalid_value", str(error), error.param)
        case OverloadedError():
            return overloaded(str(error), error.retry_after_s)
        case BackendTimeout():
            return HttpError(504, "timeout", str(error))
        case EngineClosedError() | BackendUnavailable():
            return unavailable(str(error))
        case EngineError(code="engine_error"):
            return None  # its text is for the log
        case EngineError(code="out_of_memory"):
            return unavailable(str(error), error.code)  # of too much at once: the next may fit
        case EngineError():
            return HttpError(500, error.code, str(error))
        case _:
            return None


def internal() -> HttpError:
    """What is said about a fault of ours: nothing about the inside; the log has the rest."""
    return HttpError(500, "internal_error", "the server failed at this request; its log says why")


def clip(text: str) -> str:
    """The start of what a client sent, short enough and safe to repeat to it."""
    if len(text) > limits.ECHO_CHARACTERS:
        text = text[: limits.ECHO_CHARACTERS] + "…"
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def kind_of(error: HttpError) -> str:
    match error.status:
        case 401:
            return "authentication_error"
        case 429:
            return "rate_limit_error"
        case 503:
            return "overloaded_error"
        case status if status >= 500:
            return "server_error"
        case _:
            return "invalid_request_error"


def body(error: HttpError) -> bytes:
    """The JSON of an error, also as it stands in a stream. At most 4 KiB."""
    message = error.message
    if len(message) > limits.ERROR_CHARACTERS:
        message = message[: limits.ERROR_CHARACTERS] + "…"
    # a control character would take six bytes in JSON
    message = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in message)
    param = None if error.param is None else clip(error.param)
    content = {"message": message, "type": kind_of(error), "param": param, "code": error.code}
    encoded = json.dumps({"error": content}, ensure_ascii=False).encode()
    assert len(encoded) <= 4096
    return encoded


def response(error: HttpError) -> web.Response:
    answer = web.Response(status=error.status, body=body(error), content_type="application/json")
    for name, value in error.headers:
        answer.headers[name] = value
    if error.retry_after_s is not None:
        answer.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.close:
        answer.force_close()
    return answer
