"""Requests that others than their readers may end, by the names that they were given."""

from __future__ import annotations

from collections.abc import Callable


class Ending:
    """Of one request, which is under way while the block of this context runs. It may be asked for before there is a
    way to do it. All methods may be called from any thread."""

    __slots__ = ("_all", "_end", "_is_asked", "name")

    def __init__(self, name: str, everybody: set[Ending]) -> None:
        self.name = name
        self._all = everybody
        self._is_asked = False
        self._end: Callable[[], None] | None = None

    def __enter__(self) -> Ending:
        self._all.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._all.discard(self)

    def by(self, end: Callable[[], None]) -> None:
        """From now on the request is ended like this, and at once if that was asked for; it may be done twice."""
        self._end = end
        if self._is_asked:
            end()

    def ask(self) -> None:
        self._is_asked = True
        if self._end is not None:
            self._end()


class Endings:
    """Of all requests under way. Several may have one name."""

    def __init__(self) -> None:
        self._open: set[Ending] = set()

    def under(self, name: str) -> Ending:
        """A request that begins with the context."""
        return Ending(name, self._open)

    def ask(self, name: str | None) -> int:
        """End all requests of this name, or (None) all there are; how many there were."""
        found = [ending for ending in list(self._open) if name is None or ending.name == name]
        for ending in found:
            ending.ask()
        return len(found)
