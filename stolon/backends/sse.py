"""Server-sent events: bytes in, whatever their boundaries, `data` payloads out.

Source: WHATWG HTML, section 9.2.6, with two differences: sizes are bounded, and nothing is decoded, so that bytes
which are not UTF-8 are seen for what they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..lang.errors import BackendProtocolError

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class ServerEvent:
    """One dispatched event; `id` and `name` (its `event` field) are those of its own block, None where it had none."""

    data: bytes
    id: bytes | None = None
    name: bytes | None = None


class SSEParser:
    """Feed it what arrives; it answers with the events that are now whole.

    Comments, `retry` and unknown fields are skipped, as are blocks without data. What is left unfinished
    when the stream ends is never an event.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = bytearray()
        self._scanned = 0  # no line end before this position of `_rest`
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._id: bytes | None = None
        self._name: bytes | None = None
        self._at_start = True
        self._skip_newline = False  # the last line ended in CR at the end of a chunk

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Raises BackendProtocolError for an event past the limit."""
        if not chunk:
            return []
        if self._skip_newline:
            chunk = chunk.removeprefix(b"\n")
        self._rest += chunk
        if self._at_start and not self._passed_bom():
            return []
        events: list[ServerEvent] = []
        start = 0
        for end in _LINE_END.finditer(self._rest, self._scanned):
            event = self._take_line(bytes(self._rest[start : end.start()]))
            if event is not None:
                events.append(event)
            start = end.end()
        # a CR at the very end counts as a line end at once (waiting for an LF could wait for ever)
        self._skip_newline = self._rest.endswith(b"\r")
        del self._rest[:start]
        self._scanned = len(self._rest)
        self._check_size(len(self._rest))
        return events

    def _passed_bom(self) -> bool:
        if len(self._rest) < len(_BOM) and _BOM.startswith(self._rest):
            return False
        if self._rest.startswith(_BOM):
            del self._rest[: len(_BOM)]
        self._at_start = False
        return True

    def _take_line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        self._check_size(len(line))
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif name == b"id":
            self._id = value
        elif name == b"event":
            self._name = value
        return None

    def _dispatch(self) -> ServerEvent | None:
        data, event_id, name = self._data, self._id, self._name
        self._data, self._data_bytes, self._id, self._name = [], 0, None, None
        if not data:
            return None
        return ServerEvent(b"\n".join(data), event_id, name)

    def _check_size(self, line_bytes: int) -> None:
        size = self._data_bytes + line_bytes
        if size > self._max_event_bytes:
            raise BackendProtocolError(
                f"the server sent an event of more than {self._max_event_bytes:,} bytes; "
                "raise `max_event_bytes` in the backend's limits if it should"
            )
