"""Text that arrives in pieces, and parsers that wait for more of it.

A parser is a generator over a `Source`: it reads as if all the text were there and yields where it is not there yet.
So it cannot depend on where the text was cut. Each character is looked at a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]

HELD_SPACES = 64  # white space right before a mark belongs to the mark, but no more than this
_NAME = re.compile(r"[A-Za-z0-9_.-]*")


@dataclass(slots=True)
class Text:
    """What the model says to whoever asked."""

    text: str


@dataclass(slots=True)
class Thought:
    text: str


@dataclass(slots=True)
class Call:
    """A tool call begins; its arguments follow."""

    name: str


@dataclass(slots=True)
class Arguments:
    """More of the arguments of the call that began last."""

    text: str


Piece: TypeAlias = Text | Thought | Call | Arguments


class Source:
    """text[at:] is what has not been read yet."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.is_over = False
        self._pieces: list[Piece] = []
        self._kept: list[str] = []
        self._keeps = False

    def add(self, text: str) -> None:
        self.text = self.text[self.at :] + text if self.at else self.text + text
        self.at = 0

    def take(self, end: int) -> str:
        """Read up to `end`."""
        taken = self.text[self.at : end]
        self.at = end
        if self._keeps and taken:
            self._kept.append(taken)
        return taken

    def keep(self, already: str = "") -> None:
        """From here on remember what is read, after `already`: it may turn out to be no call."""
        self._kept = [already]
        self._keeps = True

    def kept(self, after: int = 0) -> str:
        """What was remembered, without its first `after` pieces."""
        return "".join(self._kept[after:])

    @property
    def mark(self) -> int:
        """For `kept`: where the pieces to come will stand."""
        return len(self._kept)

    def forget(self) -> None:
        self._kept, self._keeps = [], False

    def give_back(self) -> None:
        """What was remembered is text after all."""
        self.say(self.kept())
        self.forget()

    def say(self, text: str) -> None:
        self._append(Text, text)

    def think(self, text: str) -> None:
        self._append(Thought, text)

    def argue(self, text: str) -> None:
        self._append(Arguments, text)

    def call(self, name: str) -> None:
        """A call is certain from here on."""
        self.forget()
        self._pieces.append(Call(name))

    def _append(self, kind: type[Text] | type[Thought] | type[Arguments], text: str) -> None:
        if not text:
            return
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, kind):
            last.text += text
        else:
            self._pieces.append(kind(text))

    def pieces(self) -> list[Piece]:
        """What has come out since the last time."""
        found, self._pieces = self._pieces, []
        return found


class Parser:
    """Runs one program over the text of one answer."""

    def __init__(self, program: Callable[[Source], Steps[None]]) -> None:
        self._source = Source()
        self._steps = program(self._source)
        next(self._steps, None)

    def feed(self, text: str) -> list[Piece]:
        self._source.add(text)
        next(self._steps, None)
        return self._source.pieces()

    def finish(self) -> list[Piece]:
        """No more text comes."""
        self._source.is_over = True
        for _ in self._steps:
            pass
        return self._source.pieces()


def more(source: Source) -> Steps[bool]:
    """Wait for more text; False when there is none to come."""
    if source.is_over:
        return False
    yield
    return True


def peek(source: Source) -> Steps[str]:
    """The next character, not read; empty at the end."""
    while source.at == len(source.text):
        if not (yield from more(source)):
            return ""
    return source.text[source.at]


def spaces(source: Source) -> Steps[None]:
    """Read white space."""
    while (yield from peek(source)).isspace():
        text, end = source.text, source.at
        while end < len(text) and text[end].isspace():
            end += 1
        source.take(end)


def literal(source: Source, word: str) -> Steps[bool]:
    """Read `word` if it comes next, else nothing."""
    while len(source.text) - source.at < len(word) and word.startswith(source.text[source.at :]):
        if not (yield from more(source)):
            return False
    if not source.text.startswith(word, source.at):
        return False
    source.take(source.at + len(word))
    return True


def until(source: Source, mark: str, say: Callable[[str], None]) -> Steps[str | None]:
    """Say what comes before `mark`, without white space at its end, and read the mark.

    returns: the white space and the mark; None if it never comes
    """
    while True:
        found = source.text.find(mark, source.at)
        if found >= 0:
            say(source.take(_before_spaces(source.text, source.at, found)))
            return source.take(found + len(mark))
        say(source.take(_held_from(source.text, source.at, mark)))
        if not (yield from more(source)):
            say(source.take(len(source.text)))
            return None


def _held_from(text: str, at: int, mark: str) -> int:
    """Where the end of `text` begins that may be white space and the start of `mark`."""
    start = next(
        (len(text) - size for size in range(min(len(mark) - 1, len(text) - at), 0, -1) if text.endswith(mark[:size])),
        len(text),
    )
    return _before_spaces(text, at, start)


def _before_spaces(text: str, at: int, end: int) -> int:
    low = max(at, end - HELD_SPACES)
    while end > low and text[end - 1].isspace():
        end -= 1
    return end


def everything(source: Source, say: Callable[[str], None]) -> Steps[None]:
    """All that is left."""
    while True:
        say(source.take(len(source.text)))
        if not (yield from more(source)):
            return


def word(source: Source) -> Steps[str]:
    """Letters, digits and what else the name of a tool may have; empty if none come next."""
    parts: list[str] = []
    while True:
        found = _NAME.match(source.text, source.at)
        assert found is not None
        parts.append(source.take(found.end()))
        if source.at < len(source.text) or not (yield from more(source)):
            return "".join(parts)
