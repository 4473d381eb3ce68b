"""`python -m stolon.run_batch`: every line gets an answer or an error, once, whatever ends the run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Running, StartServer
from tests.server.fake import FakeEngine
from tests.server.raw import until

ROOT = Path(__file__).parents[2]


def request(id: str, text: str = "abc", **fields: Any) -> dict[str, Any]:
    body = {"model": "default", "prompt": text, "max_tokens": 5, **fields}
    return {"custom_id": id, "method": "POST", "url": "/v1/completions", "body": body}


def write(path: Path, *entries: Any) -> Path:
    path.write_text("".join((e if isinstance(e, str) else json.dumps(e)) + "\n" for e in entries))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def run(server: Running | str, given: Path, out: Path, *flags: str) -> tuple[int, str, str]:
    url = server if isinstance(server, str) else server.url
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stolon.run_batch", "-i", str(given), "-o", str(out), "--url", url, *flags),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, problem = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in problem, problem.decode()
    return process.returncode, said.decode(), problem.decode()


async def test_every_line_is_answered_once_and_a_bad_one_harms_no_other(server: Running, tmp_path: Path) -> None:
    given = write(
        tmp_path / "in.jsonl",
        request("a"),
        "not json",
        "",
        request("b", max_tokens=-1),
        {**request("c"), "url": "/v1/nowhere"},
        {**request("d"), "method": "GET"},
        request("e", stream=True),
        request("a"),
        {"url": "/v1/completions"},
        request("f", "xyz"),
    )
    out = tmp_path / "out.jsonl"
    status, said, _ = await run(server, given, out)
    assert status == 1
    assert "2 answered, 7 failed, 0 were in" in said
    found = {entry["custom_id"] or entry["line"]: entry for entry in read(out)}
    assert len(found) == len(read(out)) == 9
    assert found["a"]["response"]["body"]["choices"][0]["text"] == "cba"
    assert found["f"]["response"]["body"]["choices"][0]["text"] == "zyx"
    assert found["a"]["response"]["status_code"] == 200
    assert found["a"]["error"] is None
    assert found["b"]["response"]["body"]["error"]["param"] == "max_tokens"
    assert found["c"]["response"]["status_code"] == 404
    codes = [found[key]["error"]["code"] for key in (2, "d", "e", 8, 9)]
    assert codes == ["invalid_json", "invalid_line", "invalid_line", "duplicate_custom_id", "invalid_line"]


async def test_a_second_run_answers_what_is_missing_and_mends_half_a_line(server: Running, tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", request("a"), "not json", request("b"))
    out = tmp_path / "out.jsonl"
    await run(server, given, out)
    whole = sorted(out.read_text().splitlines())
    kept = [line for line in whole if '"custom_id": "b"' not in line]
    out.write_text("\n".join(kept) + '\n{"id": "batch_req_3", "custom_id": "b", "resp')
    asked = len(server.engine.asked)
    status, said, _ = await run(server, given, out)
    assert (status, said.split(",")[0]) == (0, "1 answered")
    assert len(server.engine.asked) == asked + 1
    assert [entry["custom_id"] for entry in read(out)][-1] == "b"
    assert len(read(out)) == 3


async def test_the_requests_may_come_through_a_pipe(server: Running, tmp_path: Path) -> None:
    given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    os.mkfifo(given)
    feeder = asyncio.create_task(asyncio.to_thread(write, given, request("a"), request("b")))
    status, said, _ = await run(server, given, out)
    await feeder
    assert (status, said.split(",")[0]) == (0, "2 answered")
    assert {entry["custom_id"] for entry in read(out)} == {"a", "b"}


async def test_ctrl_c_keeps_what_is_there_and_the_next_run_goes_on(start: StartServer, tmp_path: Path) -> None:
    server = await start(FakeEngine(pace_s=0.02))
    given = write(tmp_path / "in.jsonl", *(request(str(i)) for i in range(40)))
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "stolon.run_batch", "-i", str(given), "-o", str(out), "--url", server.url]
    process = await asyncio.create_subprocess_exec(*command, "--concurrency", "2", cwd=ROOT, stderr=subprocess.PIPE)
    await until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 3, timeout_s=20)
    process.send_signal(signal.SIGINT)
    _, problem = await process.communicate()
    assert process.returncode == 130
    assert b"the same command goes on" in problem
    assert b"Traceback" not in problem
    done = len(read(out))
    assert 3 <= done < 40
    await until(lambda: server.engine.running == 0)
    server.engine.pace_s = 0.0
    status, said, _ = await run(server, given, out)
    assert (status, f"{40 - done} answered" in said) == (0, True)
    assert sorted(int(entry["custom_id"]) for entry in read(out)) == list(range(40))


async def test_a_busy_server_is_asked_again(start: StartServer, tmp_path: Path) -> None:
    server = await start(FakeEngine())
    server.engine.heartbeat.alive = False
    given = write(tmp_path / "in.jsonl", request("a"))
    running = asyncio.create_task(run(server, given, tmp_path / "out.jsonl"))
    await until(lambda: len(server.connections()) > 0, timeout_s=20)
    await asyncio.sleep(0.3)
    server.engine.heartbeat.alive = True
    assert (await running)[0] == 0


async def test_a_refusal_is_no_answer_and_the_next_run_asks_again(server: Running, tmp_path: Path) -> None:
    server.engine.heartbeat.alive = False
    given, out = write(tmp_path / "in.jsonl", request("a")), tmp_path / "out.jsonl"
    status, _, problem = await run(server, given, out, "--retries", "0")
    assert (status, read(out)) == (1, [])
    assert "line 1: the server takes no requests (503)" in problem
    server.engine.heartbeat.alive = True
    assert (await run(server, given, out))[0] == 0
    assert [entry["custom_id"] for entry in read(out)] == ["a"]


@pytest.mark.parametrize("retries", ["0", "1"])
async def test_a_server_that_is_not_there_ends_the_run(tmp_path: Path, retries: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    given = write(tmp_path / "in.jsonl", request("a"))
    status, _, problem = await run(f"http://127.0.0.1:{port}", given, tmp_path / "out.jsonl", "--retries", retries)
    assert status == 1
    assert "line 1: nobody answers" in problem


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
async def test_a_full_disk_ends_the_run_with_one_line(server: Running, tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", request("a"))
    status, _, problem = await run(server, given, Path("/dev/full"))
    assert status == 1
    assert "No space left on device" in problem
    assert problem.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--concurrency", "0"], "from 1 to 65536"),
        (["--model-path", "x"], "--model-path is for a model in this process"),
    ],
)
async def test_wrong_flags_are_status_2(tmp_path: Path, flags: list[str], says: str) -> None:
    given = write(tmp_path / "in.jsonl", request("a"))
    status, _, problem = await run("http://127.0.0.1:9", given, tmp_path / "out.jsonl", *flags)
    assert status == 2
    assert says in problem


def test_neither_a_model_nor_a_server_is_an_error_that_names_both(tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", request("a"))
    command = [sys.executable, "-m", "stolon.run_batch", "-i", str(given), "-o", str(tmp_path / "out.jsonl")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith("stolon.run_batch: error: no model is named")
    assert "--url" in ran.stderr
    assert ran.stderr.count("\n") == 1


async def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    status, _, problem = await run("http://127.0.0.1:9", tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    assert status == 1
    assert "none.jsonl: No such file or directory" in problem


def test_a_model_in_this_process_answers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", request("a"), request("b", "Once upon a time"))
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "stolon.run_batch", "-i", str(given), "-o", str(out)]
    command += ["--model-path", str(tiny_checkpoint), "--kv-tokens", "512", "--threads", "1"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    assert sorted(entry["custom_id"] for entry in read(out)) == ["a", "b"]
    # what is drawn may be an end
    assert all(1 <= entry["response"]["body"]["usage"]["completion_tokens"] <= 5 for entry in read(out))
