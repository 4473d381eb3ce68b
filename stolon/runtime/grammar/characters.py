"""How a pattern writes a character or a set of them: escapes and sets in brackets, as in Python's `re`."""

from __future__ import annotations

import re
import sys
import unicodedata
from itertools import chain
from string import hexdigits
from typing import NoReturn

from ...lang.errors import InvalidRequest
from .charset import Ranges, complement, meaning, union

_SIMPLE = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a"}
_ASCII: dict[str, Ranges] = {
    "d": ((0x30, 0x39),),
    "s": ((0x09, 0x0D), (0x20, 0x20)),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
}
_HEX = {"x": 2, "u": 4, "U": 8}
_OCTAL = re.compile(r"0[0-7]{0,2}|[0-3][0-7]{2}")
_NAME = re.compile(r"N\{([^}]+)\}")


def fail_at(pattern: str, position: int, what: str, code: str = "invalid_regex") -> NoReturn:
    around = pattern[max(position - 10, 0) : position + 20]
    raise InvalidRequest(f"regex: {what} at position {position} (in {around!r})", param="regex", code=code)


class CharacterReader:
    """A place in a pattern, and the characters that what stands there means."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0

    def fail(self, what: str, position: int | None = None, code: str = "invalid_regex") -> NoReturn:
        fail_at(self.pattern, self.position if position is None else position, what, code)

    def peek(self) -> str:
        return self.pattern[self.position : self.position + 1]

    def escape(self, flags: str, *, in_class: bool = False) -> Ranges:
        """The characters of the escape that begins here, which is then behind us."""
        at = self.position
        char = self.pattern[at + 1 : at + 2]
        self.position += 2
        if char and char in "dDsSwW":
            ranges = _ASCII[char.lower()] if "a" in flags else meaning(f"\\{char.lower()}", "")
            return ranges if char.islower() else complement(ranges)
        if in_class and char == "b":
            return ((8, 8),)
        if char in _SIMPLE:
            return ((ord(_SIMPLE[char]), ord(_SIMPLE[char])),)
        if char in _HEX:
            return self.hex_code(at + 2, _HEX[char])
        if (named := _NAME.match(self.pattern, at + 1)) is not None:
            return self.named(named)
        if (octal := _OCTAL.match(self.pattern, at + 1)) is not None:
            self.position = octal.end()
            return ((int(octal[0], 8), int(octal[0], 8)),)
        if char.isdigit() and not in_class:
            self.fail("a back-reference is not supported", at)
        if char and char in "bB":
            self.fail("a word boundary is not supported", at)
        if not char or (char.isascii() and char.isalnum()):
            self.fail(f"the escape \\{char} is not known", at)
        return ((ord(char), ord(char)),)

    def hex_code(self, start: int, count: int) -> Ranges:
        digits = self.pattern[start : start + count]
        if len(digits) != count or not set(digits) <= set(hexdigits) or int(digits, 16) > sys.maxunicode:
            self.fail("an unfinished or too large escape", start - 2)
        self.position = start + count
        return ((int(digits, 16), int(digits, 16)),)

    def named(self, found: re.Match[str]) -> Ranges:
        self.position = found.end()
        try:
            code = ord(unicodedata.lookup(found[1]))
        except (KeyError, TypeError):
            self.fail(f"no character is called {found[1][:50]!r}", found.start() - 1)
        return ((code, code),)

    def char_class(self, flags: str) -> Ranges:
        at = self.position
        self.position += 1
        if self.peek() == "[":
            self.fail("a set within a set is not supported (write \\[ for the character)")
        negated = self.peek() == "^"
        self.position += negated
        items: dict[Ranges, None] = {}  # large ones are often named again
        first = True
        while first or self.peek() != "]":
            if not self.peek():
                self.fail("a set without end", at)
            items[self.class_item(flags)] = None
            first = False
        self.position += 1
        ranges = union(chain.from_iterable(items))
        return complement(ranges) if negated else ranges

    def class_item(self, flags: str) -> Ranges:
        low = self.class_char(flags)
        after = self.pattern[self.position + 1 : self.position + 2]
        if self.peek() != "-" or after in ("", "]"):
            return low
        at = self.position
        if after == "-":
            self.fail("-- in a set is not supported (write \\- for the character)")
        self.position += 1
        high = self.class_char(flags)
        if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or high[0][0] < low[0][0]:
            self.fail("a bad range of characters", at)
        return ((low[0][0], high[0][1]),)

    def class_char(self, flags: str) -> Ranges:
        char = self.peek()
        if char == "\\":
            return self.escape(flags, in_class=True)
        if char in "-&~|" and self.pattern[self.position + 1 : self.position + 2] == char:
            self.fail(f"{char * 2} in a set is not supported (write \\{char} for the character)")
        self.position += 1
        return ((ord(char), ord(char)),)
