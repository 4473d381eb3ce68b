"""Regular expressions as users write them: Python's `re`, of which the answer has to be a full match.

What is regular is taken; look-around, back-references, word boundaries, atomic groups and possessive repeats are not
regular, or not what the other engines mean, and are refused with their position. Lazy repeats are taken: of a full
match they ask the same. Anchors are taken at the ends of the pattern, where they say nothing new.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...lang.errors import InvalidRequest
from .characters import CharacterReader, fail_at
from .charset import EVERY, Ranges, case_folded, complement, sayable

MAX_PATTERN = 65_536  # characters
MAX_DEPTH = 100  # groups within groups
MAX_REPEAT = 10_000

_REPEAT = re.compile(r"([*+?])|\{(\d*)(?:(,)(\d*))?\}")
_FLAGS = re.compile(r"\(\?([aimsux]*)(?:-([imsx]+))?([:)])")
_NAMED = re.compile(r"\(\?P<(\w+)>")
_COMMENT = re.compile(r"\(\?#[^)]*\)")
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
_ANY = Repeat(Leaf(EVERY), 0, None)


def parse(pattern: str) -> Node:
    """The pattern without anchors. NEVER stands nowhere inside; it is the whole where no text matches.

    Raises InvalidRequest, with the position, for what is wrong, not supported or too large.
    """
    if len(pattern) > MAX_PATTERN:
        raise InvalidRequest(
            f"a regex may have {MAX_PATTERN} characters, got {len(pattern)}; shorten it",
            param="regex",
            code="grammar_too_complex",
        )
    tree = _Parser(pattern).parse()
    return _resolved(tree, pattern, at_start=True, at_end=True)


def parse_search(pattern: str) -> Node | None:
    """The texts in which the pattern is found, its classes those of ASCII; None where an anchor is not at an end.

    Raises InvalidRequest as `parse` does. A leaf may have no characters.
    """
    return _searched(_Parser(f"(?a){pattern}").parse())


def _searched(node: Node) -> Node | None:
    if isinstance(node, Choice):
        options = [_searched(option) for option in node.options]
        return None if None in options else Choice(tuple(option for option in options if option is not None))
    parts = list(node.parts if isinstance(node, Chain) else (node,))
    parts = [part for part in parts if part != EMPTY]
    begins = ends = _ANY
    while parts and isinstance(parts[0], Anchor) and parts[0].at_start:
        begins = EMPTY
        del parts[0]
    while parts and isinstance(parts[-1], Anchor) and not parts[-1].at_start:
        ends = EMPTY
        del parts[-1]
    if len(parts) == 1 and isinstance(parts[0], Choice) and (begins, ends) == (_ANY, _ANY):
        return _searched(parts[0])
    return None if any(map(_has_anchor, parts)) else Chain((begins, *parts, ends))


def _has_anchor(node: Node) -> bool:
    match node:
        case Anchor():
            return True
        case Leaf():
            return False
        case Chain(parts):
            return any(map(_has_anchor, parts))
        case Choice(options):
            return any(map(_has_anchor, options))
        case Repeat(part):
            return _has_anchor(part)


class _Parser(CharacterReader):
    """Descends by groups. Takes no pattern that `re` does not, without asking it: that is slow for large sets."""

    def __init__(self, pattern: str) -> None:
        super().__init__(pattern)
        self.depth = 0
        self.names: set[str] = set()
        self.flags_end = 0  # of the flags for the whole pattern

    def parse(self) -> Node:
        tree = self.choice("")
        if self.position < len(self.pattern):
            self.fail("an unbalanced ')'")
        return tree

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
            self.fail(f"more than {MAX_DEPTH} groups within each other", code="grammar_too_complex")
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
            self.fail(f"a repeat of more than {MAX_REPEAT} times is not supported", code="grammar_too_complex")
        low = int(found[2] or 0)
        high = (int(found[4]) if found[4] else None) if found[3] else low
        if max(low, high or 0) > MAX_REPEAT:
            self.fail(f"a repeat of more than {MAX_REPEAT} times is not supported", code="grammar_too_complex")
        if high is not None and low > high:
            self.fail("min repeat greater than max repeat")
        return low, high

    def atom(self, char: str, flags: str) -> Node:
        start = self.position
        if char == "^" or self.pattern.startswith("\\A", start):
            self.position += len(char) if char == "^" else 2
            return Anchor(at_start=True, position=start)
        if char == "$" or self.pattern.startswith("\\Z", start):
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


def _resolved(node: Node, pattern: str, *, at_start: bool, at_end: bool) -> Node:
    """`node` without anchors and without parts that can never match.

    at_start, at_end: whether nothing of the pattern stands before it, and after it
    """
    match node:
        case Anchor():
            if not (at_start if node.at_start else at_end):
                fail_at(pattern, node.position, "an anchor inside the pattern is not supported")
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
