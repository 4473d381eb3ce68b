"""Server processes under load, and what can be seen of them from outside."""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    rss_mb: float
    descriptors: int
    threads: int
    children: int


@dataclass
class Server:
    url: str
    process: psutil.Process

    def held(self) -> Held:
        mine = self.process
        return Held(
            mine.memory_info().rss / 1e6, mine.num_fds(), mine.num_threads(), len(mine.children(recursive=True))
        )


@contextmanager
def running(module: str, *flags: str) -> Iterator[Server]:
    """`python -m module flags`, until the block is left. It says `ready: URL` when it is."""
    popen = subprocess.Popen(
        [sys.executable, "-m", module, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert popen.stdout is not None
        for line in popen.stdout:
            if line.startswith("ready: "):
                yield Server(line.split()[1], psutil.Process(popen.pid))
                return
        raise AssertionError("the server did not start")
    finally:
        popen.terminate()
        try:
            popen.wait(10)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
        assert popen.stdout is not None
        popen.stdout.close()


def tiny(port: int, *flags: str) -> tuple[str, ...]:
    """The command's flags for the built-in model."""
    return ("tiny", "--port", str(port), "--threads", "1", "--log-level", "warning", *flags)


def client(url: str) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    return aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout)


def percentile(values: Sequence[float], share: float) -> float:
    """0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


async def settled(condition: Any, seconds: float) -> float:
    """Seconds until the coroutine function `condition` gives true; infinity if it does not in time."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if await condition():
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    return math.inf


def told(name: str, **figures: Any) -> int:
    """Prints the last line; the exit status."""
    machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
    print(json.dumps({"name": name, **figures, **machine}, allow_nan=True))
    return 0 if figures["ok"] else 1
