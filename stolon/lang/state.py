"""What a program holds in its hand: `s`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar, overload

from typing_extensions import TypeVar as TypeVarWithDefault

from .build import turn
from .errors import ProgramError, StolonError, UnsupportedError
from .forks import Forks
from .info import Info
from .interpreter import Chain, Generation, Scope, current_run
from .ir import Expression, Gen, Origin, Part, RoleBegin, RoleEnd, Select, parts_of, where
from .options import check_supported, refusal
from .prompt import Message, Role, RoleClose, RoleOpen, Text
from .streams import (
    Piece,
    Wait,
    When,
    adrive,
    drive,
    meta_steps,
    piece_steps,
    renderer,
    text_steps,
    transcript,
    wait,
)  # fmt: skip
from .trace import Trace
from .types import Usage
from .variables import Variable, assigned, settle

if TYPE_CHECKING:
    from .streams import Steps

R_co = TypeVarWithDefault("R_co", covariant=True, default=Any)
T = TypeVar("T")
Name = str | None


class State(Generic[R_co]):
    """The conversation of one run, or of one branch of it.

    Appending never blocks; reading waits for the value, or raises GenerationError. Safe to read from any thread.
    """

    def __init__(self, chain: Chain, before: State[Any] | None = None) -> None:
        self._chain = chain
        self._named: dict[Name, Variable] = {} if before is None else dict(before._named)
        self._handles: dict[Gen[Any] | Select[Any], Variable] = {} if before is None else dict(before._handles)
        self._role: Role | None = None if before is None else before._role
        self._said = before is not None and before._said  # whether the open turn has content

    # -- appending

    def __iadd__(self, other: Expression | Sequence[Expression] | Turn) -> State[R_co]:
        if isinstance(other, Turn):
            other.check_appended_to(self)
            return self
        self._append_all(parts_of(other))
        return self

    def _append_all(self, parts: Sequence[Part]) -> None:
        role_before = self._role
        try:
            for part in parts:
                self._append(part)
        except StolonError:
            # half of a turn was appended: end it, or the next turn could not begin
            if self._role is not None and self._role != role_before:
                with suppress(StolonError):
                    self._end_role(None)
            raise

    def _append(self, part: Part) -> None:
        match part:
            case str():
                self._append_text(part)
            case Gen():
                self._append_gen(part)
            case Select():
                self._append_select(part)
            case RoleBegin():
                self._begin_role(part.role)
            case RoleEnd():
                self._end_role(part.role)

    def _append_text(self, text: str) -> None:
        if not text:
            return
        capabilities = self._chain.run.settings.capabilities
        if self._role is None and capabilities.chat_only:
            self._refuse(f"text outside a role ({text[:40]!r})", "put it into user(...), system(...) or assistant(...)")
        self._chain.append(Text(text))
        self._said = True

    def _append_gen(self, node: Gen[Any]) -> None:
        settings = self._chain.run.settings
        resolved = settings.resolve(node.options)
        if resolved.refused is not None:
            check_supported(resolved, f"{node.label()}{where(node.origin)}")
        self._check_place(node)
        own_timeout = dict(node.options).get("timeout")
        variable = Variable(node.name, node.label(), node.origin)
        variable.text_in_logprobs = resolved.text_in_logprobs
        self._chain.append(Generation(node, variable, resolved, own_timeout))
        self._declare(variable, node)
        self._said = True

    def _append_select(self, node: Select[Any]) -> None:
        settings = self._chain.run.settings
        capabilities = settings.capabilities
        if not capabilities.score:
            label = f"{node.label()}{where(node.origin)}"
            if not capabilities.choose:
                self._refuse(f"{label}: select", "use gen(...) and compare the text, or a backend that scores options")
            if node.method is not None:
                reason = refusal(settings.backend, capabilities, "choices_method", node.method)
                raise UnsupportedError(f"{label}: {reason}; it chooses by itself, without log-probabilities")
        self._check_place(node)
        variable = Variable(node.name, node.label(), node.origin)
        resolved = settings.resolve_select(node.options)
        self._chain.append(Generation(node, variable, resolved, resolved.timeout_s))
        self._declare(variable, node)
        self._said = True

    def _check_place(self, node: Gen[Any] | Select[Any]) -> None:
        """Refuse what this backend cannot generate after: at the user's line, before anything is sent."""
        capabilities = self._chain.run.settings.capabilities
        label = f"{node.label()}{where(node.origin)}"
        if capabilities.chat_only and self._role != "assistant":
            place = "outside a role" if self._role is None else f"in the turn of {self._role!r}"
            self._refuse(f"{label}: a generation {place}", "put it into assistant(...)")
        if self._role == "assistant" and self._said and not capabilities.continue_assistant:
            self._refuse(
                f"{label}: assistant text before a generation",
                "put the text into the user's turn, or use a backend that continues the assistant's",
            )

    def _refuse(self, what: str, instead: str) -> NoReturn:
        backend = type(self._chain.run.settings.backend).__name__
        raise UnsupportedError(f"the backend {backend} cannot honour {what}; {instead}")

    def _begin_role(self, role: Role) -> None:
        if self._role is not None:
            raise ProgramError(f"the turn of {role!r} begins inside the turn of {self._role!r}; end that one first")
        if not self._chain.run.settings.capabilities.roles:
            self._refuse(f"roles ({role!r})", "use plain text")
        self._chain.append(RoleOpen(role))
        self._role, self._said = role, False

    def _end_role(self, role: Role | None) -> None:
        if self._role is None:
            raise ProgramError(f"the turn of {role!r} ends, but none has begun")
        if role is not None and role != self._role:
            raise ProgramError(f"the turn of {role!r} ends, but the open one is that of {self._role!r}")
        self._role = None  # first: also where the chain refuses more
        self._chain.append(RoleClose())

    def _declare(self, variable: Variable, node: Gen[Any] | Select[Any] | None = None) -> None:
        self._named[variable.name] = variable
        if node is not None:
            self._handles[node] = variable
        self._chain.moved.fire()

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

    def _turn(self, role: Role, expr: Expression | Sequence[Expression] | None) -> Turn:
        if expr is not None:
            self._append_all(turn(role, expr, _caller(2)).parts)
        return Turn(self, role, appended=expr is not None)

    @contextmanager
    def var_scope(self, name: str) -> Generator[None]:
        """`s[name]` becomes the text said inside the block."""
        variable = Variable(name, f"var_scope({name!r})", _caller(3))
        variable.open_scope = True
        self._chain.append(Scope(variable, opens=True))
        self._declare(variable)
        with _closing(lambda: self._close_scope(variable)):
            yield

    def _close_scope(self, variable: Variable) -> None:
        variable.open_scope = False
        self._chain.append(Scope(variable, opens=False))

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
        if isinstance(items, str) or isinstance(size, bool):
            raise TypeError(f"fork takes a number or a list, got {size!r}")
        count = size if isinstance(size, int) else len(size)
        if count < 1:
            raise ValueError(f"fork needs at least one branch, got {size!r}")
        children = [State[Any](chain, self) for chain in self._chain.fork(count)]
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
    def __getitem__(self, name: Name | Gen[Any] | Select[Any]) -> Any:
        """The value of the newest generation of this name, or of this very node; waits for it.

        Raises KeyError for a name that was never appended, GenerationError if it failed.
        """
        variable = self._find(name)
        wait(self._chain.run, variable, f"await s.get({_shown(name)})")
        return variable.result()

    @overload
    async def get(self, name: Gen[T] | Select[T]) -> T: ...
    @overload
    async def get(self, name: str | None) -> Any: ...
    async def get(self, name: Name | Gen[Any] | Select[Any]) -> Any:
        """`s[name]` for async programs: waits without blocking the event loop."""
        waits = self._declaration(name)
        if waits is not None:
            await settle(waits.until)
        variable = self._known(name)
        await settle(variable)
        return variable.result()

    def get_var(self, name: str | None) -> Any:
        return self[name]

    def set_var(self, name: str, value: object) -> None:
        self[name] = value

    def __setitem__(self, name: str, value: object) -> None:
        self._named[name] = assigned(name, value)
        self._chain.moved.fire()

    def __contains__(self, name: object) -> bool:
        """Whether `name` has a value already; never waits."""
        variable = self._handles.get(name) if isinstance(name, (Gen, Select)) else self._named.get(name)  # type: ignore[arg-type]
        return variable is not None and variable.done and variable.failure is None

    def _find(self, name: Name | Gen[Any] | Select[Any]) -> Variable:
        waits = self._declaration(name)
        if waits is not None:
            wait(self._chain.run, waits.until, f"await s.get({_shown(name)})")
        return self._known(name)

    def _lookup(self, name: Name | Gen[Any] | Select[Any]) -> Variable | None:
        return self._handles.get(name) if isinstance(name, (Gen, Select)) else self._named.get(name)

    def _declaration(self, name: Name | Gen[Any] | Select[Any]) -> Wait | None:
        """What a reader beside a streaming program waits for: that the name is appended, or the program over."""
        run = self._chain.run
        if not run.streaming or run.body_over or current_run.get() is run or self._lookup(name) is not None:
            return None
        return Wait(When(lambda: self._lookup(name) is not None or run.body_over, (self._chain.moved, run.ended)))

    def _known(self, name: Name | Gen[Any] | Select[Any]) -> Variable:
        variable = self._lookup(name)
        run = self._chain.run
        if variable is None:
            if run.body_error is not None:
                raise run.body_error
            if self._chain.failure is not None:
                raise self._chain.failure.error()
            defined = ", ".join(repr(one) for one in self._named if one is not None) or "none"
            raise KeyError(f"{_shown(name)} is not a variable of this program; defined: {defined}")
        if variable.open_scope and not variable.done:
            raise ProgramError(f"{variable.label} is read inside its own block; its text is known at the end of it")
        return variable

    def info(self, name: Name | Gen[Any] | Select[Any]) -> Info:
        """What is known about a generation: probabilities of a select, usage, finish reason, log-probabilities."""
        variable = self._find(name)
        wait(self._chain.run, variable, f"await s.get({_shown(name)})")
        variable.result()
        if variable.info is None:
            raise ProgramError(f"{variable.label} was not generated, so there is nothing to know about it")
        return variable.info

    def get_meta_info(self, name: Name | Gen[Any] | Select[Any]) -> dict[str, Any]:
        """`info(name)` as a fresh dictionary by SGLang's names."""
        return self.info(name).meta()

    def text(self) -> str:
        """Everything said so far as the model reads it; plain words with role names where only the server knows."""
        self._finish("await s.wait()")
        return transcript(self._chain.run.settings.backend, self._chain.prompt)

    def messages(self) -> list[Message]:
        """The turns so far in the OpenAI form, a fresh list."""
        self._finish("await s.wait()")
        return self._chain.prompt.messages()

    def sync(self) -> None:
        """Wait until everything appended so far is done. Raises GenerationError."""
        self._finish("await s.wait()")

    async def wait(self) -> None:
        """`sync()` for async programs."""
        await settle(self._whole())
        self._raise_failure()

    def error(self) -> BaseException | None:
        """What went wrong, after waiting; None if nothing did. Never raises it."""
        run = self._chain.run
        wait(run, self._whole(), "await s.wait()")
        if self._chain.failure is not None and run.body_error is None:
            return self._chain.failure.error()
        return run.error() if self._is_root() and run.ready() else None

    def _is_root(self) -> bool:
        return self._chain is self._chain.run.root

    def _whole(self) -> Any:
        """What a reader waits for: the program itself waits for its own work, others for the end of the program."""
        run = self._chain.run
        return self._chain if current_run.get() is run or not self._is_root() else run

    def _finish(self, hint: str) -> None:
        wait(self._chain.run, self._whole(), hint)
        self._raise_failure()

    def _raise_failure(self) -> None:
        run = self._chain.run
        if self._chain.failure is not None and run.body_error is None:
            raise self._chain.failure.error()
        if self._is_root() and run.ready():
            run.raise_failure()

    # -- streams

    def text_iter(self, name: Name | Gen[Any] | Select[Any] = None) -> Iterator[str]:
        """Increments of the whole text, or of one variable; all of it at once if the program is over.

        Leaving the loop early cancels the program, unless others still read along.
        """
        return drive(self._chain.run, self._text_steps(name))

    @overload
    def text_async_iter(
        self, name: Name | Gen[Any] | Select[Any] = None, return_meta_data: Literal[False] = False
    ) -> AsyncIterator[str]: ...
    @overload
    def text_async_iter(
        self, name: Name | Gen[Any] | Select[Any], return_meta_data: Literal[True]
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]: ...
    def text_async_iter(
        self, name: Name | Gen[Any] | Select[Any] = None, return_meta_data: bool = False
    ) -> AsyncIterator[Any]:
        """`text_iter` for event loops; with `return_meta_data`, pairs of a variable's text and its meta information."""
        if not return_meta_data:
            return adrive(self._chain.run, self._text_steps(name))
        if name is None:
            raise ValueError("return_meta_data needs the name of a variable")
        return adrive(self._chain.run, self._named_steps(name, meta_steps))

    def stream(self) -> Stream:
        """Everything that is said, as pieces, for `for` and for `async for`."""
        return Stream(self)

    def _text_steps(self, name: Name | Gen[Any] | Select[Any]) -> Steps[str]:
        if name is not None:
            return self._named_steps(name, text_steps)
        if self._chain.run.ready():
            return self._whole_text()
        return self._piece_texts()

    def _whole_text(self) -> Steps[str]:
        text = self.text()
        if text:
            yield text

    def _piece_texts(self) -> Steps[str]:
        for step in self._piece_steps():
            if isinstance(step, Wait):
                yield step
            elif step.text:
                yield step.text

    def _piece_steps(self) -> Steps[Piece]:
        run = self._chain.run
        yield from piece_steps(self._chain, renderer(run.settings.backend))
        if self._is_root():
            run.raise_failure()

    def _named_steps(self, name: Name | Gen[Any] | Select[Any], steps: Callable[[Variable], Steps[T]]) -> Steps[T]:
        waits = self._declaration(name)
        if waits is not None:
            yield waits
        yield from steps(self._known(name))

    # -- the run

    @property
    def value(self) -> R_co:
        """What the program returned; waits for its end. Raises what the program raised."""
        run = self._chain.run
        wait(run, run, "await s.wait()")
        run.raise_failure()
        return run.value

    ret_value = value

    @property
    def usage(self) -> Usage:
        """Tokens and requests so far, of this state, its branches, and the programs that its program called."""
        return self._chain.run.usage() if self._is_root() else self._chain.total_usage()

    @property
    def trace(self) -> Trace:
        """What happened so far, in order."""
        return Trace(self._chain)

    def cancel(self) -> None:
        """Abort what runs; pending reads raise Cancelled. On a branch, that branch and those under it."""
        if self._is_root():
            self._chain.run.cancel()
        else:
            self._chain.cancel(told=True)

    def __repr__(self) -> str:
        run = self._chain.run
        names = ", ".join(
            f"{name}={variable.value!r}" if variable.done and variable.failure is None else f"{name}=?"
            for name, variable in self._named.items()
            if name is not None
        )
        status = "failed" if self._chain.failure or run.body_error else "done" if run.ready() else "running"
        return f"<State {status}{': ' if names else ''}{names}>"


