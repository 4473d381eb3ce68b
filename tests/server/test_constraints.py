"""The form of an answer, under every name that it has: it reaches the engine, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from stolon.lang.constraint import Constraint
from stolon.lang.errors import InvalidRequest
from tests.server.conftest import Running
from tests.server.expected import CHAT, GOOD, NATIVE, TEXT, refused

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
OF_SCHEMA = Constraint("json_schema", json.dumps(SCHEMA))
OBJECT = Constraint("json_object")
GRAMMAR = 'root ::= "a" | "b"'
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}

ASKED: list[tuple[dict[str, Any], Constraint | None]] = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, OBJECT),
    ({"response_format": FORMAT}, OF_SCHEMA),
    ({"regex": "[ab]+"}, Constraint("regex", "[ab]+")),
    ({"json_schema": SCHEMA}, OF_SCHEMA),
    ({"json_schema": json.dumps(SCHEMA)}, OF_SCHEMA),
    ({"ebnf": GRAMMAR}, Constraint("grammar", GRAMMAR)),
    ({"guided_json": SCHEMA}, OF_SCHEMA),
    ({"guided_regex": "[ab]+"}, Constraint("regex", "[ab]+")),
    ({"guided_choice": ["a", "b", "a"]}, Constraint("choices", choices=("a", "b"))),
    ({"guided_grammar": GRAMMAR}, Constraint("grammar", GRAMMAR)),
    ({"guided_json_object": True}, OBJECT),
    ({"structured_outputs": {"json": SCHEMA}}, OF_SCHEMA),
    ({"structured_outputs": {"regex": "[ab]+"}}, Constraint("regex", "[ab]+")),
    ({"structured_outputs": {"choice": ["a", "b"]}}, Constraint("choices", choices=("a", "b"))),
    ({"structured_outputs": {"grammar": GRAMMAR}}, Constraint("grammar", GRAMMAR)),
    ({"structured_outputs": {"json_object": True}}, OBJECT),
]


@pytest.mark.parametrize("route", [CHAT, TEXT])
@pytest.mark.parametrize(("fields", "constraint"), ASKED, ids=[str(fields)[:60] for fields, _ in ASKED])
async def test_a_constraint_reaches_the_engine_under_every_name(
    server: Running, route: str, fields: dict[str, Any], constraint: Constraint | None
) -> None:
    async with server.http.post(route, json={**GOOD[route], **fields}) as reply:
        assert reply.status == 200, await reply.text()
    assert server.engine.asked[-1].constraint == constraint


@pytest.mark.parametrize(("fields", "constraint"), ASKED[3:7])
async def test_the_native_route_has_them_in_its_sampling_params(
    server: Running, fields: dict[str, Any], constraint: Constraint
) -> None:
    sampling = {"max_new_tokens": 4}
    body = {"text": ["a", "b"], "sampling_params": [{**sampling, **fields}, sampling]}
    async with server.http.post(NATIVE, json=body) as reply:
        assert reply.status == 200, await reply.text()
    assert [asked.constraint for asked in server.engine.asked] == [constraint, None]
    async with server.http.post(NATIVE, json={**GOOD[NATIVE], **fields}) as reply:
        await refused(reply, 400, "unsupported_parameter", next(iter(fields)))


async def test_the_native_route_takes_a_text_after_which_the_form_holds(server: Running) -> None:
    sampling = {"regex": "[ab]+", "constrain_after": "</think>"}
    async with server.http.post(NATIVE, json={"text": "a", "sampling_params": sampling}) as reply:
        assert reply.status == 200, await reply.text()
    assert server.engine.asked[-1].constraint == Constraint("regex", "[ab]+", after="</think>")
    async with server.http.post(NATIVE, json={"text": "a", "sampling_params": {"constrain_after": "x"}}) as reply:
        await refused(reply, 400, "invalid_value", "sampling_params.constrain_after")


class Answer(BaseModel):
    a: int


async def test_a_pydantic_model_is_parsed_from_the_answer(server: Running) -> None:
    server.engine.script = '{"a": 5}'
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        reply = await client.chat.completions.parse(
            model="fake", messages=[{"role": "user", "content": "5?"}], response_format=Answer
        )
    assert reply.choices[0].message.parsed == Answer(a=5)
    constraint = server.engine.asked[-1].constraint
    assert constraint is not None
    assert json.loads(constraint.text)["properties"]["a"]["type"] == "integer"


@pytest.mark.parametrize(
    ("route", "fields", "param", "told"),
    [
        (CHAT, {"response_format": FORMAT}, "/properties/a", "response_format.json_schema.schema#/properties/a"),
        (TEXT, {"guided_json": SCHEMA}, "#", "guided_json"),
        (CHAT, {"structured_outputs": {"regex": "("}}, "regex", "structured_outputs.regex"),
        (NATIVE, {"sampling_params": {"regex": "("}}, "regex", "sampling_params.regex"),
        (CHAT, {"guided_choice": ["a"]}, None, "guided_choice"),
        (CHAT, {"ebnf": "a"}, "max_tokens", "max_tokens"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_the_engine_names_the_field_and_the_place_in_it(
    server: Running, route: str, fields: dict[str, Any], param: str | None, told: str, stream: bool
) -> None:
    server.engine.fail_at = 0
    server.engine.failure = InvalidRequest("no", param=param, code="some_code")
    async with server.http.post(route, json={**GOOD[route], **fields, "stream": stream}) as reply:
        await refused(reply, 400, "some_code", told)
