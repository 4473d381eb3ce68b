"""How much a chat template may take: bounds on time and on the size of what its operators and filters make.

Jinja's sandbox keeps templates from the interpreter, not from the machine: `'a' * 999999999` or a loop in a loop
passes.
Here every call, every turn of a loop and every operator that can grow a value is checked before it is done.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from time import monotonic
from typing import Any, cast

MAX_SIZE = 16 * 1024 * 1024  # characters or items of one value, and characters of the whole output
MAX_WIDTH = 10_000  # of padding, of a line, of a batch
_MAX_BITS = 4096  # of a number

_WIDTH_IN_FORMAT = re.compile(r"%[^%A-Za-z]*(?:\d{5}|\*)|\{[^{}]*:[^{}]*(?:\d{5}|\{)")
_SIZED = (str, list, tuple)
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_WIDE_FILTERS = ("batch", "center", "indent", "slice", "tojson", "truncate", "wordwrap")


class LimitExceeded(Exception):
    """A template asked for more time or memory than it may have."""


class Deadline:
    """When a rendering must be done."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = monotonic() + seconds

    def check(self) -> None:
        if monotonic() > self._end:
            raise LimitExceeded(f"it takes more than {self._seconds:g} s")


def check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise LimitExceeded(f"it makes a value of {size} characters or items; {MAX_SIZE} are allowed")


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raise LimitExceeded if `left operator right` would be too large."""
    if operator == "%" and isinstance(left, str):
        _check_format(left)
    elif operator == "+" and isinstance(left, _SIZED) and isinstance(right, _SIZED):
        check_size(_size(left) + _size(right))
    elif operator == "*" and isinstance(left, _SIZED) and isinstance(right, int):
        check_size(_size(left) * right)
    elif operator == "*" and isinstance(left, int) and isinstance(right, _SIZED):
        check_size(left * _size(right))
    elif isinstance(left, int) and isinstance(right, int) and operator in ("*", "**"):
        bits = left.bit_length() * max(right, 0) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_BITS:
            raise LimitExceeded(f"a number of {bits} bits; {_MAX_BITS} are allowed")


def check_method(method: Any, args: tuple[Any, ...]) -> None:
    """Raise LimitExceeded if calling a string's method would make too large a string."""
    method = getattr(method, "__wrapped__", method)  # the sandbox wraps str.format
    text = getattr(method, "__self__", None)
    name: str = getattr(method, "__name__", "")
    if name in ("format", "format_map") and isinstance(text, str):
        _check_format(text)
    elif isinstance(text, str):
        _check_text(name, text, args)


def bounded_filters(filters: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Those of jinja's filters that can grow a value, made to check first."""
    bounded = {name: _narrow(filters[name]) for name in _WIDE_FILTERS}
    bounded["replace"] = _checked(filters["replace"], 1, _check_replace)
    bounded["join"] = _checked(filters["join"], 1, _check_join)
    bounded["format"] = _checked(filters["format"], 0, _check_format)
    return bounded


def _narrow(inner: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(inner)  # takes along what jinja has written on the function
    def checked(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, int) and abs(value) > MAX_WIDTH and value is not args[0]:
                raise LimitExceeded(f"{inner.__name__} with {value}; at most {MAX_WIDTH} is allowed")
        return inner(*args, **kwargs)

    return checked


def _checked(inner: Callable[..., Any], skip: int, check: Callable[..., None]) -> Callable[..., Any]:
    """skip: how many arguments jinja itself puts in front"""

    @wraps(inner)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            raise LimitExceeded(f"{inner.__name__} with named arguments; name none")
        check(*args[skip:])
        return inner(*args)

    return checked


def _check_text(name: str, text: str, args: tuple[Any, ...]) -> None:
    if name in _PADDING and args and isinstance(args[0], int):
        check_size(len(text) + max(args[0], 0) * (text.count("\t") if name == "expandtabs" else 1))
    elif name == "replace":
        _check_replace(text, *args)
    elif name == "join" and args:
        _check_join(args[0], text)


def _check_replace(text: Any, old: Any = "", new: Any = "", *_: Any) -> None:
    check_size(len(str(text)) + str(text).count(str(old)) * len(str(new)))


def _check_join(items: Any, between: Any = "", *_: Any) -> None:
    if isinstance(items, (list, tuple)):
        texts = [item for item in cast("list[Any]", items) if isinstance(item, str)]
        check_size(sum(map(len, texts)) + len(str(between)) * _size(items))


def _check_format(text: Any, *_: Any) -> None:
    if isinstance(text, str) and _WIDTH_IN_FORMAT.search(text):
        raise LimitExceeded(f"a format with a width of more than {MAX_WIDTH}, or one that is not written out")


def _size(value: Any) -> int:
    return len(value)
