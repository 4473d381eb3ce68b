"""What a program holds in its hand: `s`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeVar, cast, overload

from typing_extensions import TypeVar as TypeVarWithDefault

from .build import turn
from .errors import ProgramError
from .forks import Forks
from .info import Info
from .interpreter import Chain, Scope
from .ir import Expression, Gen, Select, caller, parts_of
from .prompt import Message, Role
from .run import Run, current_run
from .streams import (
    Piece,
    Steps,
    Wait,
    When,
    adrive,
    drive,
    meta_steps,
    partial_steps,
    piece_steps,
    renderer,
    text_steps,
    transcript,
    wait,
)
from .trace import Trace
from .turns import Turn, closing
from .types import Usage
from .variables import Variable, Waitable, assigned, next_change, settle
from .writer import Key, Writer

R_co = TypeVarWithDefault("R_co", covariant=True, default=Any)
T = TypeVar("T")


class State(Generic[R_co]):
    """The conversation of one run, or of one branch of it.

    Appending never blocks; reading waits for the value, or raises GenerationError. Safe to read from any thread.
    """

    def __init__(self, chain: Chain, before: State[Any] | None = None) -> None:
        self.chain = chain
        self.writer = Writer(chain, None if before is None else before.writer)

    # -- appending

    def __iadd__(self, other: Expression | Sequence[Expression] | Turn) -> State[R_co]:
        if isinstance(other, Turn):
            other.check_appended_to(self.writer)
        else:
            self.writer.append_all(parts_of(other))
        return self

    def append(self, expr: Expression | Sequence[Expression]) -> None:
        """`+=` where the name cannot be assigned to."""
        self.writer.append_all(parts_of(expr))

    # -- roles and scopes

    def system(self, expr: Expression | Sequence[Expression] | None = None) -> Turn:
        """A system turn: appended at once with `expr`, or `with s.system():`."""
        return self._turn("system", expr)

    def user(self, expr: Expression | Sequence[Expression] | None = None) -> Turn:
        """A turn of the user: appended at once with `expr`, or `with s.user():`."""
        return self._turn("user", expr)

    def assistant(self, expr: Expression | Sequence[Expression] | None = None) -> Turn:
        """A turn of the model: appended at once with `expr`, or `with s.assistant():`."""
        return self._turn("assistant", expr)

    def tool(self, expr: Expression | Sequence[Expression] | None = None) -> Turn:
        """A turn that tells what a tool gave back."""
        return self._turn("tool", expr)

    def _turn(self, role: Role, expr: Expression | Sequence[Expression] | None) -> Turn:
        if expr is not None:
            self.writer.append_all(turn(role, expr, caller(2)).parts)
        return Turn(self.writer, role, appended=expr is not None)

    @contextmanager
    def var_scope(self, name: str) -> Generator[None]:
        """`s[name]` becomes the text said inside the block."""
        variable = Variable(name, f"var_scope({name!r})", caller(2))
        variable.open_scope = True
        self.chain.append(Scope(variable, opens=True))
        self.writer.declare(variable)
        with closing(lambda: self._close_scope(variable)):
            yield

    def _close_scope(self, variable: Variable) -> None:
        variable.open_scope = False
        self.chain.append(Scope(variable, opens=False))

    # -- forks

    @overload
    def fork(self, size: int = 1) -> Forks[State[Any]]: ...
    @overload
    def fork(self, size: Sequence[T]) -> Forks[tuple[State[Any], T]]: ...
    def fork(self, size: int | Sequence[Any] = 1) -> Forks[Any]:
        """Branches that begin here and run at once; what came before is shared.

        size: how many, or a list: then iterating gives (branch, item) pairs
        """
        items = None if isinstance(size, int) else size
        if isinstance(size, (str, bool)) or not isinstance(size, (int, Sized)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"fork takes a number or a list, got {size!r}")
        count = size if isinstance(size, int) else len(size)
        if count < 1:
            raise ValueError(f"fork needs at least one branch, got {size!r}")
        children = [State[Any](chain, self) for chain in self.chain.fork(count)]
        return Forks(self, children, None if items is None else tuple(items))

    @contextmanager
    def copy(self) -> Generator[State[Any]]:
        """A branch of one: `with s.copy() as c:`; joined at the end of the block."""
        forks = self.fork(1)
        yield forks[0]
        forks.join()

    # -- reading

    @overload
    def __getitem__(self, name: Gen[T] | Select[T]) -> T: ...
    @overload
    def __getitem__(self, name: str | None) -> Any: ...
    def __getitem__(self, name: Key) -> Any:
        """The value of the newest generation of this name, or of this very node; waits for it.

        Raises KeyError for a name that was never appended, GenerationError if it failed.
        """
        variable = self.variable(name)
        wait(self.chain.run, variable, f"await s.get({_shown(name)})")
        return variable.result()

    @overload
    async def get(self, name: Gen[T] | Select[T]) -> T: ...
    @overload
    async def get(self, name: str | None) -> Any: ...
    async def get(self, name: Key) -> Any:
        """`s[name]` for async programs: waits without blocking the event loop."""
        waits = self._declaration(name)
        if waits is not None:
            await settle(waits.until)
        variable = self._known(name)
        while not variable.done:
            await next_change(variable)
        return variable.result()

    def get_var(self, name: str | None) -> Any:
        return self[name]

    def set_var(self, name: str, value: object) -> None:
        self[name] = value

    def __setitem__(self, name: str, value: object) -> None:
        self.writer.declare(assigned(name, value))

    def __contains__(self, name: object) -> bool:
        """Whether `name` has a value already; never waits."""
        if not isinstance(name, (str, Gen, Select)):
            return False
        variable = self.writer.variables.get(cast("Key", name))
        return variable is not None and variable.done and variable.failure is None

    def variable(self, name: Key) -> Variable:
        """What `name` stands for, done or not; waits until it is appended. Raises KeyError if it never is."""
        waits = self._declaration(name)
        if waits is not None:
            wait(self.chain.run, waits.until, f"await s.get({_shown(name)})")
        return self._known(name)

    def _declaration(self, name: Key) -> Wait | None:
        """What a reader beside a streaming program waits for: that the name is appended, or the program over."""
        run = self.chain.run
        if (
            not run.streaming
            or run.body_over
            or current_run.get() is run
            or self.writer.variables.get(name) is not None
        ):
            return None
        return Wait(When(lambda: self.writer.variables.get(name) is not None or run.body_over, (self.chain, run)))

    def _known(self, name: Key) -> Variable:
        variable = self.writer.variables.get(name)
        run = self.chain.run
        if variable is None:
            if run.body_error is not None:
                raise run.body_error
            if self.chain.failure is not None:
                raise self.chain.failure.error()
            defined = ", ".join(map(repr, self.writer.names())) or "none"
            raise KeyError(f"{_shown(name)} is not a variable of this program; defined: {defined}")
        beside = run.streaming and current_run.get() is not run  # such a reader can wait for the end of the block
        if variable.open_scope and not variable.done and not beside:
            raise ProgramError(f"{variable.label} is read inside its own block; its text is known at the end of it")
        return variable

    def info(self, name: Key) -> Info:
        """What is known about a generation: probabilities of a select, usage, finish reason, log-probabilities."""
        variable = self.variable(name)
        wait(self.chain.run, variable, f"await s.get({_shown(name)})")
        variable.result()
        if variable.info is None:
            raise ProgramError(f"{variable.label} was not generated, so there is nothing to know about it")
        return variable.info

    def get_meta_info(self, name: Key) -> dict[str, Any]:
        """`info(name)` as a fresh dictionary by SGLang's names."""
        return self.info(name).meta()

    def text(self) -> str:
        """Everything said so far as the model reads it; plain words with role names where only the server knows."""
        self._finish("await s.wait()")
        return transcript(self.chain.run.settings.backend, self.chain.prompt)

    def messages(self) -> list[Message]:
        """The turns so far in the OpenAI form, a fresh list."""
        self._finish("await s.wait()")
        return self.chain.prompt.messages()

    def sync(self) -> None:
        """Wait until everything appended so far is done. Raises GenerationError."""
        self._finish("await s.wait()")

    async def wait(self) -> None:
        """`sync()` for async programs."""
        await settle(self._whole())
        self._raise_failure()

    def error(self) -> BaseException | None:
        """What went wrong, after waiting; None if nothing did. Never raises it."""
        run = self.chain.run
        wait(run, self._whole(), "await s.wait()")
        if self.chain.failure is not None and run.body_error is None:
            return self.chain.failure.error()
        return run.error() if self._is_root() and run.ready() else None

    def _is_root(self) -> bool:
        return self.chain is self.chain.run.root()

    def _whole(self) -> Waitable:
        """What a reader waits for: the program itself waits for its own work, others for the end of the program."""
        run = self.chain.run
        return self.chain if current_run.get() is run or not self._is_root() else run

    def _finish(self, hint: str) -> None:
        wait(self.chain.run, self._whole(), hint)
        self._raise_failure()

    def _raise_failure(self) -> None:
        run = self.chain.run
        if self.chain.failure is not None and run.body_error is None:
            raise self.chain.failure.error()
        if self._is_root() and run.ready():
            run.raise_failure()

    # -- streams

    def text_iter(self, name: Key = None) -> Generator[str, None, None]:
        """Increments of the whole text, or of one variable; all of it at once if the program is over.

        Leaving the loop early cancels the program, unless others still read along.
        """
        return drive(self.chain.run, self._text_steps(name))

    @overload
    def text_async_iter(
        self, name: Key = None, return_meta_data: Literal[False] = False
    ) -> AsyncGenerator[str, None]: ...
    @overload
    def text_async_iter(
        self, name: Key, return_meta_data: Literal[True]
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]: ...
    def text_async_iter(self, name: Key = None, return_meta_data: bool = False) -> AsyncGenerator[Any, None]:
        """`text_iter` for event loops; with `return_meta_data`, pairs of a variable's text and its meta information."""
        if not return_meta_data:
            return adrive(self.chain.run, self._text_steps(name))
        if name is None:
            raise ValueError("return_meta_data needs the name of a variable")
        return adrive(self.chain.run, self._named_steps(name, meta_steps))

    @overload
    def stream(self) -> Stream[Piece]: ...
    @overload
    def stream(self, name: str | Gen[Any] | Select[Any]) -> Stream[Any]: ...
    def stream(self, name: Key = None) -> Stream[Any]:
        """Everything that is said, as pieces, for `for` and for `async for`.

        With a name: what that variable is so far, each time it has grown, as plain data (lists, dictionaries, text);
        a number or a choice comes once, when it is whole. `s[name]` is the value at the end.
        """
        if name is None:
            return Stream(self.chain.run, self.pieces)
        return Stream(self.chain.run, lambda: self._named_steps(name, partial_steps))

    def _text_steps(self, name: Key) -> Steps[str]:
        if name is not None:
            return self._named_steps(name, text_steps)
        if self.chain.run.ready():
            return self._whole_text()
        return self._piece_texts()

    def _whole_text(self) -> Steps[str]:
        text = self.text()
        if text:
            yield text

    def _piece_texts(self) -> Steps[str]:
        for step in self.pieces():
            if isinstance(step, Wait):
                yield step
            elif step.text:
                yield step.text

    def pieces(self) -> Steps[Piece]:
        run = self.chain.run
        yield from piece_steps(self.chain, renderer(run.settings.backend))
        if self._is_root():
            run.raise_failure()

    def _named_steps(self, name: Key, steps: Callable[[Variable], Steps[T]]) -> Steps[T]:
        waits = self._declaration(name)
        if waits is not None:
            yield waits
        yield from steps(self._known(name))

    # -- the run

    @property
    def value(self) -> R_co:
        """What the program returned; waits for its end. Raises what the program raised."""
        run = self.chain.run
        wait(run, run, "await s.wait()")
        run.raise_failure()
        return run.value

    ret_value = value

    @property
    def usage(self) -> Usage:
        """Tokens and requests so far, of this state, its branches, and the programs that its program called."""
        return self.chain.run.usage() if self._is_root() else self.chain.total_usage()

    @property
    def trace(self) -> Trace:
        """What happened so far, in order."""
        return Trace(self.chain)

    def cancel(self) -> None:
        """Abort what runs; pending reads raise Cancelled. On a branch, that branch and those under it."""
        if self._is_root():
            self.chain.run.cancel()
        else:
            self.chain.cancel(told=True)

    def __repr__(self) -> str:
        run = self.chain.run
        shown: list[str] = []
        for name in self.writer.names():
            variable = self.writer.variables[name]
            shown.append(f"{name}={variable.value!r}" if variable.done and variable.failure is None else f"{name}=?")
        status = "failed" if self.chain.failure or run.body_error else "done" if run.ready() else "running"
        return f"<State {status}{': ' if shown else ''}{', '.join(shown)}>"


class Stream(Generic[T]):
    """What a running program says, step by step; any number of them, each from the beginning."""

    def __init__(self, run: Run, steps: Callable[[], Steps[T]]) -> None:
        self._run = run
        self._steps = steps

    def __iter__(self) -> Iterator[T]:
        return drive(self._run, self._steps())

    def __aiter__(self) -> AsyncIterator[T]:
        return adrive(self._run, self._steps())


def _shown(name: Key) -> str:
    return name.label() if isinstance(name, (Gen, Select)) else repr(name)
