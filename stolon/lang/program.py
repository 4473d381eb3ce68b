"""Programs: what `@function` makes of a Python function."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from typing import Any, Concatenate, Generic, Literal, TypeVar, cast, overload

from typing_extensions import ParamSpec

from .backend import Backend, checked_backend
from .batch import Batch, Item, checked_errors, checked_items, in_order
from .errors import NoBackendError
from .execution import Execution, Parameters, program_name
from .hub import get_hub
from .interpreter import Chain
from .options import RUN_OPTIONS, SAMPLING_OPTIONS, Launch, Settings, frozen, seconds
from .run import Run, current_run
from .state import State, Stream
from .streams import Piece, refuse_to_block_a_loop
from .variables import settle

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")

_default_backend: Backend | None = None


def set_default_backend(backend: Backend | None) -> None:
    """Who answers programs that name no backend; None: nobody."""
    global _default_backend
    _default_backend = None if backend is None else checked_backend(backend)


def get_default_backend() -> Backend:
    if _default_backend is None:
        raise NoBackendError(
            "nobody was named to answer: call stolon.set_default_backend(...), or pass backend=... to run"
        )
    return _default_backend


def _named_or_default(backend: Backend | None) -> Backend:
    return get_default_backend() if backend is None else checked_backend(backend)


def flush_cache(backend: Backend | None = None) -> bool:
    """Have the backend forget its cached prefixes; False where it has none."""
    return get_hub().call(_named_or_default(backend).flush_cache())


def get_server_info(backend: Backend | None = None) -> dict[str, object]:
    """What the backend says about itself."""
    return _named_or_default(backend).info()


class Function(Generic[P, R]):
    """A program. Calling it, or `run`, runs it and gives its state.

    The state is the first parameter, whatever its name; a program in a class has it after `self`. `async def` works.
    """

    __name__: str

    def __init__(
        self,
        func: Callable[..., Any],
        *,
        bound: Mapping[str, Any] | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise TypeError(
                f"{program_name(func)} cannot be a program: it has a `yield`, so that calling it runs nothing; "
                "return a value instead, and read what it says with `f.stream(...)`"
            )
        self.func = func
        self.bind_arguments: dict[str, Any] = dict(bound or {})
        self.is_async = inspect.iscoroutinefunction(func)
        self._owner: type | None = None  # of a method that was taken from its class
        self.parameters = parameters or Parameters.of(func, skip=1)
        functools.update_wrapper(self, func)

    def __set_name__(self, owner: type, name: str) -> None:
        # a program in a class may also be no method; then its state comes first
        if next(iter(inspect.signature(self.func).parameters), None) == "self":
            self._owner = owner

    def _of(self, owner: type, args: tuple[Any, ...]) -> Function[..., R]:
        """The method of the instance that comes first, as in `Class.method.run(instance, ...)`."""
        if not args or not isinstance(args[0], owner):
            raise TypeError(f"{program_name(self.func)} is a method of {owner.__name__}: call it on an instance")
        return self.__get__(args[0], owner)

    @property
    def arg_names(self) -> list[str]:
        return list(self.parameters.positional)

    def __repr__(self) -> str:
        return f"<function {program_name(self.func)}({', '.join(self.arg_names)})>"

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Function[P, R]: ...
    @overload
    def __get__(
        self: Function[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> Function[Q, R]: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Function[..., R]:
        if instance is None:
            return self
        func = self.func.__get__(instance, owner)
        return Function(func, bound=self.bind_arguments)

    @overload
    def __call__(self, state: State[Any], /, *args: P.args, **kwargs: P.kwargs) -> Any: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> State[R]: ...
    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> State[R]: ...  # with options of `run`
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`run`; or, given a state of a running program first, go on in that state and return what the body returns.

        Inside a program, a call inherits the backend and the sampling options of the caller.
        """
        if self._owner is not None:
            return self._of(self._owner, args)(*args[1:], **kwargs)
        if args and isinstance(args[0], State):
            state = cast("State[Any]", args[0])
            if not state.chain.run.body_over:
                given = self._with_bound(args[1:], kwargs)
                self.parameters.check(program_name(self.func), args[1:], given)
                return self.func(state, *args[1:], **given)
        return self._run(*args, **kwargs)

    @property
    def run(self) -> Launch[State[R]]:
        """Run to the end, in this thread. Raises what the body raises, or the first GenerationError it was not told of.

        With `stream=True`, start it and return at once.
        """
        return self._run

    @property
    def arun(self) -> Launch[Coroutine[Any, Any, State[R]]]:
        """`run` to be awaited; the body of an async program runs on the caller's loop."""
        return self._arun

    @property
    def stream(self) -> Launch[Stream[Piece]]:
        """Start it, and read what it says: `for piece in f.stream(...)`, also with `async for`."""
        return self._stream

    def _run(self, *args: Any, **kwargs: Any) -> State[R]:
        execution, stream = self._prepare(args, kwargs)
        if stream:
            execution.launch()
            return execution.state
        if self.is_async:
            execution.launch()
        else:
            execution.execute()
        execution.wait()
        return execution.state

    async def _arun(self, *args: Any, **kwargs: Any) -> State[R]:
        execution, stream = self._prepare(args, kwargs, blocking=False)
        run = execution.run
        try:
            if self.is_async and not stream:
                await execution.aexecute()
            else:
                execution.launch()
            if not stream:
                await settle(run)
        except asyncio.CancelledError:
            run.cancel()
            raise
        if not stream:
            run.raise_failure()
        return execution.state

    def _stream(self, *args: Any, **kwargs: Any) -> Stream[Piece]:
        return self._run(*args, **{**kwargs, "stream": True}).stream()

    def _prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, blocking: bool = True
    ) -> tuple[Execution, bool]:
        """Tell the program's arguments from the options of its run."""
        if self._owner is not None:
            return self._of(self._owner, args)._prepare(args[1:], kwargs, blocking=blocking)
        options = {name: kwargs[name] for name in kwargs if name in RUN_OPTIONS and name not in self.parameters}
        given = self._with_bound(args, {name: kwargs[name] for name in kwargs if name not in options})
        self.parameters.check(program_name(self.func), args, given)
        stream = bool(options.pop("stream", False))
        if blocking and not stream:
            refuse_to_block_a_loop(f"await {program_name(self.func)}.arun(...)")
        settings, timeout_s = _settings(options)
        caller = current_run.get()
        return self._execution(settings, args, given, streaming=stream, timeout_s=timeout_s, caller=caller), stream

    def _execution(
        self,
        settings: Settings,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        streaming: bool = False,
        timeout_s: float | None = None,
        caller: Run | None = None,
    ) -> Execution:
        run = Run(settings, parent=caller, is_async=self.is_async, streaming=streaming, timeout_s=timeout_s)
        return Execution(self.func, State[Any](run.begin(Chain(run))), args, kwargs, self.is_async)

    def _with_bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if not self.bind_arguments:
            return kwargs
        by_position = self.parameters.positional[: len(args)]
        bound = {name: value for name, value in self.bind_arguments.items() if name not in by_position}
        return {**bound, **kwargs}

    def bind(self, **kwargs: Any) -> Function[..., R]:
        """The program with some arguments given; those given at the call win. Raises TypeError for unknown names."""
        for name in kwargs:
            if name not in self.parameters and not self.parameters.more_keywords:
                known = ", ".join(self.arg_names) or "none"
                raise TypeError(f"{program_name(self.func)}.bind: there is no parameter {name!r}; parameters: {known}")
        return Function(self.func, bound={**self.bind_arguments, **kwargs}, parameters=self.parameters)

    # -- batches

    def map(
        self,
        items: Iterable[Any],
        *,
        progress: bool = False,
        errors: Literal["raise", "return"] = "raise",
        num_threads: int | Literal["auto"] = "auto",
        wait: bool = True,
        **options: Any,
    ) -> Batch[R]:
        """Run once for each item, many at a time; the states come in the order of the items.

        items: dictionaries (by name), tuples (by position), or the only argument itself
        errors: raise the first failure after all have ended, or return states that hold theirs
        num_threads: programs at a time; wait: False returns at once, and reading waits
        """
        if wait:
            refuse_to_block_a_loop(f"await {program_name(self.func)}.amap(...)")
        checked_errors(errors)
        batch = self._batch(items, num_threads, progress, options)
        if wait:
            batch.wait()
            if errors == "raise":
                batch.raise_first()
        return batch

    async def amap(
        self,
        items: Iterable[Any],
        *,
        progress: bool = False,
        errors: Literal["raise", "return"] = "raise",
        num_threads: int | Literal["auto"] = "auto",
        **options: Any,
    ) -> Batch[R]:
        """`map` to be awaited."""
        checked_errors(errors)
        batch = self._batch(items, num_threads, progress, options)
        await batch.await_all()
        if errors == "raise":
            batch.raise_first()
        return batch

    @overload
    def run_batch(
        self,
        batch_kwargs: Iterable[Any],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: Literal[False] = False,
        errors: Literal["raise", "return"] = "raise",
        **options: Any,
    ) -> list[State[R]]: ...
    @overload
    def run_batch(
        self,
        batch_kwargs: Iterable[Any],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: Literal[True],
        errors: Literal["raise", "return"] = "raise",
        **options: Any,
    ) -> Generator[State[R], None, None]: ...
    def run_batch(
        self,
        batch_kwargs: Iterable[Any],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        errors: Literal["raise", "return"] = "raise",
        **options: Any,
    ) -> list[State[R]] | Generator[State[R], None, None]:
        """`map` by SGLang's names; `generator_style` gives the states one by one, in order, as they end."""
        refuse_to_block_a_loop(f"await {program_name(self.func)}.amap(...)")
        checked_errors(errors)
        batch = self._batch(batch_kwargs, num_threads, progress_bar, options)
        if generator_style:
            return in_order(batch, errors)
        batch.wait()
        if errors == "raise":
            batch.raise_first()
        return list(batch)

    def _batch(
        self, items: Iterable[Any], num_threads: int | Literal["auto"], progress: bool, options: dict[str, Any]
    ) -> Batch[R]:
        if self._owner is not None:
            self._of(self._owner, ())
        unknown = sorted(set(options) - SAMPLING_OPTIONS - {"backend", "use_thread"})
        if unknown:
            raise TypeError(f"{program_name(self.func)}.map has no option {unknown[0]!r}")
        settings, timeout_s = _settings(options)
        listed = [self._item(item) for item in checked_items(items)]
        for args, kwargs in listed:
            self.parameters.check(program_name(self.func), args, kwargs)

        caller = current_run.get()

        def start(item: Item) -> Execution:
            return self._execution(settings, *item, timeout_s=timeout_s, caller=caller)

        return Batch(listed, start, limit=num_threads, progress=progress)

    def _item(self, item: Any) -> Item:
        if isinstance(item, Mapping):
            return (), self._with_bound((), dict(cast("Mapping[str, Any]", item)))
        args = cast("tuple[Any, ...]", item) if isinstance(item, tuple) else (item,)
        return args, self._with_bound(args, {})


