"""Pages of other origins: nothing by itself, what the operator allows, and never more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stolon.lang.errors import InvalidRequest
from stolon.runtime.server.settings import ServerConfig
from stolon.runtime.server.sharing import Sharing
from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, GOOD, refused
from tests.server.raw import RawReply, ask

APP = "https://app.example"
ORIGIN, CREDENTIALS = "access-control-allow-origin", "access-control-allow-credentials"


async def preflight(server: Running, origin: str = APP, method: str = "POST", headers: str = "") -> RawReply:
    lines = [f"OPTIONS {CHAT} HTTP/1.1", "Host: a", f"Origin: {origin}", f"Access-Control-Request-Method: {method}"]
    lines += [f"Access-Control-Request-Headers: {headers}"] if headers else []
    return await ask(server.port, "\n".join(lines))


def is_granted(reply: RawReply) -> bool:
    return reply.status == 204


@pytest.mark.parametrize("key", [None, "k"])
async def test_by_itself_no_page_of_another_origin_reads_anything(start: StartServer, key: str | None) -> None:
    server = await start(key=key)
    reply = await preflight(server)
    assert reply.status == (405 if key is None else 401)
    async with server.http.post(CHAT, json=GOOD[CHAT], headers={"Origin": APP}) as answer:
        assert answer.status == 200
        seen = {*answer.headers, *reply.headers}
    assert not [name for name in seen if name.lower().startswith("access-control")]


async def test_a_browser_asks_without_a_key_and_its_page_reads_answers_and_errors(start: StartServer) -> None:
    server = await start(key="k", allowed_origins=(APP,))
    reply = await preflight(server, headers="Authorization, Content-Type, x-stainless-os")
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers[ORIGIN] == APP
    assert reply.headers["access-control-allow-methods"] == "GET, HEAD, POST"
    assert reply.headers["access-control-allow-headers"] == "Authorization, Content-Type, x-stainless-os"
    assert server.engine.asked == []
    for more, status in (({}, 200), ({"stream": True}, 200), ({"n": 0}, 400)):
        async with server.http.post(CHAT, json={**GOOD[CHAT], **more}, headers={"Origin": APP}) as answer:
            assert answer.status == status
            assert answer.headers[ORIGIN] == APP
            assert answer.headers["Vary"] == "Origin"
            assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]
            assert CREDENTIALS not in answer.headers
    wrong = await ask(server.port, f"GET /v1/models HTTP/1.1\nHost: a\nOrigin: {APP}\nAuthorization: Bearer x")
    assert (wrong.status, wrong.headers[ORIGIN]) == (401, APP)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{APP}.evil", "null", f"{APP}/", "HTTPS://app.example", ""]
)
async def test_an_origin_that_was_not_named_gets_nothing(start: StartServer, origin: str) -> None:
    server = await start(allowed_origins=(APP, "http://localhost:3000"))
    reply = await preflight(server, origin)
    assert reply.status == 405
    assert ORIGIN not in reply.headers
    async with server.http.get("/v1/models", headers={"Origin": origin}) as answer:
        assert ORIGIN not in {name.lower() for name in answer.headers}
        assert answer.headers["Vary"] == "Origin"
    assert (await preflight(server, "http://localhost:3000")).headers[ORIGIN] == "http://localhost:3000"


async def test_what_is_no_question_of_a_browser_is_answered_as_ever(start: StartServer) -> None:
    server = await start(allowed_origins=("*",))
    async with server.http.options(CHAT, headers={"Origin": APP}) as reply:
        await refused(reply, 405, "method_not_allowed", None)
    async with server.http.get("/v1/models") as reply:
        assert ORIGIN not in {name.lower() for name in reply.headers}


async def test_only_the_methods_and_headers_that_are_allowed(start: StartServer) -> None:
    server = await start(allowed_origins=(APP,), allowed_methods=("get",), allowed_headers=("Authorization",))
    assert is_granted(await preflight(server, method="GET", headers="authorization,content-type"))
    assert not is_granted(await preflight(server, method="POST"))
    assert not is_granted(await preflight(server, method="GET", headers="authorization, x-other"))
    assert not is_granted(await preflight(server, method="GET", headers="authorization, a b"))


async def test_any_origin_is_told_so_and_with_credentials_is_named(start: StartServer) -> None:
    server = await start(allowed_origins=("*",))
    assert (await preflight(server)).headers[ORIGIN] == "*"
    server = await start(allowed_origins=("*",), allow_credentials=True)
    reply = await preflight(server)
    # browsers take no star together with credentials
    assert (reply.headers[ORIGIN], reply.headers[CREDENTIALS], reply.headers["vary"]) == (APP, "true", "Origin")


@pytest.mark.parametrize("given", [("*",), ('["*"]',), (APP, "http://b"), (json.dumps([APP, "http://b"]),)])
def test_origins_are_words_or_the_list_of_vllm(given: tuple[str, ...]) -> None:
    found = Sharing.of(ServerConfig(allowed_origins=given))
    assert found is not None
    assert found.origins == ({"*"} if "*" in given[0] else {APP, "http://b"})
    assert Sharing.of(ServerConfig(allowed_origins=("[]",))) is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"allowed_origins": (f"{APP}/",)}, "without a path"),
        ({"allowed_origins": ("app.example",)}, "http://localhost:3000"),
        ({"allowed_origins": ("null",)}, "'null'"),
        ({"allowed_origins": ("[1]",)}, "JSON list of strings"),
        ({"allowed_origins": ("[*]",)}, "JSON list of strings"),
        ({"allow_credentials": True}, "--allow-credentials says what other origins may"),
        ({"allowed_methods": ("GET",)}, "--allowed-methods"),
        ({"allowed_headers": ('["x"]',)}, "--allowed-headers"),
    ],
)
def test_what_cannot_be_is_said(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        Sharing.of(ServerConfig(**fields))
    assert says in str(error.value)
