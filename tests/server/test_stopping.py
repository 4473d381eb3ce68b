"""Signals, sent to a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

ROOT = Path(__file__).parents[2]


@dataclass
class Child:
    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession

    async def stream(self, tokens: int) -> aiohttp.ClientResponse:
        """The answer to a request that takes `tokens` hundredths of a second, once it has begun."""
        sampling = {"max_new_tokens": tokens, "ignore_eos": True}
        body = {"text": "abc", "stream": True, "incremental": True, "sampling_params": sampling}
        reply = await self.http.post("/generate", json=body)
        await reply.content.readuntil(b"\n\n")
        return reply

    async def ended(self, within_s: float) -> int:
        return await asyncio.wait_for(self.process.wait(), within_s)


@asynccontextmanager
async def running(drain_seconds: float) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.server.fake_process", str(drain_seconds)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        yield Child(process, http)
    if process.returncode is None:
        process.kill()
    _, problem = await process.communicate()
    assert b"Traceback" not in problem, problem.decode()


def last_event(raw: bytes) -> str:
    return raw.decode().split("\n\n")[-2].removeprefix("data: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_after_one_signal_requests_finish_and_new_ones_are_refused(number: signal.Signals) -> None:
    async with running(30) as child:
        reply = await child.stream(100)
        child.process.send_signal(number)
        while True:
            async with child.http.post("/generate", json={"text": "a"}) as late:
                if late.status == 503:  # the signal has arrived
                    assert (await late.json())["error"]["code"] == "shutting_down"
                    break
        assert last_event(await reply.content.read()) == "[DONE]"
        assert await child.ended(3) == 0


async def test_an_idle_server_stops_at_once() -> None:
    async with running(30) as child:
        began = time.monotonic()
        child.process.send_signal(signal.SIGTERM)
        assert await child.ended(3) == 0
        assert time.monotonic() - began < 2


async def test_a_second_signal_ends_what_is_in_flight_with_an_error() -> None:
    async with running(30) as child:
        reply = await child.stream(100_000)
        child.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        child.process.send_signal(signal.SIGTERM)
        assert json.loads(last_event(await reply.content.read()))["error"]["code"] == "shutting_down"
        assert await child.ended(3) == 0
        assert time.monotonic() - began < 2


async def test_what_is_in_flight_at_the_end_of_the_drain_time_ends_with_an_error() -> None:
    async with running(0.3) as child:
        reply = await child.stream(100_000)
        child.process.send_signal(signal.SIGTERM)
        assert json.loads(last_event(await reply.content.read()))["error"]["code"] == "shutting_down"
        assert await child.ended(3) == 0
