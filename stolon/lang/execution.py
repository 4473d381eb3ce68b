"""A program about to run: its parameters, checked, and its body, executed."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .hub import get_hub
from .pool import get_pool
from .run import Run, current_run
from .state import State
from .streams import wait
from .variables import block

GRACE_S = 1.0  # how long an error waits for the backend to let go of what it cancelled


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a program after its state."""

    positional: tuple[str, ...]
    keyword_only: frozenset[str]
    required: frozenset[str]
    defaults: Mapping[str, Any]
    more_positional: bool
    more_keywords: bool

    @classmethod
    def of(cls, func: Callable[..., Any], skip: int) -> Parameters:
        signature = list(inspect.signature(func).parameters.values())
        if not signature or signature[0].kind is inspect.Parameter.KEYWORD_ONLY:
            raise TypeError(
                f"{program_name(func)} takes no state: its first parameter must be the state, as in `def f(s, ...)`"
            )
        kinds = inspect.Parameter
        rest = signature[skip:]
        named = [one for one in rest if one.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        keywords = [one for one in rest if one.kind is kinds.KEYWORD_ONLY]
        return cls(
            tuple(one.name for one in named),
            frozenset(one.name for one in keywords),
            frozenset(one.name for one in (*named, *keywords) if one.default is kinds.empty),
            {one.name: one.default for one in (*named, *keywords) if one.default is not kinds.empty},
            any(one.kind is kinds.VAR_POSITIONAL for one in signature),
            any(one.kind is kinds.VAR_KEYWORD for one in rest),
        )

    def __contains__(self, name: str) -> bool:
        return name in self.positional or name in self.keyword_only

    def check(self, label: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError, naming the program and its parameters, unless the call can be made."""
        known = ", ".join([*self.positional, *sorted(self.keyword_only)]) or "none"
        if len(args) > len(self.positional) and not self.more_positional:
            raise TypeError(f"{label}() takes {len(self.positional)} arguments, got {len(args)}; parameters: {known}")
        by_position = self.positional[: len(args)]
        for name in kwargs:
            if name in by_position:
                raise TypeError(f"{label}() got its argument {name!r} twice; parameters: {known}")
            if name not in self and not self.more_keywords:
                raise TypeError(f"{label}() has no parameter {name!r}; parameters: {known}")
        missing = self.required.difference(by_position, kwargs)
        if missing:
            names = ", ".join(repr(name) for name in (*self.positional, *sorted(self.keyword_only)) if name in missing)
            raise TypeError(f"{label}() misses {names}; parameters: {known}")


@dataclass(slots=True)
class Execution:
    """A program that is about to run, or running."""

    func: Callable[..., Any]
    state: State[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_async: bool

    @property
    def run(self) -> Run:
        return self.state.chain.run

    def execute(self) -> None:
        """Run the body in this thread. What it raises stays in the run."""
        run = self.run
        token = current_run.set(run)
        error: BaseException | None = None
        try:
            run.value = self.func(self.state, *self.args, **self.kwargs)
        except BaseException as raised:
            error = raised
        finally:
            current_run.reset(token)
        run.end_body(error)

    async def aexecute(self) -> None:
        """Await the body in this task. What it raises stays in the run."""
        run = self.run
        token = current_run.set(run)
        error: BaseException | None = None
        try:
            run.value = await self.func(self.state, *self.args, **self.kwargs)
        except BaseException as raised:
            error = raised
        finally:
            current_run.reset(token)
        run.end_body(error)
        if isinstance(error, asyncio.CancelledError):
            raise error

    def launch(self, context: contextvars.Context | None = None) -> None:
        """Start the body elsewhere: an async one on the hub, others in a thread of the pool.

        context: that of whoever asked for it, where that is not the caller
        """
        context = contextvars.copy_context() if context is None else context.copy()
        if self.is_async:
            hub = get_hub()
            hub.post(context.run, hub.start, self.aexecute())
        else:
            get_pool().submit(lambda: context.run(self.execute))

    def wait(self) -> None:
        """Wait in this thread until everything is done; raise what went wrong."""
        run = self.run
        if run.body_error is not None:
            block(run, timeout_s=GRACE_S)
        else:
            wait(run, run, "await f.arun(...)", lent=self.is_async)
        run.raise_failure()


def program_name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", repr(func))
