"""What HTTP costs: CPU time of the server for each streamed token and for each small request.

`python -m benchmarks.http_cost [--runs 5] [--streams 64] [--tokens 200]`

The engine is one that makes tokens out of nothing, in steps that serve all requests at once as a real one does, so all
of the CPU time is that of HTTP, JSON and the event loop. Server and client are two processes; the figure is the CPU
time of the server's, user and system, less what the same deltas cost when nobody asks over HTTP. Beside the small
requests stands what aiohttp alone takes to read such a body and to send such an answer, and what each costs above that.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import platform
import resource
import socket
import statistics
import subprocess
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
from aiohttp import web

from stolon.lang.types import Delta, SamplingParams, Usage
from stolon.runtime.server.app import App
from stolon.runtime.server.auth import Keys
from stolon.runtime.server.connection import listen
from stolon.runtime.server.service import Service
from stolon.runtime.server.settings import ServerConfig
from stolon.runtime.view import View

TARGET_US, SMALL_TARGET_US = 40.0, 150.0  # of a streamed token, of a small request
ROUNDS, TOGETHER = 10, 50  # of small requests
PIECES = [" the", " of", "ing", ' "', "é", "\n", " tokens", "."]
MESSAGES = [{"role": "user", "content": "hello"}]


class Tokenizer:
    bos_token_id = 0
    special_ids = frozenset({0})

    def require(self, what: str) -> None: ...

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        return [0] * bos + [1] * len(text)

    def encode_scaffold(self, text: str) -> list[int]:
        return self.encode(text, bos=False)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return "".join(map(self.token_text, ids))

    def token_bytes(self, id: int) -> bytes:
        return self.token_text(id).encode()

    def token_text(self, id: int) -> str:
        return PIECES[id % len(PIECES)]


class Chat:
    source, takes_tools = "<tool_call> name", True

    def encode(self, messages: Sequence[Any], **more: object) -> list[int]:
        return [0, 1, 2]


class Heartbeat:
    alive, busy, at_s = True, False, 0.0


class Engine:
    """One token for every request in each step; steps follow each other without pause."""

    model_name = "none"
    other_names = ()
    path = None
    sampling_defaults: Mapping[str, float] = MappingProxyType({})
    memory_report = ""
    context_length = 1 << 20
    vocab_size = 1000
    heartbeat = Heartbeat()

    def __init__(self) -> None:
        self.tokenizer = Tokenizer()
        self.chat = Chat()
        self._step = asyncio.get_running_loop().create_future()
        self._waiting = 0
        self._steps = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            # a step comes to the loop as the engine's thread would bring it
            await asyncio.sleep(0 if self._waiting else 0.0005)
            step, self._step = self._step, asyncio.get_running_loop().create_future()
            step.set_result(None)

    def abort(self, rid: str | None) -> int:
        return 0

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, **more: object
    ) -> AsyncGenerator[Delta, None]:
        self._waiting += 1
        try:
            for place in range(params.max_tokens):
                await asyncio.shield(self._step)
                yield Delta(PIECES[place % len(PIECES)], [place])
            usage = Usage(prompt_tokens=len(prompt_ids), completion_tokens=params.max_tokens, requests=1)
            yield Delta("", [], finish="length", usage=usage)
        finally:
            self._waiting -= 1

    async def score(self, token_lists: Sequence[Sequence[int]], start: int, **more: object) -> list[tuple[float, ...]]:
        return [tuple(0.0 for _ in tokens[start:]) for tokens in token_lists]

    def room(self, prompt_length: int) -> int:
        return self.context_length - prompt_length

    async def flush_cache(self) -> bool:
        return True

    async def view(self, nodes: int, requests: int, first: int = 0) -> View:
        return View([], [])

    def stats(self) -> dict[str, object]:
        return {"cpu_s": cpu_s()}

    async def close(self, drain_s: float = 0) -> None:
        self._steps.cancel()


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def serve(sock: socket.socket, alone: socket.socket) -> None:
    """stolon's server on one socket, aiohttp by itself on the other."""

    async def run() -> None:
        gc.freeze()  # as the command does
        settings = ServerConfig(log_level="warning")
        await listen(App(Service(settings, Engine()), Keys()).answer, settings, sock)
        app = web.Application()
        app.router.add_post("/", answer_alone)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.SockSite(runner, alone).start()
        await asyncio.Event().wait()

    asyncio.run(run())


