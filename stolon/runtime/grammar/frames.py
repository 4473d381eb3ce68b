"""Messages between the compiler and its children: a JSON head and raw arrays behind it, each with its length told.

    8 bytes   length of the head, length of all that follows it (both big-endian, 4 bytes)
    head      JSON; "arrays" says what follows: [dtype, shape] of each array, in order
    arrays    their bytes, one after the other

Nothing that is read can do more than be a number, a text or an array.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_FRAME_BYTES = 64_000_000
_LENGTHS = struct.Struct(">II")
_PIECE = 1 << 20
_DTYPES = ("int32", "bool", "uint8")


class FrameError(Exception):
    """The other end is gone, or what it sent is no frame."""


class FrameTimeout(Exception):
    """The deadline passed before the frame had passed."""


def packed(head: dict[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> bytes:
    """Raises FrameError where the frame would be larger than MAX_FRAME_BYTES."""
    described = [[str(array.dtype), list(array.shape)] for array in arrays]
    text = json.dumps({**head, "arrays": described}).encode()
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    if len(text) + len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame has {len(text) + len(body):,} bytes, the limit is {MAX_FRAME_BYTES:,}")
    return _LENGTHS.pack(len(text), len(body)) + text + body


def joined(texts: Sequence[bytes]) -> list[NDArray[Any]]:
    """Texts as two arrays: uint8, all bytes; int32, how many each has."""
    return [np.frombuffer(b"".join(texts), np.uint8), np.array([len(text) for text in texts], np.int32)]


def split(data: NDArray[Any], lengths: NDArray[Any]) -> list[bytes]:
    """The texts that `joined` made arrays of."""
    ends = np.cumsum(lengths).tolist()
    text = data.tobytes()
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def write_frame(descriptor: int, frame: bytes, deadline: float | None = None) -> None:
    """deadline: by time.monotonic(); the descriptor must not block then."""
    left = memoryview(frame)
    while left:
        _wait(descriptor, select.POLLOUT, deadline)
        try:
            left = left[os.write(descriptor, left[:_PIECE]) :]
        except BlockingIOError:
            continue
        except BrokenPipeError as error:
            raise FrameError("nobody reads any more") from error


def read_frame(descriptor: int, deadline: float | None = None) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """The next frame. Raises FrameError at the end of the stream."""
    head_size, body_size = _LENGTHS.unpack(_exactly(descriptor, _LENGTHS.size, deadline))
    if head_size + body_size > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {head_size + body_size:,} bytes was announced, the limit is {MAX_FRAME_BYTES:,}")
    head: dict[str, Any] = json.loads(_exactly(descriptor, head_size, deadline))
    body = _exactly(descriptor, body_size, deadline)
    return head, _arrays(head.pop("arrays"), body)


def _arrays(described: list[Any], body: bytes) -> list[NDArray[Any]]:
    found: list[NDArray[Any]] = []
    begin = 0
    for name, shape in described:
        if name not in _DTYPES:
            raise FrameError(f"an array of {name!r} was announced")
        count = int(np.prod(shape, dtype=np.int64))
        flat: NDArray[Any] = np.frombuffer(body, name, count, begin)
        found.append(np.reshape(flat, tuple(shape)))
        begin += found[-1].nbytes
    return found


def _exactly(descriptor: int, size: int, deadline: float | None) -> bytes:
    pieces: list[bytes] = []
    while size:
        _wait(descriptor, select.POLLIN, deadline)
        try:
            piece = os.read(descriptor, min(size, _PIECE))
        except BlockingIOError:
            continue
        if not piece:
            raise FrameError("the stream ended")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _wait(descriptor: int, event: int, deadline: float | None) -> None:
    if deadline is None:
        return
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise FrameTimeout
