"""JSON checked character by character, so that well-formed text can be passed on before its end is there."""

from __future__ import annotations

import re
from typing import Literal

_Expect = Literal["value", "first value", "key", "first key", "colon", "comma", "string", "escape", "hex", "word"]

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SPACES = re.compile(r"[ \t\n\r]+")
_WORD = re.compile(r"[-+.0-9A-Za-z]+")
_WHOLE_WORD = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_MOST_OF_A_WORD = 400  # digits; longer numbers are no use to anyone


class JsonScanner:
    """Reads one JSON value: "inside" until it is "done", or until it goes "bad"."""

    def __init__(self) -> None:
        self.state: Literal["inside", "done", "bad"] = "inside"
        self._expect: _Expect = "value"
        self._open: list[str] = []  # brackets that wait for their partner
        self._is_key = False  # of the string that is being read
        self._left = 0  # hexadecimal digits of an escape
        self._word = ""

    def scan(self, text: str, at: int) -> int:
        """Read on from `at`; returns where reading stopped: the end of the text or of the value, or what is wrong."""
        size = len(text)
        while at < size and self.state == "inside":
            end = self._step(text, at)
            if end == at and self.state == "inside":
                continue  # a number or a word ended; the character counts for what is outside it
            at = end
        return at

    def _step(self, text: str, at: int) -> int:
        """One run of characters of the same kind."""
        match self._expect:
            case "string":
                return self._string(text, at)
            case "word":
                return self._words(text, at)
            case "escape":
                return self._escape(text[at], at)
            case "hex":
                return self._hex(text[at], at)
            case _:
                found = _SPACES.match(text, at)
                return found.end() if found else self._outside(text[at], at)

    def _string(self, text: str, at: int) -> int:
        found = _PLAIN.match(text, at)
        if found:
            return found.end()
        char = text[at]
        if char == '"':
            if self._is_key:
                self._expect = "colon"
            else:
                self._close_value()
            return at + 1
        if char != "\\":
            return self._fail(at)
        self._expect = "escape"
        return at + 1

    def _escape(self, char: str, at: int) -> int:
        if char == "u":
            self._expect, self._left = "hex", 4
        elif char in '"\\/bfnrt':
            self._expect = "string"
        else:
            return self._fail(at)
        return at + 1

    def _hex(self, char: str, at: int) -> int:
        if char not in "0123456789abcdefABCDEF":
            return self._fail(at)
        self._left -= 1
        if not self._left:
            self._expect = "string"
        return at + 1

    def _words(self, text: str, at: int) -> int:
        found = _WORD.match(text, at)
        if found:
            self._word += found[0]
            return found.end() if len(self._word) <= _MOST_OF_A_WORD else self._fail(at)
        if not _WHOLE_WORD.fullmatch(self._word):
            return self._fail(at)
        self._close_value()
        return at

    def _outside(self, char: str, at: int) -> int:
        """Outside of strings and words, and no white space."""
        expect = self._expect
        if expect in ("value", "first value"):
            if char == "]" and expect == "first value":
                self._close_bracket()
            elif not self._begin_value(char):
                return self._fail(at)
        elif expect in ("key", "first key"):
            if char == '"':
                self._expect, self._is_key = "string", True
            elif char == "}" and expect == "first key":
                self._close_bracket()
            else:
                return self._fail(at)
        elif expect == "colon":
            if char != ":":
                return self._fail(at)
            self._expect = "value"
        elif char == ",":
            self._expect = "key" if self._open[-1] == "{" else "value"
        elif char == ("}" if self._open[-1] == "{" else "]"):
            self._close_bracket()
        else:
            return self._fail(at)
        return at + 1

    def _begin_value(self, char: str) -> bool:
        if char == '"':
            self._expect, self._is_key = "string", False
        elif char in "{[":
            self._open.append(char)
            self._expect = "first key" if char == "{" else "first value"
        elif char in "-tfn" or char in "0123456789":
            self._expect, self._word = "word", char
        else:
            return False
        return True

    def _close_bracket(self) -> None:
        self._open.pop()
        self._close_value()

    def _close_value(self) -> None:
        self._expect = "comma"
        if not self._open:
            self.state = "done"

    def _fail(self, at: int) -> int:
        self.state = "bad"
        return at
