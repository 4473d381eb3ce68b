"""Blocks of a program: turns and scopes that end with their `with`, also when it is left by an error."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import TracebackType

from .errors import ProgramError, StolonError
from .prompt import Role
from .writer import Writer


class Turn:
    """A turn of a state: begun and ended by `with`, or appended already (then `+=` ignores it)."""

    def __init__(self, writer: Writer, role: Role, *, appended: bool) -> None:
        self._writer = writer
        self._role: Role = role
        self._appended = appended

    def __enter__(self) -> None:
        if self._appended:
            raise ProgramError(f"s.{self._role}(...) with an expression is a whole turn; use `with s.{self._role}():`")
        self._writer.begin_role(self._role)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._writer.end_role(self._role)
        elif self._writer.role == self._role:
            # also after an error, so that the next turn can begin; what is wrong with the state is told elsewhere
            with suppress(StolonError):
                self._writer.end_role(self._role)

    def check_appended_to(self, writer: Writer) -> None:
        if not self._appended or writer is not self._writer:
            raise TypeError(
                f"cannot append s.{self._role}() to a program state: use `with s.{self._role}():`, "
                f"or `s += {self._role}(...)`"
            )


@contextmanager
def closing(close: Callable[[], None]) -> Generator[None]:
    """Close at the end; after an error too, but then without hiding it."""
    try:
        yield
    except BaseException:
        with suppress(StolonError):
            close()
        raise
    close()
