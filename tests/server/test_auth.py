"""Every route that there is needs the key, whatever the request says about itself."""

from __future__ import annotations

import ast
import asyncio
import logging
import time
from pathlib import Path

import pytest

import stolon.runtime.server.auth as auth_module
from tests.server.conftest import Running, StartServer
from tests.server.raw import ask, exchange, parsed

KEY = "sk-CANARY-5f0e"
OPEN = {"/health", "/ping", "/ready", "/"}
SERVER = Path(auth_module.__file__).parent


@pytest.fixture
async def locked(start: StartServer) -> Running:
    return await start(key=KEY)


def routes(server: Running) -> list[tuple[str, str]]:
    """Method and a path of every route that the application has."""
    found = [(route.method, route.path) for route in server.app.routes]
    assert len(found) > 10
    return [(method, path.replace("{model}", "fake")) for method, path in found]


async def test_every_route_needs_the_key(locked: Running) -> None:
    for method, path in routes(locked):
        for header in (
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            f"Basic {KEY}",
            KEY,
            f"Bearer {KEY}x",
            "Bearer \xe9",
        ):
            lines = [f"{method} {path} HTTP/1.1", "Host: a", *([] if header is None else [f"Authorization: {header}"])]
            reply = await ask(locked.port, "\n".join(lines))
            if path in OPEN:
                assert reply.status == 200
            else:
                assert reply.status == 401, (method, path, header)
                assert reply.headers["www-authenticate"] == "Bearer"
                assert b'"invalid_api_key"' in reply.body
        for scheme in ("Bearer", "bearer"):
            right = await ask(locked.port, f"{method} {path} HTTP/1.1\nHost: a\nAuthorization: {scheme} {KEY}")
            assert right.status != 401, (method, path)


async def test_each_of_several_keys_opens_the_server(start: StartServer) -> None:
    server = await start(key=KEY, further_key="second")
    for key, status in ((KEY, 200), ("second", 200), ("third", 401), (f"{KEY} second", 401), ("", 401)):
        head = f"GET /v1/models HTTP/1.1\nHost: a\nAuthorization: Bearer {key}"
        assert (await ask(server.port, head)).status == status, key


HOSTS = [
    "x/health?",
    "a/health?",
    "/health",
    "a/health",
    "a:80/health?",
    "health",
    "a/ready?",
    "a?/health",
    "",
    "a#/health",
]


@pytest.mark.parametrize("host", [*HOSTS, "[::1]/health?", "a\\health?"])
async def test_the_host_header_opens_nothing(locked: Running, host: str) -> None:
    for method, path in routes(locked):
        if path not in OPEN:
            reply = await ask(locked.port, f"{method} {path} HTTP/1.1\nHost: {host}")
            assert reply.status in (400, 401), (method, path, host)


PATHS = [
    "/%761/models",
    "//v1/models",
    "/V1/models",
    "/health/../v1/models",
    "/health/%2e%2e/v1/models",
    "/health%2f..%2fv1/models",
    "/v1/models/",
    "http://evil/v1/models",
    "/v1/models?api_key=" + KEY,
    "/v1/models#/health",
    "/health/",
    "/healthx",
]


@pytest.mark.parametrize("path", PATHS)
async def test_no_way_of_writing_a_path_opens_anything(locked: Running, path: str) -> None:
    reply = await ask(locked.port, f"GET {path} HTTP/1.1\nHost: a")
    assert reply.status in (400, 401, 404), path
    old = parsed(await exchange(locked.port, f"GET {path}\r\n\r\n".encode(), timeout_s=0.3))
    assert old.status in (0, 400, 401, 404), path


async def test_an_address_in_the_request_line_counts_by_its_path_alone(locked: Running) -> None:
    assert (await ask(locked.port, "GET http://evil/health?/v1/models HTTP/1.1\nHost: a")).body == b'{"status":"ok"}'
    assert (await ask(locked.port, "GET http://health/v1/models?/health HTTP/1.1\nHost: a")).status == 401


async def test_a_method_override_opens_nothing(locked: Running) -> None:
    for line in ("X-HTTP-Method-Override: GET", "X-Original-URL: /health", "X-Forwarded-Path: /health"):
        assert (await ask(locked.port, f"POST /generate HTTP/1.1\nHost: a\n{line}")).status == 401


