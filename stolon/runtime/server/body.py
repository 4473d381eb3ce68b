"""The body of a request: read within limits, and read strictly."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Iterator
from typing import Protocol, cast

from aiohttp import web

from .. import limits
from .errors import HttpError, clip, invalid
from .request import Request
from .settings import ServerConfig

JsonObject = dict[str, object]


async def read_object(request: Request, settings: ServerConfig) -> JsonObject:
    """The JSON object that `request` carries, within the size and the time of `settings`.

    Raises HttpError: 408 if it does not arrive in time, 413 if it is too large (also after decompression), 415 if it
    is not declared as JSON or is packed in an unknown way, 400 for whatever is not strict JSON.
    """
    if request.headers.get("Content-Type") != "application/json":
        _check_declared(request)
    if request.headers.get("Content-Encoding", "").lower() not in _ENCODINGS:
        raise unknown_encoding()
    return parse(await _read(request, settings.body_limit_bytes, settings.body_timeout_s))


# what aiohttp unpacks, the last two where their packages are installed: it refuses them by itself where they are not
_ENCODINGS = frozenset({"", "identity", "gzip", "deflate", "br", "zstd"})


def unknown_encoding() -> HttpError:
    message = "this Content-Encoding is not understood; send the body as it is, or as Content-Encoding: gzip"
    return HttpError(415, "unsupported_media_type", message, close=True)


def _check_declared(request: Request) -> None:
    """Raises HttpError unless the body is said to be JSON in UTF-8."""
    if request.content_type != "application/json":
        raise HttpError(415, "unsupported_media_type", "send the body as Content-Type: application/json")
    if (request.charset or "utf-8").lower().replace("_", "-") not in ("utf-8", "utf8", "us-ascii"):
        raise _not_json("body must be UTF-8")


async def _read(request: Request, limit_bytes: int, timeout_s: float) -> bytes:
    if (request.content_length or 0) > limit_bytes:
        raise _too_large(limit_bytes)
    content = request.content
    if content.is_eof() and content.exception() is None:
        # all of it came with the headers, as small bodies do: there is nothing to wait for
        body = content.read_nowait()
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        return body
    if request.headers.get("Expect", "").lower() == "100-continue":
        # aiohttp would say this before anyone has looked at the key
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        return await asyncio.wait_for(_gather(request, limit_bytes), timeout_s)
    except asyncio.TimeoutError:
        message = f"the request body did not arrive within {timeout_s:g} seconds"
        raise HttpError(408, "request_timeout", message, close=True) from None
    except web.RequestPayloadError as error:
        raise HttpError(400, "invalid_json", "the request body cannot be decoded", close=True) from error
    except ConnectionResetError as error:
        raise HttpError(
            400, "incomplete_body", "the client left before its request was complete", close=True
        ) from error


class _Counting(Protocol):
    """Our connections: how many bytes have come in."""

    received_bytes: int


async def _gather(request: Request, limit_bytes: int) -> bytes:
    connection = cast(_Counting, request.protocol)
    began = connection.received_bytes
    body = bytearray()
    while piece := await request.content.readany():
        body += piece
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        # a chunk costs the parser microseconds even if it brings one byte
        if connection.received_bytes - began > limits.CHUNKING * len(body) + limits.CHUNKING_FREE_BYTES:
            raise HttpError(400, "chunks_too_small", "the request body comes in too many small chunks", close=True)
    return bytes(body)


def _too_large(limit_bytes: int) -> HttpError:
    return HttpError(413, "request_too_large", f"the request body may have {limit_bytes} bytes", close=True)


def parse(raw: bytes) -> JsonObject:
    """Strict JSON: UTF-8 without a mark, no duplicate keys, no NaN, no lone surrogates, an object at the top."""
    if not raw.strip():
        raise _not_json("request body is empty")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _not_json("body must be UTF-8, without a byte order mark")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_json(f"body must be UTF-8; the byte at {error.start} is not") from None
    value = _loads(text)
    if not isinstance(value, dict):
        raise _not_json("request body must be a JSON object")
    found = cast(JsonObject, value)
    if is_deep(text, found):
        raise _too_deep()
    # only an escape can make a lone surrogate, so most bodies are spared the walk
    if "\\ud" in text or "\\uD" in text:
        _refuse_surrogates(found)
    return found


class _OddNumber(Exception):
    """What no number of a body may be; the message says why."""


def _whole(digits: str) -> int:
    if len(digits) > limits.DIGITS:
        raise _OddNumber("number too large")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _OddNumber("must be a finite number")
    return value


def _constant(name: str) -> float:
    raise _OddNumber(f"must be a finite number, got {name}")


def _loads(text: str) -> object:
    try:
        try:
            return _decode(text)
        except _OddNumber as odd:
            raise _odd_number(str(odd), text) from None
    except json.JSONDecodeError as error:
        raise _not_json(f"invalid JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> HttpError:
    return _not_json(f"nested too deeply; {limits.NESTING} lists and objects may be within each other")


def is_deep(text: str, value: object) -> bool:
    """Whether `value`, read from `text`, is nested beyond the limit, so that walks over it could not end well."""
    if text.count("[") + text.count("{") <= limits.NESTING:
        return False
    level: list[object] = [[value]]
    for _ in range(limits.NESTING + 1):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, (dict, list))]
    return bool(level)


def object_in(text: str) -> JsonObject | None:
    """The JSON object that `text`, arguments of a call, is; None if it is none, or one too deep to walk over."""
    try:
        found: object = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None
    return cast(JsonObject, found) if isinstance(found, dict) and not is_deep(text, cast(object, found)) else None


def _inside(value: object) -> Iterable[object]:
    return cast(JsonObject, value).values() if isinstance(value, dict) else cast("list[object]", value)


def _odd_number(why: str, text: str) -> HttpError:
    """The refusal of a number, which names its place. Raises JSONDecodeError if the rest of the body is no JSON."""
    value = _decode_any(text)
    path = next((path for path, leaf in _leaves(value) if isinstance(leaf, float) and not math.isfinite(leaf)), "")
    return invalid(f"{path or 'body'}: {why}", path or None)


def _without_duplicates(pairs: list[tuple[str, object]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise invalid(f"the key '{clip(twice)}' occurs twice", clip(twice), "duplicate_key")
    return found


# made once: a decoder costs more than a small body
_decode = json.JSONDecoder(
    parse_int=_whole, parse_float=_real, parse_constant=_constant, object_pairs_hook=_without_duplicates
).decode
# the same, but for numbers that are then looked for
_decode_any = json.JSONDecoder(
    parse_int=lambda digits: math.inf if len(digits) > limits.DIGITS else int(digits),
    object_pairs_hook=_without_duplicates,
).decode


def _refuse_surrogates(found: JsonObject) -> None:
    for path, leaf in _leaves(found):
        if isinstance(leaf, str) and any("\ud800" <= character <= "\udfff" for character in leaf):
            param = clip(path)
            raise invalid(f"{param or 'body'}: unpaired surrogate", param or None)


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every number, string and key with its dotted path, in order."""
    stack: list[tuple[str, object]] = [(path, value)]
    while stack:
        here, found = stack.pop()
        if isinstance(found, dict):
            items = cast(JsonObject, found)
            yield from ((here, key) for key in items)
            stack.extend((f"{here}.{key}" if here else key, items[key]) for key in reversed(items))
        elif isinstance(found, list):
            entries = cast("list[object]", found)
            stack.extend((f"{here}[{index}]", entries[index]) for index in reversed(range(len(entries))))
        else:
            yield here, found


def _not_json(message: str) -> HttpError:
    return invalid(message, None, "invalid_json")
