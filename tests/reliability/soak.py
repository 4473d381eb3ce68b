"""Clients of all kinds for a while: `python -m tests.reliability.soak --engine tiny --minutes 10`.

One in five leaves at a random point, one in twenty sends something wrong, one in a hundred reads slowly, one in a
hundred asks for an answer of a form. Afterwards nothing may be left: no KV slot, descriptor, thread, task or child; and
memory may grow by 1 MB for 10,000 requests (least squares over the second half).

On a CPU products are compiled for each number of rows that occurs, and kept. Their number is bounded, but a rare one
that comes late looks like growth; so before the clients come, steps of all sizes that they can ask for are taken once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.reliability.process import Held, Server, client, running, settled, tiny, told

WRONG: list[dict[str, Any]] = [
    {"text": "a", "sampling_params": {"max_new_tokens": -1}},
    {"txt": "a"},
    {"text": 5},
    {"input_ids": [10**9]},
    {"text": "a", "sampling_params": {"regex": "((("}},
]
FEWEST = 5_000  # requests from which memory's slope says something
MOST_ROWS = 64  # answers in one step
MOST_TOKENS = 512  # of prompts in one step


@dataclass
class Soak:
    """seed: of what each client does; wrong: requests that must be refused"""

    url: str
    seed: int
    wrong: list[dict[str, Any]]
    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter[str])

    async def client(self, http: aiohttp.ClientSession, number: int, end: float) -> None:
        dice = random.Random(f"{self.seed}-{number}")
        while time.monotonic() < end:
            self.requests += 1
            try:
                self.statuses[await self._one(http, dice)] += 1
            except (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError) as error:
                self.statuses[type(error).__name__] += 1

    async def _one(self, http: aiohttp.ClientSession, dice: random.Random) -> str:
        """What became of one request."""
        kind = dice.random()
        if kind < 0.05:
            async with http.post("/generate", json=dice.choice(self.wrong)) as reply:
                await reply.read()
                return "refused" if reply.status == 400 else f"wrong {reply.status}"
        body: dict[str, Any] = {
            "text": "The capital of " + dice.choice(["France", "Peru", "Japan", "Kenya"]) * dice.randint(1, 5),
            "stream": dice.random() < 0.5,
        }
        sampling: dict[str, Any] = {"max_new_tokens": dice.randint(1, 24), "n": dice.choice([1, 1, 1, 2])}
        if kind < 0.06:
            sampling["regex"] = dice.choice(["[a-z]{3,9}", "(yes|no)", "\\d{1,4}"])
        body["sampling_params"] = sampling
        if kind < 0.07:
            return await self._slow_reader(body)
        if kind < 0.27:
            return await self._leaves(http, body, dice.random() * 0.05)
        async with http.post("/generate", json=body) as reply:
            text = await reply.text()
            if reply.status == 200 and body["stream"]:
                return "answered" if text.endswith("data: [DONE]\n\n") else "cut"
            return {200: "answered", 503: "busy"}.get(reply.status, f"wrong {reply.status}")

    async def _leaves(self, http: aiohttp.ClientSession, body: dict[str, Any], after_s: float) -> str:
        task = asyncio.create_task(http.post("/generate", json=body))
        done, _ = await asyncio.wait([task], timeout=after_s)
        if done:
            task.result().close()  # in the middle of the answer
        else:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return "left"

    async def _slow_reader(self, body: dict[str, Any]) -> str:
        host, _, port = self.url.rpartition("//")[2].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        raw = json.dumps({**body, "stream": True}).encode()
        head = f"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + raw)
        while await reader.read(100):  # noqa: ASYNC110 slowness is the point
            await asyncio.sleep(0.01)
        writer.close()
        return "slow"


async def take_steps_of_every_size(http: aiohttp.ClientSession, seed: int) -> None:
    dice = random.Random(f"{seed}-sizes")
    for answers in range(1, MOST_ROWS + 1):
        await _answered(http, {"text": ["a"] * answers}, 3)
    for tokens in (*range(1, 65), *range(72, MOST_TOKENS + 1, 8)):  # in eights: as they are rounded
        await _answered(http, {"input_ids": [dice.randrange(300, 2000) for _ in range(tokens)]}, 1)


async def _answered(http: aiohttp.ClientSession, prompts: dict[str, Any], tokens: int) -> None:
    sampling = {"max_new_tokens": tokens, "ignore_eos": True}
    async with http.post("/generate", json={**prompts, "sampling_params": sampling}) as reply:
        assert reply.status == 200, await reply.text()


async def counted(http: aiohttp.ClientSession) -> dict[str, Any]:
    async with http.get("/get_server_info") as reply:
        found = await reply.json()
    return {**found["internal_states"][0], "in_flight": found["in_flight"]}


async def measure(server: Server, seconds: float, clients: int, seed: int, wrong: list[dict[str, Any]]) -> int:
    soak = Soak(server.url, seed, wrong)
    first_half: list[Held] = []
    curve: list[tuple[int, float]] = []  # requests, MB
    async with client(server.url) as http:
        began = time.monotonic()
        tasks = [asyncio.create_task(soak.client(http, number, began + seconds)) for number in range(clients)]
        while not all(task.done() for task in tasks):
            held = server.held()
            curve.append((soak.requests, held.rss_mb))
            if time.monotonic() < began + seconds / 2:
                first_half.append(held)
            await asyncio.sleep(min(1.0, seconds / 50))
        await asyncio.gather(*tasks)

    async with client(server.url) as http:

        async def is_idle() -> bool:
            now = await counted(http)
            return not (now["running"] or now["waiting"] or now["in_flight"])

        idle_s = await settled(is_idle, 10)
        now = await counted(http)
    await asyncio.sleep(1)
    after = server.held()
    slots = now["kv_total"] - now["kv_free"] - now["kv_cached"] if "kv_total" in now else 0
    leaks = {
        "kv_slots": slots,
        "descriptors": after.descriptors - max(each.descriptors for each in first_half),
        "threads": after.threads - max(each.threads for each in first_half),
        "children": after.children - max(each.children for each in first_half),
        "answers": now["running"] + now["waiting"],
        "tasks": now.get("tasks", 0) - 20,
    }
    leaks = {name: max(0, count) for name, count in leaks.items()}
    slope = slope_of(curve[len(curve) // 2 :]) * 10_000
    odd = {name: count for name, count in soak.statuses.items() if name.startswith(("wrong", "cut"))}
    figures = {"seed": seed, "seconds": seconds, "requests": soak.requests, "outcomes": dict(soak.statuses)}
    ok = not odd and not any(leaks.values()) and (slope <= 1 or soak.requests < FEWEST) and idle_s < 10
    more = {"leaked": leaks, "idle_s": round(idle_s, 2), "mb_for_10000_requests": round(slope, 2)}
    return told("soak", **figures, **more, rss_mb=round(after.rss_mb, 1), ok=bool(ok))


def slope_of(points: list[tuple[int, float]]) -> float:
    """Least squares; 0 for too few points."""
    count = len(points)
    if count < 3:
        return 0.0
    x, y = sum(p[0] for p in points) / count, sum(p[1] for p in points) / count
    spread = sum((p[0] - x) ** 2 for p in points)
    return sum((p[0] - x) * (p[1] - y) for p in points) / spread if spread else 0.0


async def soaked(server: Server, asked: argparse.Namespace, wrong: list[dict[str, Any]]) -> int:
    if asked.engine == "tiny":
        async with client(server.url) as http:
            await take_steps_of_every_size(http, asked.seed)
    return await measure(server, asked.seconds or 60 * asked.minutes, asked.clients, asked.seed, wrong)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=["paced", "tiny"], default="paced")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seconds", type=float, help="in place of minutes")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if asked.engine == "tiny":
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
        server = running("stolon.launch_server", *tiny(port, "--kv-tokens", "4096", "--check"))
    else:
        server = running("tests.reliability.serve", "--slots", "64", "--queue", "512", "--pace", "0.001")
    with server as each:
        # a fake engine knows no grammar that it could refuse
        wrong = WRONG if asked.engine == "tiny" else WRONG[:-1]
        return asyncio.run(soaked(each, asked, wrong))


if __name__ == "__main__":
    sys.exit(main())
