"""JSON that is still being written, as far as it is known: for showing an answer while it is generated."""

from __future__ import annotations

import json
import re
from typing import Any

_SPACE = " \t\n\r"
_WORDS = {"true": True, "false": False, "null": None}
_SPACES = re.compile(rf"[{_SPACE}]*")
_ATOM = re.compile(r"[^\s,\]}]*")
_HIGH = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")
_LOW = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "/": "/"}


class _Nothing:
    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Any = _Nothing()  # no value has begun


class PartialJSON:
    """Reads one JSON value piece by piece, each character once.

    `value` only grows: texts, lists and objects are there from their first character, numbers and words when they are
    whole, a name with its value. Text that is no JSON stops the reading; what was read stays.
    """

    def __init__(self) -> None:
        self.value: Any = NOTHING
        self.broken = False
        self._text = ""  # what was not taken yet begins at `_at`
        self._at = 0
        self._open: list[Any] = []  # lists and objects, outermost first
        self._names: list[str | None] = []  # for each of them the name whose value is awaited
        self._string: list[str] | None = None  # pieces of the text that is being read
        self._is_name = False
        self._wants = "value"  # or: name, colon, next, nothing; "first" and "first name" where an end may come, too

    def feed(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0
        while self._at < len(self._text) and not self.broken:
            before = self._at, self._wants, self._string is None
            self._step()
            if (self._at, self._wants, self._string is None) == before:
                break  # more is needed
        if self._string is not None and not self._is_name:
            self._replace("".join(self._string))

    def finish(self) -> None:
        """Nothing more comes: a number at the end of the text is whole."""
        if self._wants == "value" and self._string is None and not self._open:
            self._atom(self._text[self._at :].strip(_SPACE))

    def _step(self) -> None:
        if self._string is not None:
            self._in_string(self._string)
            return
        self._at = _end(_SPACES, self._text, self._at)
        if self._at == len(self._text):
            return
        char = self._text[self._at]
        match self._wants:
            case "value" | "first":
                if char == "]" and self._wants == "first":
                    self._close()
                else:
                    self._begin_value(char)
            case "name" | "first name":
                if char == '"':
                    self._begin_string(is_name=True)
                elif char == "}" and self._wants == "first name":
                    self._close()
                else:
                    self.broken = True
            case "colon":
                self._take(char == ":", "value")
            case "next":
                self._next(char)
            case _:
                self.broken = True

    def _take(self, fits: bool, wants: str) -> None:
        self.broken = not fits
        self._at += 1
        self._wants = wants

    def _next(self, char: str) -> None:
        is_object = isinstance(self._open[-1], dict)
        if char == ("}" if is_object else "]"):
            self._close()
        else:
            self._take(char == ",", "name" if is_object else "value")

    def _begin_value(self, char: str) -> None:
        if char == '"':
            self._begin_string(is_name=False)
            self._put("")
        elif char in "{[":
            container: Any = {} if char == "{" else []
            self._put(container)
            self._open.append(container)
            self._names.append(None)
            self._take(True, "first name" if char == "{" else "first")
        else:
            end = _end(_ATOM, self._text, self._at)
            atom = self._text[self._at : end]
            if end < len(self._text) or atom in _WORDS:
                self._atom(atom)

    def _atom(self, atom: str) -> None:
        try:
            value: Any = _WORDS[atom] if atom in _WORDS else json.loads(atom, parse_constant=_refuse)
        except ValueError:
            self.broken = True
            return
        if isinstance(value, (str, list, dict)):
            self.broken = True
            return
        self._put(value)
        self._at += len(atom)
        self._after_value()

    def _begin_string(self, *, is_name: bool) -> None:
        self._string, self._is_name = [], is_name
        self._at += 1

    def _in_string(self, pieces: list[str]) -> None:
        end = _end(_PLAIN, self._text, self._at)
        pieces.append(self._text[self._at : end])
        self._at = end
        match self._text[end : end + 1]:
            case '"':
                self._at += 1
                self._end_string("".join(pieces))
            case "\\":
                self._escape(pieces)
            case "":
                pass
            case _:
                self.broken = True  # a control character

    def _escape(self, pieces: list[str]) -> None:
        text = self._text[self._at : self._at + 12]
        size = 2 if text[1:2] != "u" else 6
        if len(text) < size:
            return
        if size == 2:
            self.broken = text[1] not in _ESCAPES
            pieces.append(_ESCAPES.get(text[1], ""))
            self._at += size
            return
        if _HIGH.match(text):  # half of a character, if the other half follows
            rest = text[6:]
            if len(rest) < 6 and r"\u"[: len(rest)] == rest[:2]:
                return
            size = 12 if _LOW.match(rest) else 6
        try:
            pieces.append(json.loads(f'"{text[:size]}"'))
        except ValueError:
            self.broken = True
        self._at += size

    def _end_string(self, whole: str) -> None:
        self._string = None
        if self._is_name:
            self._names[-1] = whole
            self._wants = "colon"
        else:
            self._replace(whole)
            self._after_value()

    def _put(self, value: Any) -> None:
        if not self._open:
            self.value = value
        elif isinstance(self._open[-1], dict):
            self._open[-1][self._names[-1]] = value
        else:
            self._open[-1].append(value)

    def _replace(self, value: str) -> None:
        """The text that is being read has grown."""
        if self._open and isinstance(self._open[-1], list):
            self._open[-1][-1] = value
        else:
            self._put(value)

    def _close(self) -> None:
        self._open.pop()
        self._names.pop()
        self._at += 1
        self._after_value()

    def _after_value(self) -> None:
        self._wants = "next" if self._open else "nothing"


def _refuse(word: str) -> object:
    raise ValueError(word)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
