"""The branches of a fork, as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from .errors import ProgramError
from .interpreter import Concatenate
from .ir import Expression, Gen, Node, Select
from .streams import wait
from .variables import Gathered, Variable
from .writer import Key

if TYPE_CHECKING:
    from .state import State

E_co = TypeVar("E_co", covariant=True)
T = TypeVar("T")

JoinMode = Literal["gather_variable", "concate_and_append"]


class Forks(Generic[E_co]):
    """The branches of one fork. Iterating gives the branches, or (branch, item) pairs where a list was forked over.

    `forks += x` appends to all: text or an expression to each, a list element by element, a function of the index.
    """

    def __init__(self, parent: State[Any], states: Sequence[State[Any]], items: tuple[Any, ...] | None) -> None:
        self.states = tuple(states)
        self.items = items
        self._parent = parent
        self._joined = False

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[E_co]:
        pairs: Any = self.states if self.items is None else zip(self.states, self.items, strict=True)
        return iter(pairs)

    @overload
    def __getitem__(self, key: int) -> State[Any]: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[State[Any]]: ...
    @overload
    def __getitem__(self, key: Gen[T] | Select[T]) -> list[T]: ...
    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    def __getitem__(self, key: int | slice | str | Gen[Any] | Select[Any]) -> Any:
        """A branch by its number, or the values of a variable in all branches, once all have it or failed."""
        if isinstance(key, (int, slice)):
            return self.states[key]
        name = key.name if isinstance(key, (Gen, Select)) else key
        gathered = Gathered(name, [state.variable(key) for state in self.states])
        wait(self._parent.chain.run, gathered, "join() and await s.get(...)")
        return gathered.result()

    def __setitem__(self, index: int, state: State[Any]) -> None:
        """For `forks[i] += x`, which writes back the branch it has read."""
        if self.states[index] is not state:
            raise TypeError("a branch cannot be replaced; append to it with +=")

    def __iadd__(
        self, other: Expression | Sequence[Expression] | Callable[[int], Expression | Sequence[Expression]]
    ) -> Forks[E_co]:
        if isinstance(other, (str, Node)):
            parts: Sequence[Expression | Sequence[Expression]] = [other] * len(self)
        elif callable(other):
            parts = [other(index) for index in range(len(self))]
        elif len(other) == len(self):
            parts = other
        else:
            raise ValueError(f"a list appended to {len(self)} branches must have {len(self)} items, got {len(other)}")
        for state, part in zip(self.states, parts, strict=True):
            state.append(part)
        return self

    def join(self, mode: JoinMode = "gather_variable") -> None:
        """End the branches; does not wait, reading does.

        gather_variable: what the branches generated becomes lists in the parent, in the order of the branches; a name
            that the parent has already keeps the parent's value
        concate_and_append: what the branches said since the fork is appended to the parent, one after the other
        """
        if self._joined:
            raise ProgramError("these branches were joined before")
        if mode not in ("gather_variable", "concate_and_append"):
            raise ValueError(f"join knows the modes gather_variable and concate_and_append, got {mode!r}")
        self._joined = True
        parent = self._parent
        if mode == "concate_and_append":
            parent.chain.append(Concatenate(tuple(state.chain for state in self.states)))
            parent.writer.said = True
        else:
            self._gather()
        for state in self.states:
            state.chain.joined = True

    def _gather(self) -> None:
        known = self._parent.writer.variables
        found: dict[Key, list[Variable]] = {}
        for state in self.states:
            for key, variable in state.writer.variables.items():
                if key not in known:
                    found.setdefault(key, []).append(variable)
        lists: dict[str | None, Gathered] = {}
        for key, parts in found.items():
            if not isinstance(key, (Gen, Select)):
                lists[key] = Gathered(key, parts)
                self._parent.writer.declare(lists[key])
        for key, parts in found.items():
            # a node that was appended to every branch is a handle of the list, too
            if isinstance(key, (Gen, Select)) and len(parts) == len(self) and key.name in lists:
                known[key] = lists[key.name]

    def cancel(self) -> None:
        """Cancel every branch."""
        for state in self.states:
            state.cancel()