async def test_the_key_is_asked_for_before_the_body_is_read(locked: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", locked.port)
    began = time.monotonic()
    writer.write(b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: 67108864\r\nAuthorization: Bearer wrong\r\n\r\n" + b" " * 1000)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert time.monotonic() - began < 1.0
    assert b"401" in head.split(b"\r\n")[0]
    assert b"connection: close" in head.lower()
    writer.close()


async def test_100_continue_is_said_only_to_those_who_have_the_key(locked: Running) -> None:
    lines = "POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    body = b'{"text": "a"}'
    lines += f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    assert (await exchange(locked.port, f"{lines}\r\n".encode(), timeout_s=0.5)).startswith(b"HTTP/1.1 401")
    with_key = f"{lines}Authorization: Bearer {KEY}\r\n\r\n".encode()
    assert (await exchange(locked.port, with_key, timeout_s=0.5)).startswith(b"HTTP/1.1 100 Continue")
    whole = await exchange(locked.port, with_key + body)
    assert b"HTTP/1.1 200 OK" in whole


async def test_the_key_is_in_no_log_line_and_no_answer(locked: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers = b""
    for method, path in routes(locked):
        for header in (f"Bearer {KEY}", f"Basic {KEY}", f"Bearer {KEY}x"):
            head = f"{method} {path}?key={KEY} HTTP/1.1\nHost: a\nAuthorization: {header}\nX-Key: {KEY}"
            answers += (await ask(locked.port, head)).body
    locked.engine.fail_at = 0
    async with locked.http.post("/generate", json={"text": "a"}) as reply:
        assert reply.status == 500
        answers += await reply.read()
    assert caplog.records
    assert KEY not in caplog.text
    assert KEY.encode() not in answers
    assert KEY not in repr(locked.service.settings)


def sources() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text())) for path in sorted(SERVER.glob("*.py"))]


def test_what_a_request_says_its_address_is_is_read_only_to_match_it() -> None:
    """Once for the path, once for the name at its end; whatever is decided is decided on the route that matched."""
    address = {"url", "host", "path", "path_qs", "raw_path", "rel_url"}
    of_request = [
        (path.name, node.value.id, node.attr)
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if (node.value.id == "request" and node.attr in {*address, "asked_path", "name_after"})
        or (path.name == "request.py" and node.attr in address)
    ]
    assert of_request == [
        ("app.py", "request", "asked_path"),
        ("request.py", "self", "rel_url"),
        ("request.py", "self", "path"),
        ("status.py", "request", "name_after"),
    ]


def test_keys_are_compared_in_constant_time_only() -> None:
    found = [
        node.lineno
        for path, tree in sources()
        if path.name == "auth.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(isinstance(op, (ast.Eq, ast.NotEq)) for op in node.ops)
        and any(isinstance(side, ast.Name) and "key" in side.id for side in [node.left, *node.comparators])
    ]
    assert found == []
    assert "compare_digest" in (SERVER / "auth.py").read_text()


def test_the_server_writes_no_file_and_runs_no_code_from_outside() -> None:
    banned = {"pickle", "dill", "marshal", "shelve", "cloudpickle", "multiprocessing", "joblib"}
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not banned & {alias.name.split(".")[0] for alias in node.names}, path.name
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] not in banned, path.name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml":
                assert node.attr in ("safe_load", "YAMLError"), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "open", "__import__"), (
                    f"{path.name}:{node.lineno}"
                )


async def test_the_admin_key_opens_everything_and_the_operators_routes_open_to_no_other(start: StartServer) -> None:
    server = await start(key=KEY, admin="sk-OPERATOR")

    async def status(path: str, key: str) -> int:
        return (await ask(server.port, f"GET {path} HTTP/1.1\nHost: a\nAuthorization: Bearer {key}")).status

    assert await status("/v1/models", KEY) == await status("/v1/models", "sk-OPERATOR") == 200
    assert await status("/flush_cache", KEY) == 401
    assert await status("/flush_cache", "sk-OPERATOR") == 200
    for key, expected in ((KEY, 401), ("sk-OPERATOR", 200)):
        head = f"POST /reset_prefix_cache HTTP/1.1\nHost: a\nContent-Length: 0\nAuthorization: Bearer {key}"
        assert (await ask(server.port, head)).status == expected


async def test_an_admin_key_alone_leaves_the_other_routes_open(start: StartServer) -> None:
    server = await start(admin="sk-OPERATOR")
    assert (await ask(server.port, "GET /v1/models HTTP/1.1\nHost: a")).status == 200
    assert (await ask(server.port, "GET /flush_cache HTTP/1.1\nHost: a")).status == 401
