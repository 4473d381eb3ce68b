"""Children that compile, as their parent sees them: started, asked with a deadline, killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from ...lang.constraint import Constraint
from ...lang.errors import EngineClosedError, EngineError, InvalidRequest, UnsupportedError
from .frames import FrameError, FrameTimeout, joined, packed, read_frame, write_frame
from .prepare import Backend, Prepared, from_wire

MAX_CHILDREN = 2
_START_S = 60.0
# the parent's own way to find modules: a child of a folder on sys.path must load the same stolon
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from stolon.runtime.grammar.child import main; main()"
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


class Child:
    """One child. Use it from one thread at a time."""

    def __init__(self) -> None:
        """Starts it and does not wait; `ask` does.

        The thread that calls this must live as long as the child: Linux takes the end of the thread for the parent's.
        """
        command = [sys.executable, "-c", _PROGRAM, json.dumps([os.path.abspath(path) for path in sys.path])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, **_ONE_THREAD},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        self.is_ready = False
        self._knows_texts = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Raises EngineError where the child does not come up."""
        if self.is_ready:
            return
        try:
            read_frame(self._from, time.monotonic() + _START_S)
        except (FrameError, FrameTimeout) as error:
            self.kill()
            raise EngineError(
                "the process that compiles grammars does not start; try again", code="grammar_compiler"
            ) from error
        self.is_ready = True

    def ask(
        self,
        constraint: Constraint,
        backend: Backend,
        limit_s: float,
        texts: Sequence[bytes] = (),
        *,
        compact: bool = False,
    ) -> Prepared:
        """texts, compact: as `prepare` takes them; the texts are always the same.

        Raises InvalidRequest as `prepare` does, and (code "grammar_too_complex") where a limit was passed.

        The child is dead then, and whenever EngineError is raised.
        """
        self.wait_until_ready()
        deadline = time.monotonic() + limit_s
        job = {
            "kind": constraint.kind,
            "text": constraint.text,
            "choices": constraint.choices,
            "backend": backend,
            "compact": compact,
        }
        try:
            if len(texts) and not self._knows_texts:
                write_frame(self._to, packed({"words": True}, joined(texts)), deadline)
                self._knows_texts = True
            write_frame(self._to, packed(job), deadline)
            head, arrays = read_frame(self._from, deadline)
        except (FrameTimeout, FrameError) as error:
            self.kill()
            what = f"{limit_s:g} s" if isinstance(error, FrameTimeout) else "its CPU time or memory"
            raise InvalidRequest(
                f"the {constraint.kind} is too complex: compiling it passed the limit of {what}; simplify it",
                param=constraint.kind,
                code="grammar_too_complex",
            ) from error
        return _read(head, arrays)

    def interrupt(self) -> None:
        """Kill it under the hands of the thread that asks it, which then learns of it."""
        self._process.kill()

    def kill(self) -> None:
        """Does nothing where it is dead already."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


class ChildPool:
    """At most MAX_CHILDREN children, one for each thread that asks at a time; a killed one is started anew."""

    def __init__(self) -> None:
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._is_closed = False
        self._lock = Lock()

    def ask(
        self,
        constraint: Constraint,
        backend: Backend,
        limit_s: float,
        texts: Sequence[bytes] = (),
        *,
        compact: bool = False,
    ) -> Prepared:
        """As `Child.ask`. Raises EngineClosedError after `interrupt`."""
        child = self._taken()
        try:
            return child.ask(constraint, backend, limit_s, texts, compact=compact)
        finally:
            self._given_back(child)

    def start_early(self) -> None:
        """Have a child ready before the first constraint comes; one that does not start is an error then."""
        child = self._taken()
        with suppress(EngineError):
            child.wait_until_ready()
        self._given_back(child)

    def interrupt(self) -> None:
        """Kill all children; threads that ask one learn of it."""
        with self._lock:
            self._is_closed = True
            for child in (*self._idle, *self._busy):
                child.interrupt()

    def close(self) -> None:
        """After `interrupt`, when no thread asks any more."""
        for child in (*self._idle, *self._busy):
            child.kill()

    @property
    def pids(self) -> list[int]:
        with self._lock:
            return [child.pid for child in (*self._idle, *self._busy) if child.is_alive]

    def _taken(self) -> Child:
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the engine has been shut down")
            # one that has started before one that is starting
            self._idle.sort(key=lambda child: child.is_ready)
            while self._idle:
                child = self._idle.pop()
                if child.is_alive:
                    break
                child.kill()  # it was ended from outside
            else:
                child = Child()
            self._busy.add(child)
            return child

    def _given_back(self, child: Child) -> None:
        with self._lock:
            self._busy.discard(child)
            if child.is_alive or self._is_closed:
                self._idle.append(child)
            else:
                # the next constraint finds one that has started
                self._idle.append(Child())


def _read(head: dict[str, Any], arrays: list[NDArray[Any]]) -> Prepared:
    if "failed" in head:
        raise EngineError(f"the grammar could not be compiled: {head['failed']}", code="grammar_compiler")
    if "refused" in head:
        kind = UnsupportedError if head.get("unsupported") else InvalidRequest
        raise kind(head["refused"], param=head["param"], code=head["code"])
    return from_wire(head, arrays)
