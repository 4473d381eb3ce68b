"""One regression test for each published vulnerability of servers of this kind that this one could share.

The numbers are those of the list that SECURITY.md speaks of. Rows that have a file of their own are named at the end.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import json
import logging
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from stolon.lang.errors import EngineError, OverloadedError
from stolon.runtime.limits import LENGTHS
from stolon.runtime.server.app import ROUTES
from stolon.runtime.server.errors import HttpError
from stolon.runtime.server.main import main
from stolon.runtime.server.prompts import token_list
from stolon.runtime.server.route import Route
from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, DETOKENIZE, GOOD, HELLO, LEAKS, NATIVE, TEXT, refused
from tests.server.fake import VOCAB, FakeEngine
from tests.server.raw import exchange, parsed, until

PACKAGE = Path(__file__).parents[2] / "stolon"
KEY = "sk-CANARY-0123456789"


async def asked(server: Running, route: str, **body: Any) -> tuple[int, dict[str, Any], float]:
    """Status, body and seconds."""
    began = time.monotonic()
    async with server.http.post(route, json=body) as reply:
        found = await reply.json()
        return reply.status, found, time.monotonic() - began


@functools.cache
def calls_and_imports() -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(path, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found += [(path, f"{node.module}.{alias.name}") for alias in node.names]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found.append((path, f"{node.func.id}()"))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else "?"
                found.append((path, f"{owner}.{node.func.attr}()"))
    return found


def test_v01_v02_v03_nothing_in_the_package_can_unpickle() -> None:
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    called = {"eval()", "exec()", "torch.load()", "yaml.load()", "?.recv_pyobj()", "?.send_pyobj()"}
    for path, name in calls_and_imports():
        assert name.split(".")[0] not in banned, f"{path}: {name}"
        assert name not in called, f"{path}: {name}"
        assert not name.startswith(("multiprocessing.Queue", "multiprocessing.Manager", "multiprocessing.connection"))


@pytest.mark.parametrize("field", ["custom_logit_processor", "prompt_embeds", "input_embeds", "lora_path"])
async def test_v04_v07_no_request_carries_code_or_tensors(server: Running, field: str) -> None:
    for route in (CHAT, TEXT, NATIVE):
        async with server.http.post(route, json={**GOOD[route], field: "x"}) as reply:
            await refused(reply, 400, "unsupported_parameter", field)


def test_v05_v06_templates_are_rendered_in_one_module_and_no_code_of_a_checkpoint_runs() -> None:
    sandbox = {path.name for path, name in calls_and_imports() if name.split(".")[0] == "jinja2"}
    assert len(sandbox) == 1
    assert not [path for path in PACKAGE.rglob("*.py") if "trust_remote_code=True" in path.read_text()]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "fake/../x"])
async def test_v08_a_models_name_is_never_a_path(server: Running, name: str) -> None:
    status, found, _ = await asked(server, TEXT, model=name, prompt="a")
    assert (status, found["error"]["code"]) == (404, "model_not_found")
    raw = await exchange(
        server.port, f"GET /v1/models/{name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    )
    assert parsed(raw).status == 404


def test_v10_a_reachable_address_needs_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--host", "0.0.0.0"]) == 2
    assert "--insecure-no-auth" in capsys.readouterr().err


async def test_v12_a_wrong_key_costs_nothing_whatever_follows_it(start: StartServer) -> None:
    server = await start(key=KEY)
    head = b"POST /generate HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wrong\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
    raw = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
    assert b" 401 " in raw.split(b"\r\n")[0]
    began, chunk = time.monotonic(), b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with suppress(ConnectionError):
        while time.monotonic() - began < 20:
            writer.write(chunk)
            await writer.drain()
    assert time.monotonic() - began < 10, "the connection is closed, however much more would come"
    assert server.service.in_flight == 0
    writer.close()


INTEGERS = [-(2**63) - 1, -(2**63), -1, 0, 2**31, 2**63, 10**400, 1.5, True, "1", [1], {"a": 1}]


@pytest.mark.parametrize("field", ["max_tokens", "n", "top_k", "seed", "min_tokens", "logprobs", "best_of", "priority"])
async def test_v13_no_integer_reaches_the_engine_unchecked(server: Running, field: str) -> None:
    for value in INTEGERS:
        body = json.dumps({"model": "fake", "prompt": "a", field: value})
        async with server.http.post(TEXT, data=body, headers={"Content-Type": "application/json"}) as reply:
            assert reply.status in (200, 400), (field, value)
    for each in server.engine.asked:
        assert all(type(getattr(each.params, name)) is int for name in ("max_tokens", "n", "min_tokens", "top_k"))


async def test_v14_an_error_shows_nothing_of_the_inside(start: StartServer) -> None:
    engine = FakeEngine()
    engine.fail_at = 0
    server = await start(engine)
    for route in (CHAT, TEXT, NATIVE):
        async with server.http.post(route, json=GOOD[route]) as reply:
            assert reply.status == 500
            assert not LEAKS.search(await reply.text())


async def test_v15_v19_host_and_path_decide_nothing(start: StartServer) -> None:
    server = await start(key=KEY)
    for host in ("a/health?", "a/health", "localhost", "[::1]", "a#", "a\\health", "/health"):
        raw = await exchange(
            server.port, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        assert parsed(raw).status in (400, 401), host
    for path in (
        "/%761/models",
        "//v1/models",
        "/health/../v1/models",
        "/v1/models/",
        "/V1/models",
        "http://e/v1/models",
    ):
        raw = await exchange(server.port, f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert parsed(raw).status in (401, 404), path


async def test_v16_every_route_and_method_asks_for_the_key(start: StartServer) -> None:
    server = await start(key=KEY)
    open_to_all = {"/", "/health", "/ping", "/ready"}
    async with aiohttp.ClientSession(server.url) as http:
        for route in server.app.routes:
            path = route.path.replace("{model}", "x")
            async with http.request(route.method, path) as reply:
                assert (reply.status == 401) == (path not in open_to_all), (route.method, path)


async def test_v17_a_key_that_is_no_ascii_is_wrong_not_a_fault(start: StartServer) -> None:
    server = await start(key=KEY)
    raw = await exchange(server.port, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xe9\xff\r\n\r\n")
    assert parsed(raw).status == 401


async def test_v18_the_key_is_nowhere_to_be_read(start: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = await start(key=KEY, log_requests=True, log_requests_level=3)
    texts: list[str] = []
    for route, body in GOOD.items():
        async with server.http.post(f"{route}?api_key={KEY}", json=body) as reply:
            texts.append(await reply.text())
    for path in ("/metrics", "/get_server_info", "/openapi.json", "/dashboard/state", f"/{KEY}"):
        async with server.http.get(path) as reply:
            texts.append(await reply.text())
    assert KEY not in "".join(texts)
    assert KEY not in caplog.text
    assert KEY not in repr(server.service.settings)


async def test_v20_no_route_ends_another_clients_request(start: StartServer) -> None:
    server = await start(FakeEngine(pace_s=0.002), key=KEY, further_key="other", admin="boss")
    body = {"text": "a", "rid": "mine", "sampling_params": {"max_new_tokens": 4000, "ignore_eos": True}}
    task = asyncio.create_task(server.http.post("/generate", json=body))
    await until(lambda: server.engine.running == 1)

    async def aborted(key: str, **whom: object) -> object:
        async with server.http.post("/abort_request", json=whom, headers={"Authorization": f"Bearer {key}"}) as reply:
            return (await reply.json()).get("aborted", reply.status)

    for rid in ("", "m", "min", "mine ", ":mine"):
        assert await aborted(KEY, rid=rid) in (0, 400), rid
    assert await aborted("other", rid="mine") == 0
    assert await aborted("other", abort_all=True) == await aborted(KEY, abort_all=True) == 401
    assert server.engine.running == 1
    assert await aborted(KEY, rid="mine") == 1
    assert (await (await task).json())["meta_info"]["finish_reason"]["type"] == "abort"


async def test_v21_a_fan_out_is_refused_before_it_is_made(server: Running) -> None:
    before = psutil.Process().memory_info().rss
    for body in ({"n": 10**9}, {"best_of": 10**9}, {"prompt": ["a"] * 1024, "n": 2}):
        status, _, took = await asked(server, TEXT, **{"model": "fake", "prompt": "a", **body})
        assert status == 400
        assert took < 0.5  # 20 ms where nothing else runs
    assert psutil.Process().memory_info().rss - before < 32 << 20
    assert server.engine.asked == []


@pytest.mark.parametrize(
    ("route", "change", "statuses"),
    [
        (TEXT, {"prompt": ""}, {200}),  # the start token stands there
        (TEXT, {"prompt": []}, {400}),
        (TEXT, {"prompt": [[]]}, {400}),
        (TEXT, {"prompt": [""]}, {200}),
        (TEXT, {"prompt": "a", "max_tokens": 0}, {400}),
        (TEXT, {"prompt": "a", "max_tokens": 0, "echo": True}, {200}),
        (CHAT, {"messages": []}, {400}),
        (CHAT, {"messages": [{"role": "user", "content": ""}]}, {200}),
        (CHAT, {"messages": [{"role": "user", "content": None}]}, {400}),
        (NATIVE, {"text": ""}, {200}),
        (NATIVE, {"text": None, "input_ids": []}, {400}),
    ],
)
async def test_v23_nothing_is_a_defined_prompt(
    server: Running, route: str, change: dict[str, Any], statuses: set[int]
) -> None:
    status, _, _ = await asked(server, route, **{**GOOD[route], **change})
    assert status in statuses


@pytest.mark.parametrize("field", ["chat_template", "chat_template_kwargs", "tokenizer_kwargs"])
async def test_v29_a_request_brings_no_template(server: Running, field: str) -> None:
    async with server.http.post(CHAT, json={**GOOD[CHAT], field: {"tokenize": True}}) as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["param"] == field


_connected: list[object] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        _connected.append(arguments[1])


async def test_v30_nothing_is_fetched_for_a_request(server: Running) -> None:
    sys.addaudithook(_note)  # cannot be taken away again; it costs nothing
    parts = [{"type": "image_url", "image_url": {"url": "http://192.0.2.1/x.png"}}]
    texts = ["![x](http://192.0.2.1/x.png)", "file:///etc/passwd", "http://192.0.2.1\\@127.0.0.1/"]
    status, found, _ = await asked(server, CHAT, model="fake", messages=[{"role": "user", "content": parts}])
    assert (status, found["error"]["code"]) == (400, "unsupported_content")
    for text in texts:
        await asked(server, CHAT, model="fake", messages=[{"role": "user", "content": text}], max_tokens=2)
    assert {str(address) for address in _connected} <= {str(("127.0.0.1", server.port))}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip", "br", "zstd"])
async def test_v31_a_body_that_unpacks_to_much_is_refused(start: StartServer, encoding: str) -> None:
    server = await start(body_limit_bytes=1 << 20)
    packer = zlib.compressobj(wbits=31 if "gzip" in encoding else 15)
    data = packer.compress(b" " * (50 << 20)) + packer.flush()
    before = psutil.Process().memory_info().rss
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    async with server.http.post(NATIVE, data=data, headers=headers) as reply:
        assert reply.status in (400, 413, 415)
    assert psutil.Process().memory_info().rss - before < 40 << 20


async def test_v33_an_error_is_small_whatever_was_sent(server: Running) -> None:
    for body in (
        {"messages": [{"role": "x" * 10_000}] * 50, "model": "fake"},
        {"model": "m" * 100_000, "messages": HELLO},
        {"model": "fake", "messages": HELLO, **{f"f{i}": i for i in range(1000)}},
        {"model": "fake", "messages": HELLO, "stop": ["\x00" * 1000] * 4},
    ):
        async with server.http.post(CHAT, json=body) as reply:
            assert reply.status in (400, 404)
            assert len(await reply.read()) <= 4096


async def test_v34_every_token_id_is_in_the_vocabulary_or_refused(server: Running) -> None:
    for wrong in (-1, VOCAB, VOCAB + 1, 2**31, 2**63, -(2**63)):
        requests: list[tuple[str, dict[str, Any]]] = [
            (TEXT, {"model": "fake", "prompt": [1, wrong]}),
            (TEXT, {"model": "fake", "prompt": "a", "logit_bias": {str(wrong): 1}}),
            (TEXT, {"model": "fake", "prompt": "a", "stop_token_ids": [wrong]}),
            (NATIVE, {"input_ids": [wrong]}),
            (NATIVE, {"text": "a", "return_logprob": True, "token_ids_logprob": [wrong]}),
            (DETOKENIZE, {"tokens": [wrong]}),
        ]
        for route, body in requests:
            status, _, _ = await asked(server, route, **body)
            assert status == 400, (route, body)
    assert server.engine.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"NaN",
        b'{"text": NaN}',
        b'{"text": "a", "text": "b"}',
        b'{"text": "\\ud800"}',
        b'{"sampling_params": {"seed": ' + b"9" * 5000 + b"}}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xef\xbb\xbf{}",
        '{"text": "a"}'.encode("utf-16"),
        b"\xff",
        b'{"text": 1e999}',
    ],
    ids=range(11),
)
async def test_v36_what_json_may_hide_is_refused(server: Running, body: bytes) -> None:
    async with server.http.post(NATIVE, data=body, headers={"Content-Type": "application/json"}) as reply:
        assert reply.status == 400
    assert server.engine.asked == []


async def test_v41_log_lines_are_one_line_of_ascii_each(start: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = await start(log_requests=True, log_requests_level=3)
    headers = {"User-Agent": "a\u2028b", "X-Request-Id": "x\x85y"}
    async with server.http.post(f"{NATIVE}?q=secret", json={"text": "a\u2028\n\x1b[2J"}, headers=headers) as reply:
        assert reply.status == 200
    for record in caplog.records:
        assert record.getMessage().isascii()
        assert record.getMessage().isprintable()
        assert "secret" not in record.getMessage()


async def test_v42_a_client_that_leaves_a_whole_answer_ends_its_request(start: StartServer) -> None:
    server = await start(FakeEngine(pace_s=0.01))
    for route in (CHAT, TEXT, NATIVE):
        many = {"sampling_params": {"max_new_tokens": 1000, "ignore_eos": True}}
        body = {**GOOD[route], **(many if route == NATIVE else {"max_tokens": 1000, "ignore_eos": True})}
        task = asyncio.create_task(server.http.post(route, json=body))
        await until(lambda: server.engine.running == 1)
        task.cancel()
        await until(lambda: server.engine.running == 0)


async def test_v44_health_is_that_of_the_engine(server: Running) -> None:
    async def health() -> int:
        async with server.http.get("/health") as reply:
            return reply.status

    assert await health() == 200
    steps = server.engine.heartbeat.steps
    server.engine.heartbeat.alive = False
    assert await health() == 503
    assert server.engine.heartbeat.steps == steps  # asking costs no step


async def test_v45_a_dying_engine_ends_streams_with_an_error_of_the_usual_shape(start: StartServer) -> None:
    engine = FakeEngine()
    engine.fail_at, engine.failure = 2, EngineError("gone")
    server = await start(engine)
    async with server.http.post(TEXT, json={**GOOD[TEXT], "stream": True}) as reply:
        events = (await reply.text()).strip().split("\n\n")
    assert set(json.loads(events[-1].removeprefix("data: "))["error"]) == {"message", "type", "param", "code"}
    assert "[DONE]" not in events[-1]


async def test_v47_one_id_for_many_requests_mixes_nothing_up(server: Running) -> None:
    async def one(place: int) -> None:
        headers = {"X-Request-Id": "same"}
        async with server.http.post(NATIVE, json={"text": f"{place:02}", "rid": "same"}, headers=headers) as reply:
            assert (await reply.json())["text"] == f"{place:02}"[::-1]

    await asyncio.gather(*(one(place) for place in range(50)))


async def test_v48_a_full_queue_is_503_with_a_time(start: StartServer) -> None:
    engine = FakeEngine()
    engine.fail_at, engine.failure = 0, OverloadedError("full", retry_after_s=2)
    server = await start(engine)
    for route in (CHAT, TEXT, NATIVE):
        async with server.http.post(route, json=GOOD[route]) as reply:
            assert (reply.status, reply.headers["Retry-After"]) == (503, "2")
            assert len(await reply.read()) <= 1024


async def test_v55_what_is_infinite_is_still_json(server: Running) -> None:
    def strict(_: str) -> float:
        raise AssertionError("no JSON number")

    body = {**GOOD[CHAT], "logprobs": True, "top_logprobs": 5}
    async with server.http.post(CHAT, json=body) as reply:
        text = await reply.text()
    json.loads(text, parse_constant=strict)
    assert "-9999.0" in text


async def test_d2_there_is_one_socket_and_it_listens_on_loopback(server: Running) -> None:
    mine = [c for c in psutil.Process().net_connections("inet") if c.status == "LISTEN" and c.laddr.port == server.port]
    assert [c.laddr.ip for c in mine] == ["127.0.0.1"]


def unbounded(schema: Any, path: str) -> Iterator[str]:
    """Where a number or a list of a request has no upper bound."""
    kind = schema.get("type")
    lower = "minimum" in schema or "exclusiveMinimum" in schema
    if (kind in ("integer", "number") and not (lower and "maximum" in schema)) or (
        kind == "array" and "maxItems" not in schema
    ):
        yield path
    for name, inner in schema.get("properties", {}).items():
        yield from unbounded(inner, f"{path}.{name}")
    for inner in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])):
        yield from unbounded(inner, path)
    if isinstance(schema.get("additionalProperties"), dict):
        assert "maxProperties" in schema, path
        yield from unbounded(schema["additionalProperties"], path)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.body], ids=lambda route: route.path)
def test_d4_every_number_and_every_list_of_a_request_has_bounds(route: Route) -> None:
    body = route.body_of(VOCAB)
    assert body is not None
    assert list(unbounded(body.schema, route.path)) == []


def test_d4_a_prompt_has_as_many_tokens_as_any_model_reads_at_most() -> None:
    most = LENGTHS["prompt_tokens"].high
    assert len(token_list(VOCAB)("prompt", [1] * most)) == most
    with pytest.raises(HttpError, match="may have at most"):
        token_list(VOCAB)("prompt", [1] * (most + 1))


@pytest.mark.skipif(not hasattr(socket, "AF_INET6"), reason="no IPv6")
def test_v10_an_address_of_ipv6_counts_as_reachable_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--host", "::"]) == 2
    assert "--insecure-no-auth" in capsys.readouterr().err


# V09 tests/runtime/test_weights.py · V22 test_limits.py · V24-V27 tests/structured · V28 test_formats.py
# V32, V51 test_raw_corpus.py, test_connection.py · V35 tests/runtime/test_chat.py · V37 tests/runtime/test_sampler.py
# V38-V40 tests/runtime/test_radix.py · V43 tests/sim · V46, V53 test_faults.py · V49 tests/runtime/test_detokenize.py
# V50 tests/backends/test_faults.py · V52 test_connection.py · V54 tests/runtime/test_runner.py