async def answer_alone(request: web.Request) -> web.Response:
    asked = json.loads(await request.read())
    answer = {"model": asked["model"], "choices": [{"message": {"role": "assistant", "content": " the"}}]}
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")


async def without_http(streams: int, tokens: int, rounds: int = 1) -> float:
    """CPU seconds for a token when the deltas are only counted."""
    engine = Engine()
    params = SamplingParams(max_tokens=tokens)

    async def one() -> int:
        return sum([len(delta.tokens) async for delta in engine.generate([0], params)])

    began = cpu_s()
    made = sum([sum(await asyncio.gather(*(one() for _ in range(streams)))) for _ in range(rounds)])
    used = cpu_s() - began
    await engine.close()
    return used / made


async def server_cpu_s(http: aiohttp.ClientSession) -> float:
    async with http.get("/get_server_info") as reply:
        return (await reply.json())["internal_states"][0]["cpu_s"]


async def read_all(http: aiohttp.ClientSession, path: str, body: object) -> int:
    """Read an answer as it comes; returns how many events it had."""
    async with http.post(path, json=body) as reply:
        assert reply.status == 200, await reply.text()
        return sum([piece.count(b"data: {") async for piece in reply.content.iter_any()])


async def measure(url: str, alone: str, streams: int, tokens: int) -> dict[str, float]:
    """Microseconds of the server's CPU time: for each streamed token of each route, and for each small request."""
    found: dict[str, float] = {}
    chat = {"model": "none", "messages": MESSAGES, "max_tokens": tokens, "stream": True}
    text = {"model": "none", "prompt": "hello", "max_tokens": tokens, "stream": True}
    native = {"text": "hello", "sampling_params": {"max_new_tokens": tokens}, "stream": True, "incremental": True}
    asked = {"/v1/chat/completions": chat, "/v1/completions": text, "/generate": native}
    base = await without_http(streams, tokens)
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as http:
        await asyncio.gather(*(read_all(http, path, body) for path, body in asked.items()))  # warm
        for path, body in asked.items():
            began = await server_cpu_s(http)
            events = sum(await asyncio.gather(*(read_all(http, path, body) for _ in range(streams))))
            assert events >= 0.95 * streams * tokens, "the client was too slow: tokens were sent together"
            found[path] = ((await server_cpu_s(http) - began) / (streams * tokens) - base) * 1e6
        small = {**chat, "max_tokens": 1, "stream": False}
        tokenize = {"model": "none", "prompt": "hello"}
        requests = (
            ("small chat", "/v1/chat/completions", small),
            ("/tokenize", "/tokenize", tokenize),
            ("aiohttp alone", alone, small),
        )
        for name, path, body in requests:
            began = await server_cpu_s(http)
            for _ in range(ROUNDS):
                await asyncio.gather(*(read_all(http, path, body) for _ in range(TOGETHER)))
            found[name] = (await server_cpu_s(http) - began) / (ROUNDS * TOGETHER) * 1e6
    found["small chat"] -= 1e6 * await without_http(TOGETHER, 1, ROUNDS)
    for name in ("small chat", "/tokenize"):
        found[f"{name} above aiohttp"] = found[name] - found["aiohttp alone"]
    found["deltas_alone"] = base * 1e6
    return found


def commit() -> str:
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return asked.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=200)
    args = parser.parse_args()
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    alone = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = multiprocessing.get_context("fork").Process(target=serve, args=(sock, alone), daemon=True)
    server.start()
    url, alone_url = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in (sock, alone))
    time.sleep(0.3)
    runs = [asyncio.run(measure(url, f"{alone_url}/", args.streams, args.tokens)) for _ in range(args.runs)]
    server.terminate()
    results: dict[str, dict[str, float]] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        results[name] = {
            "median_us": round(statistics.median(values), 1),
            "low_us": round(min(values), 1),
            "high_us": round(max(values), 1),
        }
        print(f"{name:28} {results[name]['median_us']:8.1f} us  ({min(values):.1f} to {max(values):.1f})")
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    shape = {"streams": args.streams, "tokens": args.tokens, "runs": args.runs, "target_us": TARGET_US}
    shape["small_target_us"] = SMALL_TARGET_US
    print(json.dumps({"benchmark": "http", "commit": commit(), **machine, **shape, "results": results}))


if __name__ == "__main__":
    main()
