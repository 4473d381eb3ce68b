"""Log lines on their way to a reader that is slow, or that there is none of."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator

import pytest

from stolon.runtime.server.logs import Lines

PIPE_BYTES = 4096
SET_PIPE_SIZE = 1031  # fcntl.F_SETPIPE_SZ, which Python 3.10 does not name on every system


@pytest.fixture
def pipe() -> Iterator[tuple[int, Lines]]:
    """The end to read of a small pipe, and lines that go into it."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, SET_PIPE_SIZE, PIPE_BYTES)
    yield reader, Lines(writer)
    os.close(reader)


def read_all(reader: int) -> str:
    found: list[bytes] = []
    while piece := os.read(reader, 1 << 16):
        found.append(piece)
    return b"".join(found).decode()


def test_lines_come_out_as_they_went_in_also_those_that_wait_at_the_end(pipe: tuple[int, Lines]) -> None:
    reader, lines = pipe
    for number in range(20):
        lines.write(f"{number} \u00fc \ud800\n")
    lines.close(10)
    assert read_all(reader) == "".join(f"{number} \u00fc \\ud800\n" for number in range(20))


def test_nobody_waits_for_a_reader_that_does_not_read_and_what_it_missed_is_counted(pipe: tuple[int, Lines]) -> None:
    reader, lines = pipe
    line = "x" * 999 + "\n"
    for _ in range(12_000):  # megabytes past the pipe and past what may wait
        lines.write(line)
    lines.close(0.05)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(read_all(reader)))
    thread.start()
    thread.join(20)
    *kept, note = found[0].splitlines(keepends=True)
    assert set(kept) == {line}
    dropped = re.fullmatch(r"(\d+) log lines were dropped here: they were not read in time\n", note)
    assert dropped is not None
    assert len(kept) + int(dropped[1]) == 12_000
    assert 4000 < len(kept) < 12_000


def test_a_reader_that_has_left_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    lines = Lines(writer)
    lines.write("one\n")
    lines.close(10)
    lines.write("two\n")  # late, and lost
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)  # closed with the lines
