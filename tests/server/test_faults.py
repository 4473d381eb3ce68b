"""What happens to processes: killed, stopped, without standard output, without room for logs or for descriptors."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SET_PIPE_SIZE = 1031  # fcntl.F_SETPIPE_SZ


@dataclass
class Server:
    popen: subprocess.Popen[bytes]
    port: int

    def post(self, text: str, **fields: Any) -> dict[str, Any]:
        body = {"model": "default", "prompt": text, "max_tokens": 4, **fields}
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(asked, timeout=20) as reply:
            return json.loads(reply.read())

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=5) as reply:
                return reply.status == 200
        except OSError:
            return False

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.popen.poll() is None, "the server has ended"
            assert time.monotonic() < end
            time.sleep(0.05)


@contextmanager
def started(folder: Path, *flags: str, descriptors: int | None = None, **streams: Any) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "stolon.launch_server", str(folder), "--port", str(port)]
    command += ["--kv-tokens", "1024", "--threads", "1", *flags]

    def few() -> None:
        assert descriptors is not None
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    popen: subprocess.Popen[Any] = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=None if descriptors is None else few,
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **streams},
    )
    server = Server(popen, port)
    try:
        server.until(server.is_healthy)
        yield server
    finally:
        popen.kill()
        popen.wait()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_under_the_log_and_too_few_descriptors_stop_nobody(tiny_checkpoint: Path) -> None:
    with open("/dev/full", "wb") as full:
        streams = {"stdout": full, "stderr": full}
        with started(tiny_checkpoint, "--log-requests", "--header-timeout-s", "1", descriptors=96, **streams) as server:
            assert server.post("Once")["usage"]["completion_tokens"] == 4
            held = [socket.socket() for _ in range(150)]
            for each in held:
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", server.port))
            time.sleep(1)
            for each in held:
                each.close()
            server.until(server.is_healthy)
            assert server.post("upon")["usage"]["completion_tokens"] == 4
            server.popen.send_signal(signal.SIGTERM)
            assert server.popen.wait(20) == 0


def test_readers_of_the_output_may_not_read_or_leave_and_a_stopped_process_goes_on(tiny_checkpoint: Path) -> None:
    """The log's pipe is full; both pipes are closed by their reader; the process is stopped for a while, and killed."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, SET_PIPE_SIZE, 4096)
    with started(tiny_checkpoint, stdout=subprocess.PIPE, stderr=writer) as server:
        os.close(writer)
        written = [0, 0]
        for i in (0, 1):
            for _ in range(120):  # each makes a line of the log
                assert server.is_healthy()
            time.sleep(0.2)
            written[i] = int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, b"...."), sys.byteorder)
        # lines are written in bundles, and a bundle waits until all of it fits
        assert 0 < written[0] == written[1], "the pipe is not full, and shows nothing"
        assert server.popen.stdout is not None
        server.popen.stdout.close()
        os.close(reader)
        before = server.post("Once", seed=3)
        server.popen.send_signal(signal.SIGSTOP)
        with pytest.raises(OSError, match="timed out"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=0.5)
        server.popen.send_signal(signal.SIGCONT)
        server.until(server.is_healthy)
        assert server.post("Once", seed=3)["choices"] == before["choices"]
        assert server.post("Once", regex="[0-9]{3}")["choices"][0]["text"].isdecimal()
        family = [psutil.Process(server.popen.pid), *psutil.Process(server.popen.pid).children(recursive=True)]
        assert len(family) > 1, "a child that compiles constraints"
        server.popen.kill()
        server.popen.wait()
        _, alive = psutil.wait_procs(family, timeout=5)
        assert alive == [], "nothing of it is left"
        with socket.create_server(("127.0.0.1", server.port)):
            pass  # the port is free at once
