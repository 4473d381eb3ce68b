"""The command, as a process of its own, on a real engine with a random tiny checkpoint."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI

from tests.runtime.hub_cache import put_in_cache

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@dataclass
class Process:
    popen: subprocess.Popen[str]
    port: int
    started: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def launch(folder: Path | str, *flags: str) -> Process:
    """Start the command and wait until it says that it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "stolon.launch_server", "--model-path", str(folder), "--port", str(port)]
    popen = subprocess.Popen(
        [*command, "--kv-tokens", "4096", "--threads", "1", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert popen.stdout is not None
    lines: list[str] = []
    for line in popen.stdout:
        lines.append(line)
        if line.startswith("ready:"):
            return Process(popen, port, "".join(lines))
    _, problem = popen.communicate()
    raise AssertionError(f"the server did not start: {problem}")


@pytest.fixture(scope="module")
def process(tiny_checkpoint: Path) -> Iterator[Process]:
    running = launch(tiny_checkpoint, "--served-model-name", "tiny", "--log-level", "warning")
    yield running
    running.popen.kill()
    running.popen.communicate()


@pytest.fixture(scope="module")
def client(process: Process) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_model_of_the_hubs_cache_is_served_under_its_name(tmp_path: Path, tiny_checkpoint: Path) -> None:
    put_in_cache(tmp_path, "some-one/A.Model", tiny_checkpoint, "0" * 40, "v1")
    flags = ("--revision", "v1", "--download-dir", str(tmp_path), "--trust-remote-code")
    process = launch("some-one/A.Model", *flags)
    try:
        assert process.started.endswith("serves some-one/A.Model\n")
        with OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0) as client:
            assert client.models.retrieve("some-one/A.Model").id == "some-one/A.Model"
            answer = client.completions.create(model="some-one/A.Model", prompt="One two", max_tokens=2)
            assert answer.model == "some-one/A.Model"
    finally:
        process.popen.kill()
        process.popen.communicate()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--kv-pages", "8", "--kv-bytes", "1M"], "the KV cache has one size; give one of kv_bytes, kv_pages"),
        (["--revision", "main"], "revision 'main' is for names of the hub"),
        (
            ["--constrained-json-whitespace-pattern", " "],
            "constrained_json_whitespace_pattern must match the empty text",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_and_status_2(tiny_checkpoint: Path, flags: list[str], says: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "stolon.launch_server", str(tiny_checkpoint), "--port", str(free_port()), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 2
    assert found.stderr.startswith(f"stolon.launch_server: error: {says}")
    assert found.stderr.count("\n") == 1


def test_the_ready_line_names_the_address_and_the_model(process: Process) -> None:
    assert f"ready: {process.url} serves tiny\n" in process.started


def test_what_the_cache_takes_and_why_is_said_before_that(process: Process) -> None:
    said, _, _ = process.started.partition("ready:")
    assert "bytes a token" in said
    assert "as asked, of" in said
    assert "-> 4,096 tokens" in said


def test_there_is_one_listening_socket_on_loopback(process: Process) -> None:
    root = psutil.Process(process.popen.pid)
    found = [
        c for each in (root, *root.children(recursive=True)) for c in each.net_connections() if c.status == "LISTEN"
    ]
    assert [tuple(c.laddr) for c in found] == [("127.0.0.1", process.port)]


def test_stream_and_whole_answer_are_equal_and_repeatable(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Grüße aus Köln 😀"}],
        "max_tokens": 24,
        "seed": 7,
        "temperature": 0.8,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
    }
    whole = client.chat.completions.create(**asked)
    texts, tokens = ["", ""], [0, 0]
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.logprobs is not None:
                tokens[choice.index] += len(choice.logprobs.content or ())
    assert texts == [choice.message.content for choice in whole.choices]
    assert sum(tokens) == whole.usage.completion_tokens
    for choice in whole.choices:
        for entry in choice.logprobs.content:
            assert len(entry.top_logprobs) == 3
            assert entry.logprob <= entry.top_logprobs[0].logprob + 1e-6


def test_a_second_identical_prompt_is_found_in_the_cache(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "prompt": "The capital of the United States is " * 4,
        "max_tokens": 4,
        "temperature": 0,
    }
    first = client.completions.create(**asked)
    second = client.completions.create(**asked)
    assert second.choices[0].text == first.choices[0].text
    assert second.usage.prompt_tokens_details.cached_tokens == second.usage.prompt_tokens - 1


def post(process: Process, path: str, body: object) -> Any:
    request = urllib.request.Request(
        process.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def test_echoed_log_probabilities_are_those_that_score_gives(client: OpenAI, process: Process) -> None:
    prompt, option = "One two three", " four five"
    echoed = client.completions.create(model="tiny", prompt=prompt + option, max_tokens=0, echo=True, logprobs=0)
    scores = post(process, "/score", {"text": prompt, "options": [option, " six"]})["scores"]
    logprobs = echoed.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    count = len(scores[0]["tokens"])
    assert scores[0]["logprobs"] == pytest.approx(logprobs.token_logprobs[-count:], abs=1e-4)


def test_the_native_route_gives_the_tokens_of_the_answer(process: Process) -> None:
    sampling = {"temperature": 0, "max_new_tokens": 5, "ignore_eos": True}
    text = post(process, "/generate", {"text": "abc", "sampling_params": sampling})
    assert len(text["output_ids"]) == text["meta_info"]["completion_tokens"] == 5
    assert text["meta_info"]["finish_reason"] == {"type": "length", "length": 5}


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_client_that_leaves_stops_the_engine(process: Process) -> None:
    sampling = {"max_new_tokens": 900, "ignore_eos": True}
    body = json.dumps({"text": "abc", "stream": True, "sampling_params": sampling}).encode()
    with socket.create_connection(("127.0.0.1", process.port)) as sock:
        head = f"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        sock.sendall(f"{head}\r\n\r\n".encode() + body)
        assert b"200 OK" in sock.recv(100)
    wait_until(lambda: stats(process)["running"] == 0)
    before = stats(process)
    assert before["generated"] < 900
    time.sleep(0.1)
    assert stats(process)["steps"] == before["steps"]


def stats(process: Process) -> dict[str, int]:
    with urllib.request.urlopen(f"{process.url}/get_server_info", timeout=30) as reply:
        return json.load(reply)["internal_states"][0]


def test_a_missing_model_is_one_line_and_status_1(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "stolon.runtime", "--model-path", str(tmp_path), "--port", str(free_port())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 1
    assert found.stderr.startswith("stolon.launch_server: error: ")
    assert found.stderr.count("\n") == 1


def test_sigterm_lets_a_stream_finish_and_exits_with_0(tiny_checkpoint: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-CANARY\n")
    running = launch(tiny_checkpoint, "--served-model-name", "tiny", "--api-key-file", str(key))
    try:
        with OpenAI(base_url=f"{running.url}/v1", api_key="sk-CANARY", max_retries=0) as client:
            stream = client.completions.create(
                model="tiny",
                prompt="abc",
                max_tokens=400,
                temperature=0,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            chunks = iter(stream)
            next(chunks)
            running.popen.send_signal(signal.SIGTERM)
            rest = list(chunks)
        assert rest[-1].choices[0].finish_reason == "length"
        assert running.popen.wait(10) == 0
    finally:
        running.popen.kill()
        _, problem = running.popen.communicate()
    assert "Traceback" not in problem
    assert "CANARY" not in problem + running.started