def _settings(options: dict[str, Any]) -> tuple[Settings, float | None]:
    """What the run samples with, by its options and those of the program that it is called in; and its timeout."""
    backend = None if options.get("backend") is None else checked_backend(options["backend"])
    given = frozen({name: value for name, value in options.items() if name in SAMPLING_OPTIONS and name != "timeout"})
    caller = current_run.get()
    settings = (
        Settings(backend or get_default_backend(), given) if caller is None else caller.settings.merged(given, backend)
    )
    settings.resolve()  # raises for values out of range, here and not at the first gen
    timeout_s = options.get("timeout")
    return settings, None if timeout_s is None else seconds(timeout_s)


@overload
def function(func: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
@overload
def function(func: Callable[Concatenate[Any, P], R], /) -> Function[P, R]: ...
@overload
def function(
    func: None = None, *, num_api_spec_tokens: int | None = None
) -> Callable[[Callable[Concatenate[Any, P], R]], Function[P, R]]: ...
def function(func: Callable[..., Any] | None = None, *, num_api_spec_tokens: int | None = None) -> Any:
    """Make a program of a Python function (or coroutine function) whose first parameter is the state.

    num_api_spec_tokens: accepted for programs written for SGLang; changes nothing
    """
    if func is None:
        return cast("Any", Function)
    return cast("Any", Function(func))
