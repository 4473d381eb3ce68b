"""The program of a child that compiles what clients sent: it may hang, swell or crash, and nothing else suffers.

It reads jobs from its standard input and writes what came of them to its standard output, as frames. It ends when its
input ends, when its parent dies, and when a job passes a limit of the operating system.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ...lang.constraint import Constraint
from ...lang.errors import InvalidRequest, UnsupportedError
from .charset import meaning
from .frames import FrameError, packed, read_frame, split, write_frame
from .prepare import prepare, to_wire

# beside what the libraries themselves take
MEMORY_BYTES = 1 << 30
CPU_S = 2  # of one job; the system counts whole seconds, so that it may be one more
_SET_PARENT_DEATH_SIGNAL = 1  # of Linux's prctl


def main() -> None:
    _end_with_parent()
    # what a library prints must not get among the frames
    out = os.dup(1)
    os.dup2(2, 1)
    for letter in "dsw":
        meaning(f"\\{letter}", "")
    _limit_memory()
    write_frame(out, packed({"ready": True}))
    texts: list[bytes] = []
    while True:
        try:
            job, arrays = read_frame(0)
        except FrameError:
            return
        if "words" in job:
            texts = split(*arrays)
            continue
        _limit_cpu()
        write_frame(out, answer(job, texts))


def answer(job: dict[str, Any], texts: Sequence[bytes]) -> bytes:
    """The frame that tells what came of a job, or why nothing did. texts: of the tokens, where they were sent."""
    try:
        constraint = Constraint(job["kind"], job["text"], tuple(job["choices"]))
        return packed(*to_wire(prepare(constraint, job["backend"], texts, compact=job["compact"])))
    except InvalidRequest as error:
        unsupported = isinstance(error, UnsupportedError)
        return packed({"refused": str(error), "param": error.param, "code": error.code, "unsupported": unsupported})
    except (MemoryError, RecursionError, FrameError):
        return packed(
            {"refused": "it is too large to be compiled", "param": job["kind"], "code": "grammar_too_complex"}
        )
    except Exception as error:  # one of ours: this request is told, and the next one is served
        return packed({"failed": f"{type(error).__name__}: {error}"})


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _limit_memory() -> None:
    if sys.platform != "linux":
        return
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_cpu() -> None:
    """For the next job alone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + CPU_S, hard))
