"""The server's log: lines for standard error, written by a thread, so that a log nobody reads stops nobody."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

from .settings import ServerConfig
from .watching import REQUESTS

_MOST_CHARACTERS = 4 << 20  # that wait to be written
_GATHER_S = 0.02  # lines of one moment are written together: waking a thread costs more than a line
_FLUSH_S = 1.0  # at the end, for a reader that is slow


@contextmanager
def to_stderr(settings: ServerConfig) -> Generator[None]:
    """Log as `settings` say while the block runs."""
    try:
        # of our own: should 2 be closed and taken again, no line goes into a socket
        descriptor = os.dup(sys.stderr.fileno())
    except (AttributeError, OSError):
        yield  # there is no standard error
        return
    lines = Lines(descriptor)
    handler = logging.StreamHandler(lines)
    handler.setFormatter(Ascii("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    plain = logging.StreamHandler(lines)
    plain.setFormatter(logging.Formatter("%(message)s"))
    if settings.log_requests:
        REQUESTS.addHandler(plain)
        REQUESTS.setLevel(logging.INFO)
        REQUESTS.propagate = False
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        REQUESTS.removeHandler(plain)
        lines.close(_FLUSH_S)


class Lines:
    """Lines on their way to a descriptor. Whoever writes does not wait; past a limit lines are dropped and counted."""

    def __init__(self, descriptor: int) -> None:
        """descriptor: owned from here on"""
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._characters = 0
        self._dropped = 0
        self._some = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stolon-log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        with self._lock:
            if self._waiting and self._characters + len(line) > _MOST_CHARACTERS:
                self._dropped += 1
                return
            self._waiting.append(line)
            self._characters += len(line)
        if not self._some.is_set():
            self._some.set()

    def close(self, within_s: float) -> None:
        """Write what waits, in `within_s` at most: a reader that does not read is not waited for."""
        self._closing.set()
        self._some.set()
        self._thread.join(within_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._closing.wait(_GATHER_S)
            self._some.clear()
            self._put()
        self._put()
        os.close(self._descriptor)

    def _put(self) -> None:
        """Write all that waits, and how many lines were dropped behind it."""
        with self._lock:
            lines, self._waiting, self._characters = self._waiting, [], 0
            dropped, self._dropped = self._dropped, 0
        note = f"{dropped} log lines were dropped here: they were not read in time\n" if dropped else ""
        rest = memoryview("".join([*lines, note]).encode("utf-8", "backslashreplace"))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:  # the reader has left, or the disk is full
            with self._lock:
                self._dropped += dropped + len(lines)


class Ascii(logging.Formatter):
    """What clients wrote must not steer a terminal or start a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if text.isascii() and text.isprintable():
            return text  # as nearly all lines; the walk over one costs as much as the rest of its making
        text = text.encode("ascii", "backslashreplace").decode()
        return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
