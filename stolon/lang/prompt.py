"""A prompt: an immutable chain of pieces. Forking shares the chain, so a branch costs one pointer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class Message(TypedDict):
    """A turn in the OpenAI form."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Text:
    """Text that the program wrote."""

    value: str


@dataclass(frozen=True, slots=True)
class Generated:
    """Text that a backend generated; `tokens` are its ids there, empty where the backend has none."""

    value: str
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RoleOpen:
    """The start of a turn."""

    role: Role


@dataclass(frozen=True, slots=True)
class RoleClose:
    """The end of the open turn."""


Piece = Text | Generated | RoleOpen | RoleClose


@dataclass(frozen=True, eq=False)  # no slots: a backend keeps weak references to prompts
class Prompt:
    """The last piece of a chain and the chain before it. `EMPTY` starts every chain.

    open_role: the role whose turn has begun and not ended, if any
    Compared and hashed by identity, so a backend may keep what it computed for a prompt in a weak dictionary.
    """

    parent: Prompt | None = None
    piece: Piece | None = None
    open_role: Role | None = None
    length: int = 0  # pieces in the chain

    def append(self, piece: Piece) -> Prompt:
        """The prompt that has one more piece; this one stays as it is."""
        role = self.open_role
        if isinstance(piece, RoleOpen):
            role = piece.role
        elif isinstance(piece, RoleClose):
            role = None
        return Prompt(self, piece, role, self.length + 1)

    def pieces(self) -> Iterator[Piece]:
        """All pieces, first to last."""
        chain: list[Piece] = []
        here: Prompt | None = self
        while here is not None and here.piece is not None:
            chain.append(here.piece)
            here = here.parent
        return reversed(chain)

    def text(self) -> str:
        """What was said, without any marks of roles."""
        return "".join(piece.value for piece in self.pieces() if isinstance(piece, (Text, Generated)))

    def messages(self) -> list[Message]:
        """The turns; the last one may still be open. Text outside any turn is left out."""
        turns: list[Message] = []
        parts: list[str] | None = None
        for piece in self.pieces():
            match piece:
                case RoleOpen(role):
                    parts = []
                    turns.append({"role": role, "content": ""})
                case RoleClose():
                    parts = None
                case Text(value) | Generated(value):
                    if parts is not None:
                        parts.append(value)
                        turns[-1]["content"] = "".join(parts)
        return turns

    def has_roles(self) -> bool:
        return any(isinstance(piece, RoleOpen) for piece in self.pieces())


EMPTY = Prompt()
