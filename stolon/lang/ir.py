"""What a program says, as frozen nodes; each knows the user's file and line. `+` and f-strings put them together."""

from __future__ import annotations

import inspect
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, cast

from typing_extensions import TypeVar

from .errors import ProgramError
from .prompt import Role

if TYPE_CHECKING:
    from .choices import ChoicesMethod
    from .forms import Form
    from .reasoning import Marks

T_co = TypeVar("T_co", covariant=True, default=Any)

Origin = tuple[str, int]  # file and line
NOWHERE: Origin = ("", 0)


def where(origin: Origin) -> str:
    """` at app.py:12`, to follow the name of a node; empty where the line is not known."""
    return f" at {origin[0]}:{origin[1]}" if origin[0] else ""


def caller(depth: int) -> Origin:
    """File and line of the `depth`-th caller; 1 is whoever called the function that calls this."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = frame.f_back if frame is not None else None
    return NOWHERE if frame is None else (frame.f_code.co_filename, frame.f_lineno)


class Node:
    """Anything but plain text that `s +=` takes."""

    __slots__ = ()

    def __add__(self, other: Expression) -> Seq:
        return Seq((*parts_of(self), *parts_of(other)))

    def __radd__(self, other: Expression) -> Seq:
        return Seq((*parts_of(other), *parts_of(self)))

    def __format__(self, spec: str) -> str:
        if spec:
            raise TypeError(f"{self!r} in an f-string takes no format, got {spec!r}")
        return _markers.put(self)

    def __str__(self) -> str:
        return _markers.put(self)


@dataclass(frozen=True, slots=True, eq=False)
class Gen(Node, Generic[T_co]):
    """Text to be generated. The object is also a handle: `s[node]` is what it became in the state `s`.

    options: sampling options by the user's names, frozen
    form: that the text must have; None where any text will do, and is the value
    marks: of the reasoning that comes before the answer, and is no part of it
    asks_again: where the backend cannot hold an answer to `form`, ask without, check, and ask again
    """

    name: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    origin: Origin = NOWHERE
    form: Form | None = None
    marks: Marks | None = None
    asks_again: bool = False

    def __str__(self) -> str:  # dataclasses with slots lose an inherited __str__ to their own __repr__
        return Node.__str__(self)

    def label(self) -> str:
        return f"gen({'' if self.name is None else repr(self.name)})"


@dataclass(frozen=True, slots=True, eq=False)
class Select(Node, Generic[T_co]):
    """One of `choices`, picked by `method` from their log-probabilities, or by a backend that can only choose."""

    name: str | None
    choices: tuple[str, ...]
    temperature: float = 0.0  # above 0: drawn among the choices by their scores
    method: ChoicesMethod | None = None  # None: token_length_normalized, or whatever a choosing backend does
    options: tuple[tuple[str, Any], ...] = ()
    origin: Origin = NOWHERE

    def __str__(self) -> str:
        return Node.__str__(self)

    def label(self) -> str:
        return f"select({'' if self.name is None else repr(self.name)})"


@dataclass(frozen=True, slots=True, eq=False)
class RoleBegin(Node):
    role: Role
    origin: Origin = NOWHERE

    def __str__(self) -> str:
        return Node.__str__(self)


@dataclass(frozen=True, slots=True, eq=False)
class RoleEnd(Node):
    """The end of a turn; `role`, where given, must be the open one."""

    role: Role | None = None
    origin: Origin = NOWHERE

    def __str__(self) -> str:
        return Node.__str__(self)


@dataclass(frozen=True, slots=True, eq=False)
class Seq(Node):
    """Parts one after the other; never nested."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return Node.__str__(self)

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def __getitem__(self, index: int) -> Part:
        return self.parts[index]


Part = str | Gen[Any] | Select[Any] | RoleBegin | RoleEnd
Expression = str | Node


def parts_of(value: object) -> tuple[Part, ...]:
    """The flat parts of anything that can be appended. Raises TypeError for anything else."""
    match value:
        case str():
            return _markers.split(value)
        case Gen() | Select() | RoleBegin() | RoleEnd():
            return (cast("Part", value),)
        case Seq(parts):
            return parts
        case list() | tuple():
            return tuple(part for item in cast("Sequence[object]", value) for part in parts_of(item))
        case _:
            raise TypeError(
                f"cannot append {_article(value)} to a program state: "
                "use text, gen(...), select(...), a role, or a list of those; for other values, str(...)"
            )


def _article(value: object) -> str:
    return "None" if value is None else type(value).__name__


class _Markers:
    """Nodes inside f-strings: a mark of private-use characters stands for the node until `+=` splits the text.

    The mark holds a random word of this process, so that text from elsewhere cannot name a node. The newest 65,536
    nodes are kept: an f-string may be appended often, so its nodes cannot be forgotten at the first use.
    """

    OPEN, CLOSE = "\ue5b4", "\ue5b5"
    KEPT = 65_536

    def __init__(self) -> None:
        self._word = secrets.token_hex(8)
        self._nodes: OrderedDict[int, Node] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()
        self._pattern = re.compile(f"{self.OPEN}{self._word}:([0-9]+){self.CLOSE}")

    def put(self, node: Node) -> str:
        with self._lock:
            self._count += 1
            self._nodes[self._count] = node
            if len(self._nodes) > self.KEPT:
                self._nodes.popitem(last=False)
            return f"{self.OPEN}{self._word}:{self._count}{self.CLOSE}"

    def split(self, text: str) -> tuple[Part, ...]:
        if self.OPEN not in text:
            return (text,)
        parts: list[Part] = []
        for index, piece in enumerate(self._pattern.split(text)):
            if index % 2:
                parts.extend(parts_of(self._node(int(piece))))
            elif piece:
                parts.append(piece)
        return tuple(parts)

    def _node(self, number: int) -> Node:
        node = self._nodes.get(number)
        if node is None:
            raise ProgramError(
                f"an f-string holds a gen or select that was made more than {self.KEPT:,} nodes ago and is forgotten; "
                "build the f-string where it is appended"
            )
        return node


_markers = _Markers()
