"""Many runs of one program at a time."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast, overload

from .collector import MANY, FewerCollections
from .execution import Execution
from .progress import Progress
from .state import State
from .streams import When, refuse_to_block_a_loop
from .types import Usage
from .variables import Signal, block, settle

R = TypeVar("R")

AT_A_TIME = 16_384  # programs in flight, unless the user says otherwise: enough to keep any backend busy

Item = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named arguments


@dataclass(frozen=True, slots=True)
class Failed:
    """An item whose program failed."""

    index: int
    item: Item
    error: BaseException


class Batch(Signal, Sequence[State[R]], Generic[R]):
    """The states of many runs, in the order of their items. Reading one waits for it.

    Each item is run exactly once; a failure stays with its own state.
    """

    def __init__(
        self,
        items: Sequence[Item],
        start: Callable[[Item], Execution],
        *,
        limit: int | Literal["auto"],
        progress: bool,
    ) -> None:
        super().__init__()
        self._items = items
        self._start = start
        self._limit = _checked_limit(limit)
        self._states: list[State[R] | None] = [None] * len(items)
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._begun = 0
        self.order: list[int] = []  # indices of the items that have ended, first to last
        self._ended: list[bool] = [False] * len(items)
        self._cancelled = False
        self._progress = Progress(len(items)) if progress and items else None
        self._collections = FewerCollections(len(items)) if len(items) >= MANY else None
        self._fill()

    def _fill(self) -> None:
        while True:
            with self._lock:
                index = self._begun
                free = self._limit - (index - len(self.order))
                if index >= len(self._items) or free <= 0 or self._cancelled:
                    return
                self._begun += 1
            execution = self._start(self._items[index])
            self._states[index] = cast("State[R]", execution.state)
            execution.run.at_end(_Ending(self, index))
            execution.launch(self._context)

    def has_ended(self, index: int) -> None:
        """Item `index` is done, well or badly: take note, and begin another."""
        with self._lock:
            self.order.append(index)
            self._ended[index] = True
            if self._progress is not None:
                run = self.begun(index).chain.run
                self._progress.step(failed=run.error() is not None, usage=run.usage())
            over = len(self.order) == len(self._items)
        if over and self._collections is not None:
            self._collections.release()
        self.fire()
        self._fill()

    def begun(self, index: int) -> State[R]:
        state = self._states[index]
        assert state is not None, "an item was read before it was begun"
        return state

    # -- waiting

    def wait(self) -> None:
        """Wait in this thread for all of them. Ctrl-C cancels them."""
        self.wait_until(lambda: len(self.order) == len(self._items))

    async def await_all(self) -> None:
        try:
            await settle(When(lambda: len(self.order) == len(self._items), (self,)))
        except BaseException:
            self.cancel()
            raise

    def wait_until(self, holds: Callable[[], bool]) -> None:
        if holds():
            return
        refuse_to_block_a_loop("await f.amap(...)")
        try:
            block(When(holds, (self,)), lent=True)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Cancel what runs, and begin no more. States that were never begun are missing then."""
        self._cancelled = True
        if self._collections is not None:
            self._collections.release()
        for state in self._states:
            if state is not None:
                state.cancel()

    def as_completed(self) -> Completed[R]:
        """(index, state) pairs in the order in which they end, for `for` and for `async for`."""
        return Completed(self)

    # -- reading

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> State[R]: ...
    @overload
    def __getitem__(self, index: slice) -> list[State[R]]: ...
    def __getitem__(self, index: int | slice) -> State[R] | list[State[R]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # negative ones, and IndexError
        self.wait_until(lambda: self._ended[number])
        return self.begun(number)

    def __iter__(self) -> Iterator[State[R]]:
        return (self[i] for i in range(len(self)))

    @property
    def ok(self) -> list[State[R]]:
        """The states of the items that did not fail."""
        return [state for state in self if state.chain.run.error() is None]

    @property
    def failed(self) -> list[Failed]:
        """The items that failed, with their errors."""
        errors = [(i, state.chain.run.error()) for i, state in enumerate(self)]
        return [Failed(i, self._items[i], error) for i, error in errors if error is not None]

    @property
    def usage(self) -> Usage:
        """Of all the items, as far as they have got."""
        total = Usage()
        for state in self._states:
            if state is not None:
                total += state.usage
        return total

    def raise_first(self) -> None:
        """Raise the first failure itself, if there is one; where Python can, with a note that says how many failed."""
        failed = self.failed
        if failed:
            error = failed[0].error
            add_note: Any = getattr(error, "add_note", None)  # Python 3.11
            if add_note is not None:
                add_note(
                    f"item {failed[0].index} of a batch of {len(self)}; {len(failed)} failed; "
                    'errors="return" gives the results of the others'
                )
            raise error

    def __repr__(self) -> str:
        return f"<Batch of {len(self)}: {len(self.order)} ended>"


class _Ending:
    """A callback that knows its item; a class, because a closure in the loop would see the last index."""

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: Batch[Any], index: int) -> None:
        self._batch = batch
        self._index = index

    def __call__(self) -> None:
        self._batch.has_ended(self._index)


class Completed(Generic[R]):
    """The states of a batch in the order in which they end."""

    def __init__(self, batch: Batch[R]) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[tuple[int, State[R]]]:
        batch = self._batch
        for position in range(len(batch)):
            batch.wait_until(lambda position=position: position < len(batch.order))
            yield batch.order[position], batch.begun(batch.order[position])

    async def __aiter__(self) -> AsyncIterator[tuple[int, State[R]]]:
        batch = self._batch
        for position in range(len(batch)):
            await settle(When(lambda position=position: position < len(batch.order), (batch,)))
            yield batch.order[position], batch.begun(batch.order[position])


def in_order(batch: Batch[R], errors: Literal["raise", "return"]) -> Generator[State[R], None, None]:
    """The states one by one; a failure is raised after all the others were given."""
    try:
        yield from batch
    except GeneratorExit:
        batch.cancel()
        raise
    if errors == "raise":
        batch.raise_first()


def _checked_limit(limit: int | Literal["auto"]) -> int:
    if limit == "auto":
        return AT_A_TIME
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f'num_threads must be "auto" or a whole number of at least 1, got {limit!r}')
    return limit


def checked_errors(errors: object) -> None:
    if errors not in ("raise", "return"):
        raise ValueError(f'errors must be "raise" or "return", got {errors!r}')


def checked_items(items: Any) -> Iterable[Any]:
    """Raises TypeError for what can be iterated over and is one item all the same."""
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise TypeError(f"a list of items is needed, one for each run, got {items!r}; of one item, [item]")
    return cast("Iterable[Any]", items)
