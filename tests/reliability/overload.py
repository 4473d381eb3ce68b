"""Ten times more requests than can be answered: `python -m tests.reliability.overload --seconds 60`.

Held to: at least 90 % of the peak throughput, every refusal 503 with Retry-After in a p99 of 50 ms, the latency of
one request back to normal within 5 s, and 50 MB more memory at most.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass, field

import aiohttp

from tests.reliability.process import Server, client, percentile, running, settled, told

BODY = {"text": "once upon a time", "sampling_params": {"max_new_tokens": 20, "ignore_eos": True}}


@dataclass
class Seen:
    answered: int = 0
    refused_s: list[float] = field(default_factory=list[float])
    without_time: int = 0
    wrong: int = 0

    async def ask(self, http: aiohttp.ClientSession) -> None:
        began = time.monotonic()
        try:
            async with http.post("/generate", json=BODY) as reply:
                await reply.read()
                if reply.status == 200:
                    self.answered += 1
                elif reply.status == 503:
                    self.refused_s.append(time.monotonic() - began)
                    self.without_time += not reply.headers.get("Retry-After", "").isdecimal()
                else:
                    self.wrong += 1
        except aiohttp.ClientError:
            self.wrong += 1


async def closed_loop(http: aiohttp.ClientSession, clients: int, seconds: float) -> float:
    """Answers a second with so many clients that ask one after another."""
    seen, end = Seen(), time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < end:
            await seen.ask(http)

    await asyncio.gather(*(one() for _ in range(clients)))
    return seen.answered / seconds


async def open_loop(http: aiohttp.ClientSession, rate: float, seconds: float) -> tuple[Seen, float]:
    """Requests at a fixed rate, whatever becomes of them; and answers a second."""
    seen, began = Seen(), time.monotonic()
    tasks: set[asyncio.Task[None]] = set()
    sent = 0
    while (now := time.monotonic() - began) < seconds:
        while sent < now * rate:
            task = asyncio.create_task(seen.ask(http))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.002)
    answered = seen.answered
    await asyncio.gather(*tasks)
    return seen, answered / seconds


async def measure(server: Server, seconds: float, factor: float, slots: int) -> int:
    async with client(server.url) as http:
        await closed_loop(http, slots, 2)  # warm
        peak = await closed_loop(http, 2 * slots, max(3, seconds / 6))
        alone_s = 1 / await closed_loop(http, 1, 2)
        before = server.held().rss_mb
        seen, kept = await open_loop(http, factor * peak, seconds)

        async def is_normal() -> bool:
            began = time.monotonic()
            await seen.ask(http)
            return time.monotonic() - began < 1.5 * alone_s

        recovery_s = await settled(is_normal, 10)
        growth_mb = server.held().rss_mb - before
    p99_ms = percentile(seen.refused_s, 0.99) * 1000
    figures = {
        "peak_rps": round(peak, 1),
        "asked_rps": round(factor * peak, 1),
        "kept": round(kept / peak, 3),
        "refused": len(seen.refused_s),
        "refusal_p50_ms": round(percentile(seen.refused_s, 0.5) * 1000, 1),
        "refusal_p99_ms": round(p99_ms, 1),
        "refused_without_retry_after": seen.without_time,
        "wrong": seen.wrong,
        "recovery_s": round(recovery_s, 2),
        "rss_growth_mb": round(growth_mb, 1),
    }
    ok = kept >= 0.9 * peak and p99_ms <= 50 and not (seen.without_time or seen.wrong)
    return told("overload", seconds=seconds, **figures, ok=bool(ok and recovery_s <= 5 and growth_mb <= 50))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--factor", type=float, default=10)
    asked = parser.parse_args()
    slots = 8
    with running("tests.reliability.serve", "--slots", str(slots), "--queue", str(2 * slots)) as server:
        return asyncio.run(measure(server, asked.seconds, asked.factor, slots))


if __name__ == "__main__":
    sys.exit(main())
