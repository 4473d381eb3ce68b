"""Hostile constraints against the built-in model: `python -m tests.reliability.hostile`.

Held to: each gets an answer or its error, a stream beside them says what it says on a quiet server, /health is
answered in a p99 of 100 ms meanwhile, and no process or thread is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
from typing import Any

import aiohttp

from tests.reliability.process import Server, client, percentile, running, settled, tiny, told
from tests.structured.hostile import HOSTILE, OK

FIELDS = {"regex": "regex", "json_schema": "json_schema", "grammar": "ebnf", "choices": "guided_choice"}
TEXT = {"model": "tiny", "prompt": "Once", "max_tokens": 400, "ignore_eos": True, "temperature": 1, "seed": 1}
# what is said before a constraint is compiled, and where a form that works becomes too slow
ALSO = {"invalid_value", "invalid_schema", "budget_too_small", "grammar_limit", "grammar_dead_end"}
CHILDREN = 2  # in which constraints are compiled


async def streamed(http: aiohttp.ClientSession) -> str:
    said: list[str] = []
    async with http.post("/v1/completions", json={**TEXT, "stream": True}) as reply:
        async for line in reply.content:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                said += [choice["text"] for choice in choices]
    return "".join(said)


async def attacked(http: aiohttp.ClientSession, name: str) -> str | None:
    """What was wrong with the answer, if something was."""
    constraint, codes = HOSTILE[name]
    value = list(constraint.choices) if constraint.kind == "choices" else constraint.text
    body = {**TEXT, "max_tokens": 24, "ignore_eos": False, FIELDS[constraint.kind]: value}
    async with http.post("/v1/completions", json=body) as reply:
        found: Any = await reply.json()
    code = OK if reply.status == 200 else found["error"]["code"]
    return None if code in codes or code in ALSO else f"{name}: {code}"


async def watch_health(http: aiohttp.ClientSession, times: list[float]) -> None:
    while True:
        began = time.monotonic()
        async with http.get("/health") as reply:
            assert reply.status == 200
        times.append(time.monotonic() - began)
        await asyncio.sleep(0.02)


async def measure(server: Server) -> int:
    names = [name for name, (constraint, _) in HOSTILE.items() if constraint.kind in FIELDS]
    times: list[float] = []
    async with client(server.url) as http:
        quiet = await streamed(http)
        await attacked(http, names[0])  # the children are there then
        before = server.held()
        health = asyncio.create_task(watch_health(http, times))
        wrong: list[str] = []
        same = True
        for at in range(0, len(names), 8):
            answers = asyncio.gather(*(attacked(http, name) for name in names[at : at + 8]))
            stream = asyncio.create_task(streamed(http))
            wrong += [answer for answer in await answers if answer is not None]
            same = same and await stream == quiet
        health.cancel()
        await asyncio.gather(health, return_exceptions=True)

    async def is_at_rest() -> bool:
        now = server.held()
        return now.children <= CHILDREN and now.threads <= before.threads + CHILDREN

    rest_s = await settled(is_at_rest, 15)
    health_ms = percentile(times, 0.99) * 1000
    figures = {
        "constraints": len(names),
        "wrong": wrong,
        "streams_unchanged": same,
        "health_p99_ms": round(health_ms, 1),
        "health_asked": len(times),
        "at_rest_s": round(rest_s, 2),
    }
    return told("hostile", **figures, ok=bool(not wrong and same and health_ms <= 100 and rest_s < 15))


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running("stolon.launch_server", *tiny(port)) as server:
        return asyncio.run(measure(server))


if __name__ == "__main__":
    sys.exit(main())
