"""Undoes on an answer, as it streams, what `strict_schema` did to its schema."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

from ..lang.errors import BackendProtocolError
from .json_events import Event, JSONEvents, NotJSONError
from .strict_schema import KEY, VALUE, WRAPPER, Fields, Items, Numbered, Pairs, Shape, StrictForm

# how an open object or list of the answer is written: as it is, as the other one, or not at all
Style = Literal["object", "list", "items", "pairs", "pair", "wrapper"]
_OPENED: dict[Style, str] = {"object": "{", "list": "[", "items": "[", "pairs": "{", "pair": "", "wrapper": ""}
_CLOSED: dict[Style, str] = {"object": "}", "list": "]", "items": "]", "pairs": "}", "pair": "", "wrapper": ""}


@dataclass(slots=True)
class _Frame:
    """named: shapes of the values by their names; inside: of every item of a list
    optional: names that were left out where their value is null
    written: parts so far; key: the raw name whose value comes
    """

    style: Style
    named: dict[str, list[Shape]] = field(default_factory=dict[str, "list[Shape]"])
    inside: list[Shape] = field(default_factory=list[Shape])
    optional: frozenset[str] = frozenset()
    written: int = 0
    key: str = ""


class StrictUndo:
    """Takes the text of one answer piece by piece and gives the text that was asked for.

    Raises BackendProtocolError for an answer that has not the form of the schema that was sent.
    """

    def __init__(self, form: StrictForm) -> None:
        self._form = form
        self._events = JSONEvents()
        self._frames: list[_Frame] = []
        self._out: list[str] = []
        self._said: list[str] = []  # for the message of an error

    def feed(self, text: str) -> str:
        self._said.append(text)
        return self._taken(text, last=False)

    def finish(self, *, whole: bool) -> str:
        """What is left at the end. `whole`: the server says that nothing is missing."""
        rest = self._taken("", last=True)
        if whole and not self._events.is_over:
            raise self._wrong("it ends in the middle")
        return rest

    def _taken(self, text: str, *, last: bool) -> str:
        try:
            for event in self._events.feed(text, last=last):
                self._take(event)
        except NotJSONError as error:
            raise self._wrong(str(error)) from error
        out, self._out = "".join(self._out), []
        return out

    def _wrong(self, what: str) -> BackendProtocolError:
        return BackendProtocolError(
            f"the server did not keep to the form it was given: {what}; it answered {''.join(self._said)[:200]!r}. "
            "Does this server honour response_format?"
        )

    def _take(self, event: Event) -> None:
        match event.kind:
            case "open":
                self._open(event.text)
            case "close":
                self._out.append(_CLOSED[self._frames.pop().style])
            case "key":
                self._name(self._frames[-1], event.text)
            case "atom":
                self._atom(event.text)
            case "string":
                self._before_string()
            case "piece":
                self._out.append(json.loads(f'"{event.text}"') if self._is_bare() else event.text)
            case "end string":
                if not self._is_bare():
                    self._out.append('": ' if self._is_key() else '"')

    # -- where the value that comes stands

    def _is_bare(self) -> bool:
        """Whether the text that comes is the answer, not JSON that says it."""
        return self._form.is_text and len(self._frames) == 1

    def _is_key(self) -> bool:
        """Whether the text that comes is the key of a pair."""
        return bool(self._frames) and self._frames[-1].style == "pair" and self._frames[-1].key == KEY

    def _shapes(self) -> list[Shape]:
        if not self._frames:
            return [self._form.shape]
        frame = self._frames[-1]
        return frame.named.get(json.loads(f'"{frame.key}"'), []) if frame.named else frame.inside

    def _before_value(self) -> None:
        """Write what stands before a value."""
        if not self._frames:
            if self._form.wrapped:
                raise self._wrong("it is no object")
            return
        frame = self._frames[-1]
        if self._is_key():
            raise self._wrong("the key of a pair is no text")
        if frame.style in ("object", "items", "list"):
            self._separate(frame)
        if frame.style == "object":
            self._out.append(f'"{frame.key}": ')

    def _separate(self, frame: _Frame) -> None:
        if frame.written:
            self._out.append(", ")
        frame.written += 1

    # -- values

    def _open(self, bracket: str) -> None:
        if self._form.wrapped and not self._frames and bracket == "{":
            self._frames.append(_Frame("wrapper", {WRAPPER: [self._form.shape]}))
            return
        if self._form.is_text:
            raise self._wrong(f"its {WRAPPER!r} is no text")
        shapes = self._shapes()
        self._before_value()
        inside = bool(self._frames) and self._frames[-1].style == "pairs"
        frame = _pair(shapes) if inside and bracket == "{" else _framed(bracket, shapes)
        if inside and frame.style != "pair":
            raise self._wrong("a dictionary has something that is no pair")
        self._frames.append(frame)
        self._out.append(_OPENED[frame.style])

    def _name(self, frame: _Frame, raw: str) -> None:
        expected = {"wrapper": WRAPPER, "pair": (KEY, VALUE)[min(frame.written, 1)]}.get(frame.style)
        if frame.style in ("wrapper", "pair"):
            frame.written += 1
        if expected is not None and (raw != expected or frame.written > (2 if frame.style == "pair" else 1)):
            raise self._wrong(f"{expected!r} was expected, got {raw!r}")
        frame.key = raw

    def _atom(self, text: str) -> None:
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.style == "pairs":
            raise self._wrong("a dictionary has something that is no pair")
        if self._form.is_text:
            raise self._wrong(f"its {WRAPPER!r} is no text")
        if frame is not None and text == "null" and frame.optional and json.loads(f'"{frame.key}"') in frame.optional:
            return
        self._before_value()
        self._out.append(text)

    def _before_string(self) -> None:
        if self._is_bare():
            return
        if self._frames and self._frames[-1].style == "pairs":
            raise self._wrong("a dictionary has something that is no pair")
        if self._is_key():
            self._separate(self._frames[-2])
        else:
            self._before_value()
        self._out.append('"')


def _framed(bracket: str, shapes: list[Shape]) -> _Frame:
    nodes = [node for shape in shapes for node in (shape.of_object() if bracket == "{" else shape.of_list())]
    named: dict[str, list[Shape]] = {}
    optional: set[str] = set()
    inside: list[Shape] = []
    style: Style = "object" if bracket == "{" else "list"
    for node in nodes:
        match node:
            case Fields(inner, left_out):
                optional |= left_out
                for name, shape in inner.items():
                    named.setdefault(name, []).append(shape)
            case Numbered(inner):
                style = "items"
                for number, shape in enumerate(inner, 1):
                    named.setdefault(f"item_{number}", []).append(shape)
            case Items(shape):
                inside.append(shape)
            case Pairs(shape):
                style = "pairs"
                inside.append(shape)
    return _Frame(style, named, inside, frozenset(optional))


def _pair(shapes: list[Shape]) -> _Frame:
    return _Frame("pair", {VALUE: shapes})
