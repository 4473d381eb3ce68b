"""JSON as it streams, as events: for rewriting an answer while it arrives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

_SPACES = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_ATOM = re.compile(r"[^\s,\]}]*")
_WHOLE_ATOM = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_ESCAPE = re.compile(
    r'\\(?:["\\/bfnrt]|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})'
)
_LONGEST_ESCAPE = 12


class Event(NamedTuple):
    """text: the bracket, the raw name or atom, or a raw piece of a string that splits no escape"""

    kind: Literal["open", "close", "key", "string", "piece", "end string", "atom"]
    text: str = ""


class NotJSONError(ValueError):
    """The text is no JSON; the message says what was expected."""


class JSONEvents:
    """Reads one JSON value, each character once. Raises NotJSONError."""

    def __init__(self) -> None:
        self._text = ""  # what was not taken yet begins at `_at`
        self._at = 0
        self._open: list[str] = []
        self._name: list[str] | None = None  # pieces of the name that is being read
        self._expects = "value"  # or: first, key, first key, colon, next, string, end

    @property
    def is_over(self) -> bool:
        return self._expects == "end"

    def feed(self, text: str, *, last: bool = False) -> Iterator[Event]:
        """`last`: nothing follows, so that a number at the end of the text is whole."""
        self._text = self._text[self._at :] + text
        self._at = 0
        while True:
            if self._expects != "string":
                self._at = _end(_SPACES, self._text, self._at)
            if self._at == len(self._text):
                return
            event, before = None, (self._at, self._expects)
            match self._expects:
                case "string":
                    event = self._string()
                case "value" | "first":
                    event = self._value(last)
                case "key" | "first key":
                    event = self._key()
                case "colon":
                    self._take(":", "value")
                case "next":
                    event = self._next()
                case _:
                    raise NotJSONError("more follows the end of the JSON value")
            if event is not None:
                yield event
            elif before == (self._at, self._expects):
                return  # more is needed

    def _take(self, char: str, expects: str) -> None:
        if self._text[self._at] != char:
            raise NotJSONError(f"{char!r} was expected, got {self._text[self._at : self._at + 20]!r}")
        self._at += 1
        self._expects = expects

    def _value(self, last: bool) -> Event | None:
        char = self._text[self._at]
        if char == "]" and self._expects == "first":
            return self._close()
        if char == '"':
            self._take(char, "string")
            return Event("string")
        if char in "{[":
            self._open.append(char)
            self._take(char, "first key" if char == "{" else "first")
            return Event("open", char)
        end = _end(_ATOM, self._text, self._at)
        if end == len(self._text) and not last:
            return None
        atom = self._text[self._at : end]
        if not _WHOLE_ATOM.fullmatch(atom):
            raise NotJSONError(f"a JSON value was expected, got {self._text[self._at : self._at + 20]!r}")
        self._at = end
        self._after_value()
        return Event("atom", atom)

    def _key(self) -> Event | None:
        if self._text[self._at] == "}" and self._expects == "first key":
            return self._close()
        self._take('"', "string")
        self._name = []
        return None

    def _next(self) -> Event | None:
        if self._text[self._at] in "]}":
            return self._close()
        self._take(",", "key" if self._open[-1] == "{" else "value")
        return None

    def _close(self) -> Event:
        bracket = "}" if self._open[-1] == "{" else "]"
        self._take(bracket, "end")
        self._open.pop()
        self._after_value()
        return Event("close", bracket)

    def _string(self) -> Event | None:
        start = self._at
        while True:
            self._at = _end(_PLAIN, self._text, self._at)
            escape = _ESCAPE.match(self._text, self._at)
            if escape is None:
                break
            self._at = escape.end()
        piece = self._text[start : self._at]
        if piece:
            if self._name is None:
                return Event("piece", piece)
            self._name.append(piece)
            return None
        if self._text[self._at] == '"':
            return self._end_string()
        if self._text[self._at] != "\\" or len(self._text) - self._at >= _LONGEST_ESCAPE:
            raise NotJSONError(f"a text holds {self._text[self._at : self._at + 2]!r}, which is to be escaped")
        return None

    def _end_string(self) -> Event:
        self._at += 1
        if self._name is None:
            self._after_value()
            return Event("end string")
        name, self._name, self._expects = "".join(self._name), None, "colon"
        return Event("key", name)

    def _after_value(self) -> None:
        self._expects = "next" if self._open else "end"


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
