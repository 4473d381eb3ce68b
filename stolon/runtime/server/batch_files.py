"""The files of a batch: requests in OpenAI's batch format, and answers that survive whatever ends the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from .body import JsonObject

MAX_LINE_BYTES = 32 << 20  # as a request's body


@dataclass(frozen=True, slots=True)
class Line:
    """One request. number: of the line, from 1; problem: why it cannot be asked, with a stable word"""

    number: int
    custom_id: str | None
    url: str = ""
    body: JsonObject = field(default_factory=dict[str, object])
    problem: tuple[str, str] | None = None

    @property
    def key(self) -> str | int:
        """What it is known by in the answers."""
        return self.number if self.custom_id is None else self.custom_id


def lines(path: Path) -> Iterator[Line]:
    """The requests, one at a time. Lines that are none have a `problem`; empty ones are left out.

    Raises OSError where the file cannot be read.
    """
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                line = _line(number, raw)
                if line.custom_id is not None and line.custom_id in seen:
                    line = Line(number, None, problem=("duplicate_custom_id", f"{line.custom_id!r} came before"))
                elif line.custom_id is not None:
                    seen.add(line.custom_id)
                yield line


def _line(number: int, raw: bytes) -> Line:
    if len(raw) > MAX_LINE_BYTES:
        return Line(number, None, problem=("line_too_long", f"a line may have {MAX_LINE_BYTES} bytes"))
    try:
        found: Any = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return Line(number, None, problem=("invalid_json", f"the line is not JSON: {str(error)[:200]}"))
    if not isinstance(found, dict):
        return Line(number, None, problem=("invalid_line", "a line must be a JSON object"))
    entry = cast(JsonObject, found)
    id, method, url, body = (entry.get(name) for name in ("custom_id", "method", "url", "body"))
    if not isinstance(id, str) or not id:
        return Line(number, None, problem=("invalid_line", "custom_id is missing, or no string"))
    if method != "POST":
        return Line(number, id, problem=("invalid_line", f"method must be POST, got {str(method)[:40]!r}"))
    if not isinstance(url, str) or not url.startswith("/"):
        return Line(number, id, problem=("invalid_line", "url must be a route, such as /v1/chat/completions"))
    if not isinstance(body, dict):
        return Line(number, id, problem=("invalid_line", "body must be an object"))
    asked = cast(JsonObject, body)
    if asked.get("stream"):
        return Line(number, id, problem=("invalid_line", "a batch has no streams; leave stream out"))
    return Line(number, id, url, asked)


class Answers:
    """The file of answers: a line each, whole or not at all.

    done: keys of the requests that it has answers to, from an earlier run too
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, and cuts off half a line that a crash has left. Raises OSError."""
        self.done: set[str | int] = set()
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._is_regular = path.is_file()
        self._size = 0
        if self._is_regular:
            self._size = self._read(path)
            self._file.truncate(self._size)

    def _read(self, path: Path) -> int:
        """Takes note of what is answered; returns where the last whole line ends."""
        size = 0
        with path.open("rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                size += len(raw)
                try:
                    entry = json.loads(raw)
                    self.done.add(entry["line"] if entry["custom_id"] is None else entry["custom_id"])
                except (ValueError, KeyError, TypeError):
                    continue  # not ours; it stays as it is
        return size

    def add(self, line: Line, response: JsonObject | None, error: JsonObject | None) -> None:
        """Raises OSError where the line cannot be written; the file then ends with the line before."""
        entry: JsonObject = {"id": f"batch_req_{line.number}", "custom_id": line.custom_id}
        if line.custom_id is None:
            entry["line"] = line.number
        raw = json.dumps({**entry, "response": response, "error": error}, ensure_ascii=False).encode() + b"\n"
        try:
            left = memoryview(raw)
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            if self._is_regular:
                self._file.truncate(self._size)
            raise
        self._size += len(raw)
        self.done.add(line.key)

    def close(self) -> None:
        if self._is_regular:
            os.fsync(self._file.fileno())
        self._file.close()
