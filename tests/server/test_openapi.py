"""The document says what the server does: the same bounds, every field explained, answers as described."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from stolon.runtime.limits import LENGTHS, NUMBERS
from stolon.runtime.server.app import ROUTES
from stolon.runtime.server.openapi import document
from stolon.runtime.server.openapi_answers import OPERATIONS
from stolon.runtime.server.openapi_words import MEANINGS
from tests.fuzz_openapi import fuzz, served
from tests.server.conftest import Running, StartServer
from tests.server.expected import EMBED, GOOD
from tests.server.fake_embedder import FakeEmbedder

WHOLE: dict[str, Any] = document(ROUTES, 300, needs_key=True)


def body_of(path: str) -> dict[str, Any]:
    content = WHOLE["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return WHOLE["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]


async def test_it_is_served_with_the_key_and_names_every_route(start: StartServer) -> None:
    server = await start(key="k")
    async with server.http.get("/openapi.json") as reply:
        assert reply.status == 200
        found = await reply.json()
    assert found["openapi"] == "3.1.0"
    routed = {(route.method.lower(), route.path) for route in server.app.routes}
    written = {(method, path) for path, methods in found["paths"].items() for method in methods}
    assert written == routed
    async with server.http.get("/openapi.json", headers={"Authorization": "Bearer wrong"}) as reply:
        assert reply.status == 401


def test_its_bounds_are_those_of_the_table() -> None:
    fields = body_of("/v1/chat/completions")["properties"]
    temperature, stop = fields["temperature"]["anyOf"][0], fields["stop"]["anyOf"][0]["anyOf"]
    assert (temperature["minimum"], temperature["maximum"]) == (NUMBERS["temperature"].low, NUMBERS["temperature"].high)
    assert stop[1]["maxItems"] == LENGTHS["stop"].high
    assert stop[0]["maxLength"] == LENGTHS["stop_characters"].high


def test_every_field_of_every_route_is_explained() -> None:
    for route in ROUTES:
        if route.body is not None:
            for name, schema in body_of(route.path)["properties"].items():
                assert "description" in schema, f"{route.path} {name}: give it a line in openapi_words.py"
    taken = {name for route in ROUTES if route.body for name in body_of(route.path)["properties"]}
    assert set(MEANINGS) <= taken, "a line about a field that is nowhere"


def test_every_route_has_a_summary_and_an_answer() -> None:
    assert set(WHOLE["paths"]) <= set(OPERATIONS), "give the route a line in openapi_answers.py"


@pytest.mark.parametrize("path", [*GOOD, EMBED])
async def test_good_answers_fit_their_schema(server: Running, start: StartServer, path: str) -> None:
    if path == EMBED:
        server = await start(embedder=FakeEmbedder())
    async with server.http.post(path, json=GOOD.get(path, {"model": "fake", "input": "a"})) as reply:
        assert reply.status == 200
        whole = await reply.json()
    Draft202012Validator(OPERATIONS[path].answer).validate(whole)
    Draft202012Validator(body_of(path)).validate(GOOD.get(path, {"model": "fake", "input": "a"}))


def test_a_hundred_strange_requests_are_answered_as_the_document_says() -> None:
    """The long run is `python -m tests.fuzz_openapi`."""
    with served() as url:
        found = fuzz(url, examples=4, seed=3)
    assert found["failures"] == found["errors"] == [], found["text"]
    assert found["test_cases"]["generated"] > 80
