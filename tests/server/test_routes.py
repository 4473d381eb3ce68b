"""Which route an address and a method name."""

from __future__ import annotations

import pytest
from yarl import URL

from stolon.runtime import __version__
from tests.server.conftest import Running, StartServer
from tests.server.expected import refused
from tests.server.fake import FakeEngine
from tests.server.raw import ask


@pytest.mark.parametrize(
    "path",
    ["/v1%2Fmodels", "/v1/models/", "/v1//models", "/v1/models%2Ffake", "/V1/models", "/v1/model"],
)
async def test_a_path_is_matched_part_by_part_an_encoded_slash_parts_nothing(server: Running, path: str) -> None:
    async with server.http.get(URL(path, encoded=True)) as reply:
        await refused(reply, 404, "unknown_url", None)


async def test_the_name_at_the_end_of_a_path_may_have_slashes_and_codes(start: StartServer) -> None:
    engine = FakeEngine()
    engine.model_name = "a/b %2F"
    server = await start(engine)
    for written in ("a/b%20%252F", "a%2Fb%20%252F"):
        async with server.http.get(URL(f"/v1/models/{written}", encoded=True)) as reply:
            assert (reply.status, (await reply.json())["id"]) == (200, "a/b %2F")
    async with server.http.get("/v1/models/a/c") as reply:
        assert "'a/c'" in await refused(reply, 404, "model_not_found", "model")


async def test_a_model_of_several_names_answers_to_each_and_reports_the_first(start: StartServer) -> None:
    engine = FakeEngine()
    engine.other_names = ("a/b", "gpt-4o")
    server = await start(engine)
    async with server.http.get("/v1/models") as reply:
        assert [model["id"] for model in (await reply.json())["data"]] == ["fake", "a/b", "gpt-4o"]
    for name, id in (("a/b", "a/b"), ("gpt-4o", "gpt-4o"), ("default", "fake")):
        async with server.http.get(f"/v1/models/{name}") as reply:
            assert (await reply.json())["id"] == id
        async with server.http.post("/v1/completions", json={"model": name, "prompt": "a"}) as reply:
            assert (reply.status, (await reply.json())["model"]) == (200, "fake")
    async with server.http.post("/v1/completions", json={"model": "other", "prompt": "a"}) as reply:
        assert "served: fake, a/b, gpt-4o" in await refused(reply, 404, "model_not_found", "model")


async def test_a_folder_may_be_asked_for_by_its_path_which_is_told_to_nobody(start: StartServer) -> None:
    engine = FakeEngine()
    engine.path = "./models/fake"
    server = await start(engine)
    async with server.http.post("/v1/completions", json={"model": "./models/fake", "prompt": "a"}) as reply:
        assert (reply.status, (await reply.json())["model"]) == (200, "fake")
    async with server.http.get("/v1/models") as reply:
        assert [model["id"] for model in (await reply.json())["data"]] == ["fake"]
    async with server.http.get(URL("/v1/models/.%2Fmodels%2Ffake", encoded=True)) as reply:
        assert (await reply.json())["id"] == "fake"
    async with server.http.post("/v1/completions", json={"model": "./models", "prompt": "a"}) as reply:
        assert "served: fake" in await refused(reply, 404, "model_not_found", "model")


async def test_a_method_that_a_route_does_not_take_is_told_which_it_takes(start: StartServer) -> None:
    server = await start(key="k")
    async with server.http.delete("/flush_cache") as reply:
        await refused(reply, 405, "method_not_allowed", None)
        assert reply.headers["Allow"] == "GET, POST"
    async with server.http.head("/flush_cache") as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, POST")
    async with server.http.head("/generate") as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "POST")
    # open to all is what it answers, not what it does not
    async with server.http.post("/health", headers={"Authorization": ""}) as reply:
        assert reply.status == 401


async def test_what_is_got_can_be_asked_for_without_its_body(start: StartServer) -> None:
    server = await start(key="k")
    for path in ("/v1/models", "/v1/models/fake", "/health", "/version", "/", "/metrics", "/openapi.json", "/v1/model"):
        async with server.http.get(path) as whole, server.http.head(path) as head:
            assert head.status == whole.status
            assert head.content_type == whole.content_type
            assert await head.read() == b""
    # the length is that of the whole, and what is open is open
    reply = await ask(server.port, "HEAD /health HTTP/1.1\nHost: a")
    assert (reply.status, reply.headers["content-length"], reply.body) == (200, "15", b"")
    assert (await ask(server.port, "HEAD /v1/models HTTP/1.1\nHost: a")).status == 401


async def test_the_version_and_a_ping_are_answered_as_in_vllm(start: StartServer) -> None:
    server = await start(key="k")
    async with server.http.get("/version") as reply:
        assert await reply.json() == {"version": __version__}
    for method in ("GET", "POST", "HEAD"):
        assert (await ask(server.port, f"{method} /ping HTTP/1.1\nHost: a\nContent-Length: 0")).status == 200
    server.engine.heartbeat.alive = False
    async with server.http.get("/ping") as reply:
        assert reply.status == 503
