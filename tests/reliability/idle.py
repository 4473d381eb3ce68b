"""Thousands of streams that say nothing: `python -m tests.reliability.idle`.

Held to: 300 MB for 10,000 of them, /health in a p99 of 100 ms meanwhile, every descriptor back when they leave.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time

from tests.reliability.process import Server, client, percentile, running, settled, told

BODY = json.dumps({"text": "abc", "stream": True, "sampling_params": {"max_new_tokens": 99, "ignore_eos": True}})
HEAD = f"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
AT_ONCE = 200  # streams opened together


async def opened(port: int) -> asyncio.StreamWriter:
    """A stream that has said its first token."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2048)
    writer.write((HEAD + BODY).encode())
    await reader.readuntil(b"data: ")
    return writer


async def measure(server: Server, streams: int) -> int:
    port = int(server.url.rpartition(":")[2])
    before = server.held()
    writers: list[asyncio.StreamWriter] = []
    while len(writers) < streams:
        writers += await asyncio.gather(*(opened(port) for _ in range(min(AT_ONCE, streams - len(writers)))))
    held = server.held()
    times: list[float] = []
    async with client(server.url) as http:
        for _ in range(100):
            began = time.monotonic()
            async with http.get("/health") as reply:
                assert reply.status == 200
            times.append(time.monotonic() - began)
    for writer in writers:
        writer.transport.abort()

    async def are_back() -> bool:
        return server.held().descriptors <= before.descriptors + 2

    back_s = await settled(are_back, 30)
    health_ms = percentile(times, 0.99) * 1000
    figures = {
        "streams": streams,
        "rss_mb": round(held.rss_mb, 1),
        "kb_a_stream": round((held.rss_mb - before.rss_mb) * 1000 / streams, 1),
        "health_p99_ms": round(health_ms, 1),
        "descriptors_back_s": round(back_s, 2),
    }
    return told("idle", **figures, ok=bool(held.rss_mb <= 300 and health_ms <= 100 and back_s < 30))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=10_000)
    asked = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if asked.streams > hard - 200:
        print(f"at most {hard} descriptors are allowed here; ask for fewer streams", file=sys.stderr)
        return 2
    flags = ("--slots", str(2 * asked.streams), "--queue", "1000", "--pace", "0", "--hold-after", "1")
    with running("tests.reliability.serve", *flags) as server:
        return asyncio.run(measure(server, asked.streams))


if __name__ == "__main__":
    sys.exit(main())
