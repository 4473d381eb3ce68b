"""Clients that leave, stall, dribble or do not speak HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from stolon.runtime.server.main import tls_of
from stolon.runtime.server.settings import ServerConfig
from tests.server.conftest import Running, StartServer
from tests.server.fake import FakeEngine
from tests.server.raw import ask, exchange, parsed, until

HEAD = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def long_request(*, stream: bool, n: int = 1) -> dict[str, Any]:
    return {"text": "abc", "stream": stream, "sampling_params": {"max_new_tokens": 2000, "ignore_eos": True, "n": n}}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("after", [0, 1, 7])
async def test_a_client_that_leaves_ends_its_request_within_a_step(
    start: StartServer, stream: bool, n: int, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = await start(FakeEngine(pace_s=0.005))
    body = json.dumps(long_request(stream=stream, n=n)).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await until(lambda: server.engine.running == 1 and server.engine.heartbeat.steps >= after)
    # RST, as a killed process sends it, and FIN, as a closed one does
    if after % 2:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    steps = server.engine.heartbeat.steps
    writer.close()
    await until(lambda: server.engine.running == 0)
    assert server.engine.aborted == 1
    assert server.engine.heartbeat.steps <= steps + 2
    await until(lambda: server.service.in_flight == 0)
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_client_that_has_left_before_its_stream_begins_is_no_fault(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def lost(self: web.StreamResponse, request: web.BaseRequest) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(web.StreamResponse, "prepare", lost)
    with suppress(aiohttp.ClientError):
        await server.http.post("/generate", json=long_request(stream=True))
    await until(lambda: server.service.in_flight == 0)
    assert server.engine.aborted == 1
    assert "went away" in caplog.text
    assert "Traceback" not in caplog.text


async def test_with_a_certificate_it_speaks_tls_only(start: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = Path(__file__).parent / "data"
    settings = ServerConfig(ssl_certfile=str(data / "certificate.pem"), ssl_keyfile=str(data / "key.pem"))
    server = await start(tls=tls_of(settings))
    trust = ssl.create_default_context(cafile=data / "certificate.pem")
    async with aiohttp.ClientSession(f"https://localhost:{server.port}") as http:
        for stream in (False, True):
            body = {"text": "abc", "stream": stream, "sampling_params": {"max_new_tokens": 3}}
            async with http.post("/generate", json=body, ssl=trust) as reply:
                assert reply.status == 200
                assert "cba" in await reply.text()
    with pytest.raises(aiohttp.ClientError):
        await server.http.get("/health")
    # a client that leaves ends its request there, too
    reader, writer = await asyncio.open_connection("localhost", server.port, ssl=trust)
    body = json.dumps(long_request(stream=True)).encode()
    server.engine.pace_s = 0.005
    writer.write(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await reader.readline()
    writer.transport.abort()
    await until(lambda: server.engine.running == 0)
    assert server.engine.aborted == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_client_that_leaves_a_batch_ends_all_of_it(start: StartServer) -> None:
    server = await start(FakeEngine(pace_s=0.005))
    request = asyncio.create_task(server.http.post("/generate", json={**long_request(stream=False), "text": ["a"] * 5}))
    await until(lambda: server.engine.running == 5)
    request.cancel()
    await until(lambda: server.engine.running == 0)
    assert server.engine.aborted == 5


async def test_a_finished_request_is_not_aborted(server: Running) -> None:
    for stream in (True, False):
        async with server.http.post("/generate", json={"text": "abc", "stream": stream}) as reply:
            await reply.read()
    assert server.engine.aborted == 0


async def test_a_thousand_leaving_clients_leave_no_traceback(
    start: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = await start(FakeEngine(pace_s=0.02))
    body = json.dumps(long_request(stream=True)).encode()

    async def come_and_go() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await reader.read(100)
        writer.transport.abort()

    for _ in range(5):
        await asyncio.gather(*(come_and_go() for _ in range(40)))
    await until(lambda: server.engine.running == 0)
    assert len(caplog.records) <= 200
    assert "Traceback" not in caplog.text


async def test_half_a_head_is_closed_at_the_deadline(start: StartServer) -> None:
    server = await start(header_timeout_s=0.3)
    for sent in (b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: a\r\n"):
        raw = await exchange(server.port, sent)
        assert parsed(raw).status == 408
        assert json.loads(parsed(raw).body)["error"]["code"] == "request_timeout"


async def test_a_dribbled_head_does_not_push_the_deadline(start: StartServer) -> None:
    server = await start(header_timeout_s=0.4)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    async def dribble() -> None:
        writer.write(b"GET /health HTTP/1.1\r\nX: ")
        while True:
            writer.write(b"y")
            await asyncio.sleep(0.05)

    task = asyncio.create_task(dribble())
    with suppress(ConnectionResetError):  # what was dribbled after the end
        raw = await asyncio.wait_for(reader.read(), 3)
        assert b"408" in raw.split(b"\r\n")[0]
    task.cancel()
    writer.close()


async def test_half_a_body_is_closed_at_the_deadline(start: StartServer) -> None:
    server = await start(body_timeout_s=0.3)
    raw = await exchange(server.port, HEAD + b'Content-Length: 1000\r\n\r\n{"text"')
    assert parsed(raw).status == 408
    assert parsed(raw).headers["connection"] == "close"
    assert server.service.in_flight == 0


async def test_an_idle_connection_is_closed_in_the_end(start: StartServer) -> None:
    server = await start(keepalive_s=0.3, header_timeout_s=5)
    raw = await exchange(server.port, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    assert parsed(raw).status == 200


async def test_many_half_open_connections_slow_nobody_down(start: StartServer) -> None:
    server = await start(header_timeout_s=1.0)
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
    for _, writer in held:
        writer.write(b"POST /generate HTTP/1.1\r\nHost:")
    async with server.http.post("/generate", json={"text": "abc"}) as reply:
        assert reply.status == 200
    replies = await asyncio.gather(*(reader.read() for reader, _ in held))
    assert all(b"408" in reply for reply in replies)
    for _, writer in held:
        writer.close()


async def stalled(server: Running, body: dict[str, Any]) -> socket.socket:
    """A client that has asked and does not read."""
    loop = asyncio.get_running_loop()
    sent = json.dumps(body).encode()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", server.port))
    await loop.sock_sendall(sock, HEAD + f"Content-Length: {len(sent)}\r\nConnection: close\r\n\r\n".encode() + sent)
    return sock


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_reads_nothing_is_given_up(start: StartServer, stream: bool) -> None:
    engine = FakeEngine(context_length=1 << 20, pace_s=0.00001 if stream else 0.0)
    server = await start(engine, write_timeout_s=0.3)
    # texts that grow from event to event fill every buffer between the two soon
    sampling = {"max_new_tokens": 4000 if stream else 20, "ignore_eos": True}
    text = "abc" if stream else ["a" * 500] * 20
    logprobs = {} if stream else {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 20}
    sock = await stalled(server, {"text": text, "stream": stream, "sampling_params": sampling, **logprobs})
    await until(lambda: len(engine.asked) > 0)
    await until(lambda: len(server.connections()) == 0, timeout_s=20)
    assert engine.aborted == stream
    assert engine.running == server.service.in_flight == 0
    sock.close()


async def test_a_slow_reader_gets_every_character(start: StartServer) -> None:
    """Increments that gather while the client does not read are joined, and none is lost."""
    engine = FakeEngine(context_length=1 << 17, pace_s=0.000001)
    server = await start(engine)
    asked = {
        "return_logprob": True,
        "top_logprobs_num": 20,
        "sampling_params": {"max_new_tokens": 6000, "ignore_eos": True},
    }
    sock = await stalled(server, {"text": "abcdefg", "stream": True, "incremental": True, **asked})
    await until(lambda: len(engine.asked) == 1 and engine.heartbeat.steps > 5_500, timeout_s=20)
    raw = b""
    while piece := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
        raw += piece
    sock.close()
    events = [json.loads(line[6:]) for line in dechunked(raw).split(b"\n\n") if line.startswith(b"data: {")]
    assert "".join(event["text"] for event in events) == ("gfedcba" * 1000)[:6000]
    assert sum(len(event["output_ids"]) for event in events) == 6000
    assert sum(len(event["meta_info"]["output_top_logprobs"]) for event in events) == 6000
    assert len(events) < 5900


def dechunked(raw: bytes) -> bytes:
    rest, whole = raw.partition(b"\r\n\r\n")[2], b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return whole


BROKEN = [
    b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
    b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(300)) + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
    b"GET /health HTTP/9.9.9\r\n\r\n",
    b"G\x00T /health HTTP/1.1\r\nHost: a\r\n\r\n",
]


@pytest.mark.parametrize("sent", BROKEN, ids=range(len(BROKEN)))
async def test_what_is_not_http_gets_400_in_the_usual_shape_and_is_closed(server: Running, sent: bytes) -> None:
    reply = parsed(await exchange(server.port, sent))
    assert reply.status == 400
    assert json.loads(reply.body)["error"]["type"] == "invalid_request_error"
    assert reply.headers["x-request-id"]
    async with server.http.get("/health") as good:
        assert good.status == 200


async def test_a_bad_chunk_size_gets_400(server: Running) -> None:
    sent = HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"
    assert parsed(await exchange(server.port, sent)).status == 400


async def test_a_body_in_chunks_of_one_byte_is_read(server: Running) -> None:
    body = json.dumps({"text": "a" * 2000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    sent = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks
    assert parsed(await exchange(server.port, sent)).status == 200


async def test_a_large_body_in_chunks_of_one_byte_is_refused_before_it_costs_much(server: Running) -> None:
    chunks = b"1\r\n \r\n" * 400_000
    sent = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    reply = parsed(await exchange(server.port, sent, timeout_s=10))
    assert reply.status == 400
    assert json.loads(reply.body)["error"]["code"] == "chunks_too_small"


async def test_a_client_that_leaves_within_its_body_leaves_no_traceback(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEAD + b'Content-Length: 1000\r\n\r\n{"text"')
    await until(lambda: server.service.in_flight == 1)
    writer.transport.abort()
    await until(lambda: server.service.in_flight == 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("sent_id", ["", "x" * 129, "x" * 5000, "caf\xe9", "a\tb"])
async def test_an_id_that_is_not_fit_to_be_repeated_is_replaced(server: Running, sent_id: str) -> None:
    reply = await ask(server.port, f"GET /health HTTP/1.1\nHost: a\nX-Request-Id: {sent_id}")
    assert reply.status == 200
    assert 0 < len(reply.headers["x-request-id"]) <= 128
    assert reply.headers["x-request-id"] != sent_id


async def test_fifty_requests_with_one_id_get_fifty_answers(server: Running) -> None:
    async def one(place: int) -> None:
        async with server.http.post(
            "/generate", json={"text": f"{place:03}"}, headers={"X-Request-Id": "same"}
        ) as reply:
            assert reply.headers["X-Request-Id"] == "same"
            assert (await reply.json())["text"] == f"{place:03}"[::-1]

    await asyncio.gather(*(one(place) for place in range(50)))


async def test_an_answer_to_http_1_0_ends_with_its_connection(server: Running) -> None:
    body = b'{"text": "abc", "stream": true}'
    head = b"POST /generate HTTP/1.0\r\nContent-Type: application/json\r\n"
    raw = await exchange(server.port, head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert raw.endswith(b"data: [DONE]\n\n")
    assert b"chunked" not in raw.partition(b"\r\n\r\n")[0].lower()


async def test_what_the_server_says_of_itself_is_little(server: Running) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/health") as reply:
        assert reply.headers["Server"] == "stolon"
