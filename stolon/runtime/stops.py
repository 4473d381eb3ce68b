"""Where an answer ends: stop strings and stop regexes, matched in one place, character by character as text comes.

Of all places where a stop ends, the first counts, or the first that may be the end, where not all may; if several stops
end there, the one that began first. How the text was cut into pieces makes no difference. A regex follows the same
rule: it ends the answer at the first character at which it has matched, so `a+` stops at the first "a", and greedy or
lazy is all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .stops_regex import RegexStop


class _Stop(Protocol):
    """One stop, reading a text.

    name: the stop as the user wrote it
    pending: how many characters at the end of what was read may still become a match
    """

    name: str
    pending: int

    def step(self, char: str) -> int:
        """Read one character; the length of the longest match that ends with it, 0 if none does."""
        ...


class StopMatcher:
    """The stops of one answer. Text that must not end it (the first `min_tokens`) is simply not pushed.

    may_end: whether the first so many characters of what was pushed may be all of it; a stop that would leave others is
        none
    Raises InvalidRequest if a regex is wrong, or cannot be matched as text comes.
    """

    def __init__(
        self,
        stop: Sequence[str],
        stop_regex: Sequence[str],
        include_stop: bool,
        may_end: Callable[[int], bool] | None = None,
    ) -> None:
        self._stops: list[_Stop] = [StringStop(text) for text in stop]
        self._stops += [RegexStop(pattern) for pattern in stop_regex]
        self._first_chars = None if stop_regex else frozenset(text[0] for text in stop)
        self._include_stop = include_stop
        self._may_end = may_end
        self._read = 0
        self._held: list[str] = []
        self._held_length = 0
        self._done = False

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that no stop can claim any more, and the stop that ended the answer, if one did just now.

        What may still become a stop is held back, and nothing else. After the end nothing comes.
        """
        if self._done:
            return "", None
        if not self._held_length and self._first_chars is not None and self._first_chars.isdisjoint(text):
            self._read += len(text)
            return text, None  # by far the usual case
        for index, char in enumerate(text):
            self._read += 1
            matches = [(length, stop.name) for stop in self._stops if (length := stop.step(char))]
            length, name = self._ending(matches)
            if length:
                self._done = True
                return self._release(text[: index + 1], 0 if self._include_stop else length, keep=False), name
        return self._release(text, max(stop.pending for stop in self._stops), keep=True), None

    def _ending(self, matches: list[tuple[int, str]]) -> tuple[int, str]:
        """The longest that may end the text; length 0 if none may."""
        while matches:
            best = max(matches, key=lambda match: match[0])
            if self._may_end is None or self._may_end(self._read - (0 if self._include_stop else best[0])):
                return best
            matches.remove(best)
        return 0, ""

    def flush(self) -> str:
        """What is still held back, when the answer ends otherwise."""
        return "" if self._done else self._release("", 0, keep=False)

    def _release(self, text: str, length: int, *, keep: bool) -> str:
        """Everything held and `text`, but for the last `length` characters, which are kept or dropped."""
        total = self._held_length + len(text)
        if keep and length == total:  # no copying while all is held, however long
            self._held.append(text)
            self._held_length = total
            return ""
        whole = "".join([*self._held, text])
        self._held = [whole[total - length :]] if keep else []
        self._held_length = length if keep else 0
        return whole[: total - length]


class StringStop:
    """A fixed string, by Knuth, Morris and Pratt."""

    __slots__ = ("_fallback", "name", "pending")

    def __init__(self, text: str) -> None:
        """text: not empty"""
        self.name = text
        self.pending = 0
        # entry n: the longest proper beginning of the first n characters that is also their end
        self._fallback = [0, 0]
        for end in range(1, len(text)):
            self._fallback.append(self._next(self._fallback[end], text[end]))

    def _next(self, length: int, char: str) -> int:
        while length and self.name[length] != char:
            length = self._fallback[length]
        return length + 1 if self.name[length] == char else 0

    def step(self, char: str) -> int:
        self.pending = self._next(self.pending, char)
        if self.pending < len(self.name):
            return 0
        self.pending = self._fallback[self.pending]  # should this match not count
        return len(self.name)
