"""Types and values of them, for the tests of typed answers."""

# ruff: noqa: UP007, UP045  (both spellings are tested)
from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import sys
import typing
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, Union

import typing_extensions
from pydantic import BaseModel, ConfigDict, Field


class Colour(enum.Enum):
    RED = "red"
    GREEN = "dark green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    NUMBER = 1
    WORD = "one"
    NOTHING = None


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


@dataclasses.dataclass
class Line:
    start: Point
    end: Point
    names: list[str] = dataclasses.field(default_factory=list)


class Sheet(typing_extensions.TypedDict, total=False):
    title: typing_extensions.Required[str]
    pages: int


class OldSheet(typing.TypedDict):
    title: str
    inner: Sheet | None


class Pair(NamedTuple):
    left: int
    right: str = "r"


class User(BaseModel):
    name: str = Field(min_length=1, max_length=20)
    age: int = Field(ge=0, lt=150)
    email: str | None = None


class Team(BaseModel):
    lead: User
    members: list[User] = Field(max_length=3)
    colour: Colour = Colour.RED


class Tree(BaseModel):
    value: int
    left: Tree | None = None
    right: Tree | None = None


class Folder(BaseModel):
    name: str
    inside: dict[str, Folder] = {}


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Owner(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int


UserId = NewType("UserId", int)
Words = typing_extensions.TypeAliasType("Words", list[str])

_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")
_DAY = dt.date(2024, 2, 29)
_UTC = dt.timezone.utc

# (type, a value of it); every type's answer must be able to say the value, and be read as the same again
TYPED: list[tuple[Any, Any]] = [
    (int, -42),
    (float, 2.5),
    (bool, True),
    (str, "any\ntext ∀ 🙂"),
    (bytes, b"any text"),
    (dt.date, _DAY),
    (dt.time, dt.time(23, 59, 1)),
    (dt.datetime, dt.datetime(2026, 11, 25, 22, 10, 0)),
    (uuid.UUID, _ID),
    (Decimal, Decimal("-12.340")),
    (Colour, Colour.GREEN),
    (Level, Level.HIGH),
    (Mixed, Mixed.NOTHING),
    (Literal["yes", "no", "yes indeed"], "yes indeed"),
    (Literal["a", 1, True, None], True),
    (Literal[Colour.RED, "other"], Colour.RED),
    (Optional[int], None),
    (Optional[str], "x"),
    (Union[int, str], "7"),
    (Union[int, None, list[int]], [1]),
    (Union[Point, User], User(name="Ann", age=3)),
    (list[int], [1, -2, 3]),
    (list[str], ['quote "', "back\\slash", ""]),
    (list[bytes], [b"a"]),
    (list[list[float]], [[1.5], []]),
    (dict[str, int], {"a": 1, "b ∀": 2}),
    (dict[int, str], {1: "one", -20: "minus twenty"}),
    (dict[dt.date, int], {_DAY: 1}),
    (dict[uuid.UUID, int], {_ID: 2}),
    (dict[Colour, int], {Colour.RED: 3}),
    (dict[Literal["a", "b"], bool], {"b": False}),
    (dict[str, list[Point]], {"p": [Point(1, 2.0)]}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2)),
    (tuple[Point, Colour], (Point(1), Colour.RED)),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (Sequence[int], [1, 2]),
    (list, [1, "two", None]),
    (dict, {"any": ["thing"]}),
    (Any, {"any": "thing"}),
    (type(None), None),
    (Point, Point(1, 2.5)),
    (Line, Line(Point(1), Point(2), ["a"])),
    (Sheet, {"title": "t"}),
    (OldSheet, {"title": "t", "inner": {"title": "u", "pages": 2}}),
    (list[OldSheet], [{"title": "t", "inner": None}]),
    (Pair, Pair(1, "b")),
    (User, User(name="Ann", age=30, email="a@b.c")),
    (Team, Team(lead=User(name="A", age=1), members=[User(name="B", age=2)], colour=Colour.GREEN)),
    (list[User], [User(name="Ann", age=30)]),
    (Tree, Tree(value=1, left=Tree(value=2, right=Tree(value=3)))),
    (Folder, Folder(name="/", inside={"a": Folder(name="a", inside={"b": Folder(name="b")})})),
    (Owner, Owner(pet=Dog(kind="dog", tricks=["sit"]))),
    (Open, Open.model_validate({"known": 1, "other": "x"})),
    (UserId, 7),
    (Words, ["a"]),
    (dt.timedelta, dt.timedelta(hours=1, minutes=30)),
    (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")),
    (list[dt.datetime], [dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=_UTC)]),
    (list[dt.time], [dt.time(1, 2, 3, tzinfo=_UTC)]),
    (Optional[Decimal], Decimal("1.5")),
    (Optional[Colour], Colour.GREEN),
    (Annotated[int, Field(ge=-5, lt=120)], 119),
    (Annotated[int, Field(gt=10**9)], 10**9 + 1),
    (Annotated[int, Field(multiple_of=3)], 9),
    (Annotated[float, Field(gt=0, le=1)], 0.25),
    (Annotated[Decimal, Field(ge=0)], Decimal("2.5")),
    (Annotated[str, Field(min_length=2, max_length=4)], "ab\n"),
    (Annotated[str, Field(pattern=r"^[A-Z]{2}-[0-9]+$")], "AB-17"),
    (Annotated[str, Field(pattern="b+")], "abba"),
    (Annotated[str, Field(pattern="^a", max_length=3)], "abc"),
    (Annotated[str, "a note for readers"], "free"),
    (Annotated[list[int], Field(min_length=1, max_length=2)], [1]),
]
if sys.version_info >= (3, 11):
    TYPED += [(enum.StrEnum("Size", ["SMALL", "LARGE"]), "small")]


def shown(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)) if not typing.get_args(kind) else str(kind)
