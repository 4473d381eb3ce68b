"""Chains: how what a program appended is carried out, in order, on the hub."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from .backend import GenerateRequest
from .errors import BackendTimeout, ProgramError
from .generate import Generation, answer, constraint_of
from .hub import get_hub
from .info import NO_USAGE, Info
from .ir import NOWHERE, Origin, Select
from .options import seeded
from .prompt import EMPTY, Generated, Piece, Prompt, RoleClose, RoleOpen, Text
from .run import Run
from .types import Usage
from .variables import Failure, Signal, Variable, settle


@dataclass(slots=True, eq=False)
class Scope:
    """The begin or the end of a `var_scope`; its variable becomes the text in between."""

    variable: Variable
    opens: bool


@dataclass(slots=True, eq=False)
class Branch:
    """The place where `children` begin."""

    children: tuple[Chain, ...]


@dataclass(slots=True, eq=False)
class Concatenate:
    """Append what `children` said since they began."""

    children: tuple[Chain, ...]


# typing.Union: Python 3.10 cannot resolve `|` between forward references in an alias
Instant = Union[Text, RoleOpen, RoleClose, Scope, Branch]  # noqa: UP007
Op = Union[Instant, Generation, Concatenate]  # noqa: UP007


# What a chain did: the prompt after a piece that the program wrote, the variable of a generation that began, or the
# branches of a fork. (typing.Union as above.)
Event = Union[Prompt, Variable, tuple["Chain", ...]]  # noqa: UP007


class Chain(Signal):
    """What one state said, and what it still has to do. A passive object: only a generation makes it a task.

    While it is idle, text and roles are applied where they are appended; while it is busy, everything waits its turn.
    width: siblings whose next generation comes with the same prefix
    """

    __slots__ = (
        "__weakref__", "_busy", "_current", "_forks", "_pending", "_scopes", "_task", "base", "branch", "children",
        "events", "failure", "joined", "path", "prompt", "run", "width",
    )  # fmt: skip

    def __init__(self, run: Run, *, path: tuple[int, ...] = (), branch: str = "", width: int = 1) -> None:
        super().__init__()
        self.run = run
        self.path = path
        self.branch = branch
        self.width = width
        self.prompt: Prompt = EMPTY
        self.base: Prompt = EMPTY  # where it began
        self.events: list[Event] = []
        self.failure: Failure | None = None
        self.joined = False
        self.children: tuple[Chain, ...] = ()
        self._busy = False
        self._forks = 0
        self._pending: deque[Op] | None = None
        self._current: Generation | None = None
        self._scopes: dict[Variable, Prompt] | None = None
        self._task: asyncio.Task[None] | None = None

    # -- as something to wait for: idle

    def ready(self) -> bool:
        return not self._busy

    def signals(self) -> Sequence[Signal]:
        return (self,)

    def has_ended(self) -> bool:
        """Whether nothing more will be said here."""
        return self.run.ready() or self.failure is not None or (self.joined and not self._busy)

    # -- from the program's side, any thread

    def append(self, op: Op) -> None:
        """Do `op` after all that was appended before. Never blocks.

        Raises GenerationError once the program has been told of an earlier failure, ProgramError after the end.
        """
        with self.run.lock:
            self._check_open()
            if self.failure is not None:
                # not told yet: when it is told must not depend on how fast the backend failed, so a read tells it
                self._fail_op(op, self.failure)
                return
            if self._busy:
                self._queue(op)
                return
            if not isinstance(op, (Generation, Concatenate)):
                self._apply(op)
                start = False
            else:
                self._hold()
                start = True
        if start:
            self._start_soon(op)
        else:
            self.fire()

    def _queue(self, op: Op) -> None:
        if self._pending is None:
            self._pending = deque((op,))
        else:
            self._pending.append(op)

    def _check_open(self) -> None:
        if self.failure is not None and self.failure.delivered:
            raise self.failure.error()
        if self.joined:
            raise ProgramError("this branch was joined and has ended; append to it before join(), or to its parent")
        if self.run.ready():
            raise ProgramError("the program of this state has ended; append inside the function that it runs")

    def fork(self, size: int) -> tuple[Chain, ...]:
        """`size` chains that begin here."""
        self._forks += 1
        number = self._forks
        mark = "fork" if number == 1 else f"fork#{number}"
        prefix = f"{self.branch}." if self.branch else ""
        children = tuple(
            Chain(self.run, path=(*self.path, number, i), branch=f"{prefix}{mark}[{i}]", width=size)
            for i in range(size)
        )
        with self.run.lock:
            self._check_open()
            self.children += children
            for child in children:
                child._hold()
            self.append(Branch(children))
        return children

    def cancel(self, cause: BaseException | None = None, *, told: bool = False) -> None:
        """Fail everything pending here and in the branches, and abort what the backend is doing for it."""
        label, origin = self._doing()
        failure = Failure(label, origin, self.branch, cause, cancelled=not isinstance(cause, BackendTimeout))
        failure.delivered = told
        self._cancel_tree(failure)

    def _cancel_tree(self, failure: Failure) -> None:
        self.fail(failure)
        for child in self.children:
            child._cancel_tree(failure)
        if self._task is not None:
            get_hub().post(self._task.cancel)

    def total_usage(self) -> Usage:
        """Of this chain and its branches."""
        total = NO_USAGE
        for event in self.events:
            if isinstance(event, Variable) and event.info is not None:
                total += event.info.usage
        for child in self.children:
            total += child.total_usage()
        return total

    # -- carrying out; on the hub, except where the chain is idle

    def _hold(self) -> None:
        self._busy = True
        self.run.busy.add(self)

    def _apply(self, op: Instant) -> None:
        match op:
            case Text() | RoleOpen() | RoleClose():
                self.prompt = self.prompt.append(op)
                self.events.append(self.prompt)
            case Scope(variable, opens):
                scopes = self._scopes = self._scopes or {}
                if opens:
                    scopes[variable] = self.prompt
                else:
                    variable.resolve(_said_since(self.prompt, scopes.pop(variable)))
            case Branch(children):
                self.events.append(children)
                for child in children:
                    child._begin(self.prompt)

    def _begin(self, prompt: Prompt) -> None:
        """A fork has been reached: the branch may go on from `prompt`."""
        self.prompt = self.base = prompt
        op = self._next()
        if op is None:
            self._tell()
        else:
            self._start_soon(op)

    def _start_soon(self, op: Op) -> None:
        hub = get_hub()
        if hub.is_here():
            self._start(op)
        else:
            hub.post(self._start, op)

    def _start(self, op: Op) -> None:
        # the loop holds a task until its first step, and from then on the chain does. It must not be cancelled before:
        # a task that never takes a step cannot tidy up
        get_hub().loop.create_task(self._work(op))

    async def _work(self, op: Op | None) -> None:
        self._task = asyncio.current_task()
        try:
            while op is not None:
                if self.failure is not None:
                    self._fail_op(op, self.failure)
                elif isinstance(op, Generation):
                    timer = self._begin_generation(op)
                    try:
                        info = await answer(self.run.settings.backend, op, self._request(op))
                    finally:
                        if timer is not None:
                            timer.cancel()
                    self._end_generation(op, info)
                elif isinstance(op, Concatenate):
                    await self._concatenate(op.children)
                else:
                    with self.run.lock:
                        self._apply(op)
                    self.fire()
                op = self._next()
        except asyncio.CancelledError:
            # whoever cancelled has failed the chain before; only the hub's end comes without that
            self.fail(Failure("the state", NOWHERE, self.branch, None, cancelled=True))
            self._release()
        except Exception as error:
            label, origin = self._doing()
            self.fail(Failure(label, origin, self.branch, error))
            self._release()
        finally:
            self._task = None
            self._tell()

    def _next(self) -> Op | None:
        """The next operation; None, and idle from then on, if there is none."""
        with self.run.lock:
            if self._pending:
                return self._pending.popleft()
            self._pending = None
            self._release()
            return None

    def _release(self) -> None:
        """Idle from here on. In one step with looking for more to do, or something appended meanwhile would be lost."""
        with self.run.lock:
            self._busy = False
            self.run.busy.discard(self)

    def _tell(self) -> None:
        self.fire()
        if self.run.body_over:
            self.run.look()

    def _begin_generation(self, op: Generation) -> asyncio.TimerHandle | None:
        self._current = op
        self.events.append(op.variable)
        self.fire()
        timeout_s = op.resolved.timeout_s  # of this one alone; the run has its own timer
        return None if timeout_s is None else get_hub().loop.call_later(timeout_s, self._expire, op, timeout_s)

    def _end_generation(self, op: Generation, info: Info) -> None:
        self._current = None
        self.width = 1  # what follows is each branch's own
        # tokens that spell thoughts, too, are no tokens of the text
        self.prompt = self.prompt.append(Generated(info.text, info.tokens if info.reasoning is None else ()))
        values = [_value(op, one) for one in info.alternatives or (info,)]
        op.variable.resolve(values if info.alternatives else values[0], info)
        if op.thoughts is not None:
            said = [one.reasoning or "" for one in info.alternatives or (info,)]
            op.thoughts.resolve(said if info.alternatives else said[0], Info(text=said[0], finish="stop"))

    def _request(self, op: Generation) -> GenerateRequest:
        return GenerateRequest(
            prompt=self.prompt,
            params=seeded(op.resolved.params, self.path),
            constraint=constraint_of(op.node),
            program=self.run.program,
            width=self.width,
            timeout_s=self._seconds_left(op),
        )

    def _doing(self) -> tuple[str, Origin]:
        """Name and line of the generation that runs, if one does."""
        current = self._current
        return ("the state", NOWHERE) if current is None else (current.node.label(), current.node.origin)

    def _seconds_left(self, op: Generation) -> float | None:
        own = op.resolved.timeout_s
        if self.run.deadline is None:
            return own
        left = max(self.run.deadline - time.monotonic(), 0.001)
        return left if own is None else min(own, left)

    def _expire(self, op: Generation, timeout_s: float) -> None:
        cause = BackendTimeout(f"no whole answer within its timeout of {timeout_s:g} s")
        self.fail(Failure(op.node.label(), op.node.origin, self.branch, cause))
        if self._task is not None:
            self._task.cancel()

    async def _concatenate(self, children: tuple[Chain, ...]) -> None:
        for child in children:
            await settle(child)
            if child.failure is not None:
                self.fail(child.failure)
                return
        for child in children:
            for piece in _pieces_since(child.prompt, child.base):
                if isinstance(piece, (Text, Generated)):
                    self.prompt = self.prompt.append(piece)
                    self.events.append(self.prompt)
        self.fire()

    def fail(self, failure: Failure) -> None:
        """Give `failure` to everything pending, and to whatever is appended later."""
        with self.run.lock:
            if self.failure is not None:
                return
            self.failure = failure
            self.run.failures += (failure,)
            ops: list[Op] = [*([self._current] if self._current else []), *(self._pending or ())]
            self._pending = None
            open_scopes = tuple(self._scopes or ())
        for variable in open_scopes:
            variable.fail(failure)
        for op in ops:
            self._fail_op(op, failure)
        self.fire()

    def _fail_op(self, op: Op, failure: Failure) -> None:
        match op:
            case Generation():
                op.variable.fail(failure)
                if op.thoughts is not None:
                    op.thoughts.fail(failure)
            case Scope():
                op.variable.fail(failure)
            case Branch(children):
                for child in children:
                    child.fail(failure)
                    child._release()
                    child._tell()
            case Text() | RoleOpen() | RoleClose() | Concatenate():
                pass


def _value(op: Generation, info: Info) -> object:
    return info.text if isinstance(op.node, Select) or op.node.form is None else info.value


def _pieces_since(prompt: Prompt, start: Prompt) -> list[Piece]:
    pieces: list[Piece] = []
    here: Prompt | None = prompt
    while here is not None and here is not start and here.piece is not None:
        pieces.append(here.piece)
        here = here.parent
    pieces.reverse()
    return pieces


def _said_since(prompt: Prompt, start: Prompt) -> str:
    return "".join(piece.value for piece in _pieces_since(prompt, start) if isinstance(piece, (Text, Generated)))
