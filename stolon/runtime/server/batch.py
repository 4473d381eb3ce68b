"""`python -m stolon.run_batch`: answers a file of requests, with a model in this process or with a server."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tqdm import tqdm

from . import auth
from .app import App
from .batch_files import Answers, Line, lines
from .connection import listen
from .flags import parse
from .main import CannotStart, load
from .service import Service

PROGRAM = "stolon.run_batch"
_BUSY = (408, 429, 500, 502, 503, 504)  # what may pass by waiting
_REFUSED = (429, 503)  # those of them that are no answer: they say nothing of the request
_LONGEST_WAIT_S = 30.0


class _GivenUp(Exception):
    """Why the run cannot go on; what has been answered is in the file."""


@dataclass(slots=True)
class _Counts:
    answered: int = 0
    failed: int = 0
    skipped: int = 0
    tokens: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all answered, 1 some failed or the run ended early, 2 wrong flags, 130 interrupted."""
    asked, further = _parser().parse_known_args(arguments)
    if asked.url is not None and further:
        print(f"{PROGRAM}: error: {further[0]} is for a model in this process, not with --url", file=sys.stderr)
        return 2
    counts = _Counts()
    try:
        answers = Answers(asked.output)
        try:
            interrupted = asyncio.run(_run(asked, further, answers, counts))
        finally:
            answers.close()
    except (CannotStart, _GivenUp) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return error.status if isinstance(error, CannotStart) else 1
    except OSError as error:
        print(f"{PROGRAM}: error: {error.filename or asked.output}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{counts.answered} answered, {counts.failed} failed, {counts.skipped} were in {asked.output} already")
    if interrupted:
        print(f"{PROGRAM}: interrupted; the same command goes on where this one ended", file=sys.stderr)
        return 130
    return 1 if counts.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Answer a file of requests in OpenAI's batch format. Running it again answers what is missing.",
        epilog="All flags of stolon.launch_server about the model are understood too.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-i", "--input", type=Path, required=True, help="a JSON object with custom_id, url, body a line"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="answers are added to this file")
    parser.add_argument("--url", help="a server that answers, in place of a model in this process")
    parser.add_argument("--key", help="the key of that server")
    parser.add_argument("--concurrency", type=_from(1), default=64, help="requests at a time (default: 64)")
    parser.add_argument("--retries", type=_from(0), default=5, help="when the server is busy or gone (default: 5)")
    return parser


def _from(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= 65536:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to 65536, got {text[:40]!r}")
        return int(text)

    return read


async def _run(asked: argparse.Namespace, further: Sequence[str], answers: Answers, counts: _Counts) -> bool:
    """Whether it was interrupted."""
    total = None if asked.input.is_fifo() else sum(1 for _ in lines(asked.input))  # a pipe can be read only once
    waiting = _unanswered(asked.input, answers, counts)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    bar: Any = tqdm(total=total, unit="request", file=sys.stderr, disable=None)
    where = _local(further) if asked.url is None else _remote(asked.url, asked.key)
    async with where as http:
        workers = [
            asyncio.create_task(_work(http, waiting, answers, counts, bar, asked.retries, stop))
            for _ in range(asked.concurrency)
        ]
        stopped = asyncio.create_task(stop.wait())
        every = asyncio.gather(*workers)
        try:
            await asyncio.wait([every, stopped], return_when=asyncio.FIRST_COMPLETED)
            every.cancel()  # does nothing to what is done
            await every
        except asyncio.CancelledError:
            if not stop.is_set():
                raise
        finally:
            stopped.cancel()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            bar.close()
    return stop.is_set()


def _unanswered(path: Path, answers: Answers, counts: _Counts) -> Iterator[Line]:
    for line in lines(path):
        if line.key in answers.done:
            counts.skipped += 1
        else:
            yield line


@asynccontextmanager
async def _remote(url: str, key: str | None) -> AsyncGenerator[aiohttp.ClientSession]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, headers=headers, timeout=timeout, connector=connector) as http:
        yield http


@asynccontextmanager
async def _local(flags: Sequence[str]) -> AsyncGenerator[aiohttp.ClientSession]:
    """A server in this process, on a port that only this process knows the key of."""
    settings, config = parse(flags, program=PROGRAM, no_model=", or --url for a server")
    engine, embedder = await asyncio.to_thread(load, settings, config)
    service = Service(settings, engine, embedder=embedder)
    key = secrets.token_urlsafe(32)
    sock = socket.create_server(("127.0.0.1", 0))
    listener = await listen(App(service, auth.Keys((auth.digest(key),))).answer, settings, sock)
    try:
        async with _remote(f"http://127.0.0.1:{sock.getsockname()[1]}", key) as http:
            yield http
    finally:
        await service.end()
        await listener.close()


async def _work(
    http: aiohttp.ClientSession,
    waiting: Iterator[Line],
    answers: Answers,
    counts: _Counts,
    bar: Any,
    retries: int,
    stop: asyncio.Event,
) -> None:
    """Answers one line after another until there are no more. `waiting` is shared by all workers."""
    for line in waiting:
        if stop.is_set():
            return
        if line.problem is not None:
            code, message = line.problem
            answers.add(line, None, {"code": code, "message": message})
            counts.failed += 1
        else:
            status, request_id, body = await _ask(http, line, retries)
            answers.add(line, {"status_code": status, "request_id": request_id, "body": body}, None)
            counts.answered += status < 400
            counts.failed += status >= 400
            counts.tokens += _made(body)
        bar.update()
        bar.set_postfix(failed=counts.failed, tokens=counts.tokens, refresh=False)


def _made(body: Any) -> int:
    """Tokens of an answer, where it says them."""
    try:
        return int(body["usage"]["completion_tokens"])
    except (KeyError, TypeError, ValueError):
        return 0


async def _ask(http: aiohttp.ClientSession, line: Line, retries: int) -> tuple[int, str, Any]:
    """Status, request id and body of the answer. Raises _GivenUp where nobody answers, or all are refused."""
    wait_s = 0.5
    for attempt in range(retries + 1):
        last = attempt == retries
        try:
            async with http.post(line.url, json=line.body, allow_redirects=False) as reply:
                if reply.status not in _BUSY or (last and reply.status not in _REFUSED):
                    is_json = reply.content_type == "application/json"
                    return reply.status, reply.headers.get("X-Request-Id", ""), await _body(reply, is_json)
                if last:
                    said = (await reply.text())[:200]
                    raise _GivenUp(f"line {line.number}: the server takes no requests ({reply.status}): {said}")
                wait_s = _retry_after(reply, wait_s)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            if last:
                raise _GivenUp(f"line {line.number}: nobody answers: {type(error).__name__}: {error}") from error
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
    raise AssertionError("the last attempt returns or raises")


async def _body(reply: aiohttp.ClientResponse, is_json: bool) -> Any:
    return await reply.json() if is_json else await reply.text()


def _retry_after(reply: aiohttp.ClientResponse, otherwise_s: float) -> float:
    said = reply.headers.get("Retry-After", "")
    return min(float(said), _LONGEST_WAIT_S) if said.isdecimal() else otherwise_s