class Turn:
    """A turn of a state: begun and ended by `with`, or appended already (then `+=` ignores it)."""

    def __init__(self, state: State[Any], role: Role, *, appended: bool) -> None:
        self._state = state
        self._role: Role = role
        self._appended = appended

    def __enter__(self) -> None:
        if self._appended:
            raise ProgramError(f"s.{self._role}(...) with an expression is a whole turn; use `with s.{self._role}():`")
        self._state._begin_role(self._role)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._state._end_role(self._role)
        elif self._state._role == self._role:
            # also after an error, so that the next turn can begin; what is wrong with the state is told elsewhere
            with suppress(StolonError):
                self._state._end_role(self._role)

    def check_appended_to(self, state: State[Any]) -> None:
        if not self._appended or state is not self._state:
            raise TypeError(
                f"cannot append s.{self._role}() to a program state: use `with s.{self._role}():`, "
                f"or `s += {self._role}(...)`"
            )


class Stream:
    """What a running program says, piece by piece; any number of them, each from the beginning."""

    def __init__(self, state: State[Any]) -> None:
        self.state = state

    def __iter__(self) -> Iterator[Piece]:
        return drive(self.state._chain.run, self.state._piece_steps())

    def __aiter__(self) -> AsyncIterator[Piece]:
        return adrive(self.state._chain.run, self.state._piece_steps())


@contextmanager
def _closing(close: Callable[[], None]) -> Generator[None]:
    """Close at the end; after an error too, but then without hiding it."""
    try:
        yield
    except BaseException:
        with suppress(StolonError):
            close()
        raise
    close()


def _caller(depth: int) -> Origin:
    frame = sys._getframe(depth + 1)
    return frame.f_code.co_filename, frame.f_lineno


def _shown(name: Name | Gen[Any] | Select[Any]) -> str:
    return name.label() if isinstance(name, (Gen, Select)) else repr(name)
