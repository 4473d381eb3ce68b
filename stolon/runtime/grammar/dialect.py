"""Regular expressions as users write them: Python's `re`, of which the answer has to be a full match.

What is regular is taken; look-around, back-references, word boundaries, atomic groups and possessive repeats are not
regular, or not what the other engines mean, and are refused with their position. Lazy repeats are taken: of a full
match they ask the same. Anchors are taken at the ends of the pattern, where they say nothing new.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from itertools import chain
from string import hexdigits
from typing import NoReturn

from ...lang.errors import InvalidRequest
from .charset import EVERY, Ranges, case_folded, complement, meaning, sayable, union

MAX_PATTERN = 65_536  # characters
MAX_DEPTH = 100  # groups within groups
MAX_REPEAT = 10_000

_SIMPLE = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a"}
_HEX = {"x": 2, "u": 4, "U": 8}
_REPEAT = re.compile(r"([*+?])|\{(\d*)(?:(,)(\d*))?\}")
_FLAGS = re.compile(r"\(\?([aimsux]*)(?:-([imsx]+))?([:)])")
_NAMED = re.compile(r"\(\?P<(\w+)>")
_COMMENT = re.compile(r"\(\?#[^)]*\)")
_OCTAL = re.compile(r"0[0-7]{0,2}|[0-3][0-7]{2}")
_NAME = re.compile(r"N\{([^}]+)\}")
_REFUSED = (
    ("(?=", "look-ahead"),
    ("(?!", "look-ahead"),
    ("(?<=", "look-behind"),
    ("(?<!", "look-behind"),
    ("(?>", "an atomic group"),
    ("(?(", "a conditional group"),
    ("(?P=", "a back-reference"),
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One character out of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Chain:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """No options: nothing matches."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`part`, at least `low` times and at most `high` times (None: as often as one likes)."""

    part: Node
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """Gone from what `parse` returns."""

    at_start: bool
    position: int


Node = Leaf | Chain | Choice | Repeat | Anchor

EMPTY = Chain(())
NEVER = Choice(())


def parse(pattern: str) -> Node:
    """The pattern without anchors. NEVER stands nowhere inside; it is the whole where no text matches.

    Raises InvalidRequest, with the position, for what is wrong, not supported or too large.
    """
    if len(pattern) > MAX_PATTERN:
        raise InvalidRequest(
            f"a regex may have {MAX_PATTERN} characters, got {len(pattern)}; shorten it", param="regex", code="regex"
        )
    tree = _Parser(pattern).parse()
    return _resolved(tree, pattern, at_start=True, at_end=True)


def _fail(pattern: str, position: int, what: str) -> NoReturn:
    around = pattern[max(position - 10, 0) : position + 20]
    raise InvalidRequest(f"regex: {what} at position {position} (in {around!r})", param="regex", code="regex")


