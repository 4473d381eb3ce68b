"""Python's literals as JSON, for models that write calls as Python. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable

from .calls import json_text

_MOST_NESTING = 64
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.])")
_WORD = re.compile(r"[A-Za-z]+")
_SPACES = re.compile(r"\s*")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
_WORDS: dict[str, object] = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_MOST_DIGITS = 400


def python_to_json(text: str) -> str | None:
    """The literal `text` as JSON; None if it is none, or one that JSON does not have."""
    try:
        value, end = _value(text, _skip(text, 0), 0)
        return json_text(value) if _skip(text, end) == len(text) else None
    except (ValueError, IndexError):
        return None


def _skip(text: str, at: int) -> int:
    found = _SPACES.match(text, at)
    return at if found is None else found.end()


def _value(text: str, at: int, depth: int) -> tuple[object, int]:
    """The value that begins at `at`, and where it ends. Raises ValueError or IndexError if there is none."""
    if depth > _MOST_NESTING:
        raise ValueError("nested too deeply")
    char = text[at]
    if char in "'\"":
        found = _STRING.match(text, at)
        if found is None:
            raise ValueError("a string without an end")
        return _unescaped(found[0][1:-1]), found.end()
    if char == "{":
        return _pairs(text, at + 1, depth)
    if char in "[(":
        return _items(text, at + 1, depth, "]" if char == "[" else ")")
    if found := _NUMBER.match(text, at):
        return _number(found[0]), found.end()
    if (found := _WORD.match(text, at)) and found[0] in _WORDS:
        return _WORDS[found[0]], found.end()
    raise ValueError("no literal")


def _number(text: str) -> int | float:
    if len(text) > _MOST_DIGITS:
        raise ValueError("a number too large")
    if text.lstrip("+-").isdigit():
        return int(text)
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number too large")
    return value


def _items(text: str, at: int, depth: int, close: str) -> tuple[list[object], int]:
    items: list[object] = []

    def item(at: int) -> int:
        value, end = _value(text, at, depth + 1)
        items.append(value)
        return end

    return items, _separated(text, at, close, item)


def _pairs(text: str, at: int, depth: int) -> tuple[dict[str, object], int]:
    pairs: dict[str, object] = {}

    def pair(at: int) -> int:
        key, end = _value(text, at, depth + 1)
        end = _skip(text, end)
        if not isinstance(key, str) or text[end] != ":":
            raise ValueError("JSON's keys are strings")
        pairs[key], end = _value(text, _skip(text, end + 1), depth + 1)
        return end

    return pairs, _separated(text, at, "}", pair)


def _separated(text: str, at: int, close: str, read: Callable[[int], int]) -> int:
    """Entries with commas between them, and perhaps after the last, up to `close`; returns where it ends."""
    at = _skip(text, at)
    while text[at] != close:
        at = _skip(text, read(at))
        if text[at] == ",":
            at = _skip(text, at + 1)
        elif text[at] != close:
            raise ValueError("no comma")
    return at + 1


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    found = _ESCAPE.sub(_character, text)
    # two escaped halves of a pair are one character; half a pair is none, and raises UnicodeError
    return found.encode("utf-16", "surrogatepass").decode("utf-16")


def _character(found: re.Match[str]) -> str:
    said = found[1]
    if said[0] in "xuU" and len(said) > 1:
        return chr(int(said[1:], 16))
    if said in _SIMPLE:
        return _SIMPLE[said]
    if said[0] in "01234567":
        return chr(int(said, 8))
    return said if said in "\\'\"" else f"\\{said}"