class _Parser:
    """Descends by groups. Takes no pattern that `re` does not, without asking it: that is slow for large sets."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0
        self.depth = 0
        self.names: set[str] = set()
        self.flags_end = 0  # of the flags for the whole pattern

    def parse(self) -> Node:
        tree = self.choice("")
        if self.position < len(self.pattern):
            self.fail("an unbalanced ')'")
        return tree

    def fail(self, what: str, position: int | None = None) -> NoReturn:
        _fail(self.pattern, self.position if position is None else position, what)

    def peek(self) -> str:
        return self.pattern[self.position : self.position + 1]

    def choice(self, flags: str) -> Node:
        options: list[Node] = []
        while True:
            part, flags = self.chain(flags)
            options.append(part)
            if self.peek() != "|":
                return options[0] if len(options) == 1 else Choice(tuple(options))
            self.position += 1

    def chain(self, flags: str) -> tuple[Node, str]:
        """One branch, and the flags that hold after it: those that stand at the pattern's beginning hold for all."""
        parts: list[Node] = []
        while (char := self.peek()) and char not in "|)":
            if (comment := _COMMENT.match(self.pattern, self.position)) is not None:
                self.position = comment.end()
            elif char == "(":
                part, flags = self.group(flags)
                parts.append(self.repeated(part) if self.flags_end != self.position else EMPTY)
            else:
                parts.append(self.repeated(self.atom(char, flags)))
        return (parts[0] if len(parts) == 1 else Chain(tuple(parts))), flags

    def group(self, flags: str) -> tuple[Node, str]:
        for start, what in _REFUSED:
            if self.pattern.startswith(start, self.position):
                self.fail(f"{what} is not supported")
        inner = flags
        if (found := _FLAGS.match(self.pattern, self.position)) is not None:
            on, off, closing = found[1], found[2] or "", found[3]
            if {"a", "u"} <= set(on) or set(on) & set(off) or (closing == ")" and (off or not on)):
                self.fail("a bad combination of flags")
            if "x" in on + off:
                self.fail("the verbose flag is not supported")
            inner = self.changed(flags, on, off)
            self.position = found.end()
            if closing == ")":
                if found.start() != self.flags_end:
                    self.fail("flags for the whole pattern stand at its beginning", found.start())
                self.flags_end = self.position
                return EMPTY, inner
        elif (named := _NAMED.match(self.pattern, self.position)) is not None:
            if named[1] in self.names or not named[1].isidentifier():
                self.fail("a bad name of a group, or one that is used twice")
            self.names.add(named[1])
            self.position = named.end()
        elif self.pattern.startswith("(?", self.position):
            self.fail("an unknown kind of group")
        else:
            self.position += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"more than {MAX_DEPTH} groups within each other")
        part = self.choice(inner)
        if self.peek() != ")":
            self.fail("a group without end")
        self.position += 1
        self.depth -= 1
        return part, flags

    @staticmethod
    def changed(flags: str, on: str, off: str) -> str:
        """m and u mean nothing here: anchors stand at the ends only, and text is Unicode."""
        kept = (set(flags) | (set(on) & set("ais"))) - set(off) - ({"a"} if "u" in on else set())
        return "".join(sorted(kept))

    def repeated(self, part: Node) -> Node:
        found = self.repeat_mark()
        if found is None:
            return part
        at = self.position
        match found[1]:
            case "*":
                low, high = 0, None
            case "+":
                low, high = 1, None
            case "?":
                low, high = 0, 1
            case _:
                low, high = self.bounds(found)
        self.position = found.end()
        if self.peek() == "+":
            self.fail("a possessive repeat is not supported", at)
        if self.peek() == "?":
            self.position += 1
        if self.repeat_mark() is not None:
            self.fail("multiple repeat")
        return Repeat(part, low, high)

    def repeat_mark(self) -> re.Match[str] | None:
        found = _REPEAT.match(self.pattern, self.position)
        return None if found is None or found[0] == "{}" else found

    def bounds(self, found: re.Match[str]) -> tuple[int, int | None]:
        if max(len(found[2]), len(found[4] or "")) > 18:
            self.fail(f"a repeat of more than {MAX_REPEAT} times is not supported")
        low = int(found[2] or 0)
        high = (int(found[4]) if found[4] else None) if found[3] else low
        if max(low, high or 0) > MAX_REPEAT:
            self.fail(f"a repeat of more than {MAX_REPEAT} times is not supported")
        if high is not None and low > high:
            self.fail("min repeat greater than max repeat")
        return low, high

    def atom(self, char: str, flags: str) -> Node:
        start = self.position
        if char == "^" or self.pattern.startswith("\\A", start):
            self.position += len(char) if char == "^" else 2
            return Anchor(at_start=True, position=start)
        if char == "$" or self.pattern.startswith(("\\Z", "\\z"), start):
            self.position += 1 if char == "$" else 2
            return Anchor(at_start=False, position=start)
        if char == "[":
            ranges = self.char_class(flags)
        elif char == "\\":
            ranges = self.escape(flags)
        elif char == ".":
            self.position += 1
            ranges = EVERY if "s" in flags else complement(((10, 10),))
        elif self.repeat_mark() is not None:
            self.fail("nothing to repeat")
        else:
            self.position += 1
            ranges = ((ord(char), ord(char)),)
        if "i" in flags and char != ".":
            ranges = case_folded(self.pattern[start : self.position], flags, sayable(ranges))
        return Leaf(sayable(ranges))

    def escape(self, flags: str, *, in_class: bool = False) -> Ranges:
        """The characters of the escape that begins here, which is then behind us."""
        at = self.position
        char = self.pattern[at + 1 : at + 2]
        self.position += 2
        if char and char in "dDsSwW":
            ranges = meaning(f"\\{char.lower()}", "a" if "a" in flags else "")
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


def _resolved(node: Node, pattern: str, *, at_start: bool, at_end: bool) -> Node:
    """`node` without anchors and without parts that can never match.

    at_start, at_end: whether nothing of the pattern stands before it, and after it
    """
    match node:
        case Anchor():
            if not (at_start if node.at_start else at_end):
                _fail(pattern, node.position, "an anchor inside the pattern is not supported")
            return EMPTY
        case Leaf():
            return node if node.ranges else NEVER
        case Choice():
            every = [_resolved(part, pattern, at_start=at_start, at_end=at_end) for part in node.options]
            options = tuple(dict.fromkeys(part for part in every if part != NEVER))
            return options[0] if len(options) == 1 else Choice(options)
        case Repeat():
            part = _resolved(node.part, pattern, at_start=False, at_end=False)
            if part == NEVER:
                return NEVER if node.low else EMPTY
            return EMPTY if node.high == 0 or part == EMPTY else Repeat(part, node.low, node.high)
        case Chain():
            return _resolved_chain(node, pattern, at_start=at_start, at_end=at_end)


def _resolved_chain(chain: Chain, pattern: str, *, at_start: bool, at_end: bool) -> Node:
    solid = [index for index, part in enumerate(chain.parts) if not isinstance(part, Anchor) and part != EMPTY]
    first, last = (solid[0], solid[-1]) if solid else (len(chain.parts), -1)
    parts = tuple(
        _resolved(part, pattern, at_start=at_start and index <= first, at_end=at_end and index >= last)
        for index, part in enumerate(chain.parts)
    )
    return NEVER if NEVER in parts else Chain(tuple(part for part in parts if part != EMPTY))
