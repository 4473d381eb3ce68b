"""What a request leaves open: the checkpoint's generation_config.json says, or the protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stolon.lang.errors import CheckpointError, InvalidRequest
from stolon.lang.types import SamplingParams
from stolon.runtime.config import EngineConfig
from stolon.runtime.directories import model_directory
from stolon.runtime.sampling_defaults import read_sampling_defaults
from stolon.runtime.server.flags import parse
from tests.server.conftest import Running, StartServer
from tests.server.fake import FakeEngine

COOL = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}
HELLO = [{"role": "user", "content": "Hello"}]

ROUTES: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"model": "fake", "messages": HELLO, "max_tokens": 2}, ""),
    ("/v1/completions", {"model": "fake", "prompt": "Hello", "max_tokens": 2}, ""),
    ("/v1/responses", {"model": "fake", "input": "Hello", "max_output_tokens": 2}, ""),
    ("/v1/messages", {"model": "fake", "messages": HELLO, "max_tokens": 2}, ""),
    ("/generate", {"text": "Hello", "sampling_params": {"max_new_tokens": 2}}, "sampling_params"),
]


@pytest.fixture
async def cool(start: StartServer) -> Running:
    engine = FakeEngine()
    engine.sampling_defaults = {**COOL}
    return await start(engine)


async def drawn(server: Running, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """How the engine was told to draw."""
    async with server.http.post(path, json=body) as reply:
        assert reply.status == 200, await reply.text()
        await reply.read()
    return {name: getattr(server.engine.asked[-1].params, name) for name in COOL}


@pytest.mark.parametrize(("path", "body", "inner"), ROUTES, ids=[route[0] for route in ROUTES])
async def test_every_route_takes_what_is_left_out_from_the_checkpoint(
    cool: Running, server: Running, path: str, body: dict[str, Any], inner: str
) -> None:
    given = {"temperature": 1.0, "top_k": -1}
    said = {**body, inner: {**body[inner], **given}} if inner else {**body, **given}
    assert await drawn(cool, path, body) == COOL
    assert await drawn(cool, path, said) == {**COOL, **given}
    assert await drawn(server, path, body) == {name: getattr(SamplingParams(), name) for name in COOL}


async def test_null_is_nothing_said(cool: Running) -> None:
    body = {"model": "fake", "prompt": "Hello", "max_tokens": 2, "temperature": None}
    assert (await drawn(cool, "/v1/completions", body))["temperature"] == 0.6


async def test_a_response_says_how_it_was_drawn(cool: Running) -> None:
    async with cool.http.post("/v1/responses", json={"model": "fake", "input": "Hello", "top_p": 0.5}) as reply:
        found = await reply.json()
    assert (found["temperature"], found["top_p"]) == (0.6, 0.5)


async def test_what_is_only_scored_is_not_drawn(cool: Running) -> None:
    body = {"query": "a", "items": ["b"], "label_token_ids": [1]}
    assert (await drawn(cool, "/v1/score", body))["repetition_penalty"] == 1.0


@pytest.mark.parametrize("path", ["/get_model_info", "/get_server_info"])
async def test_the_server_tells_which_defaults_hold(cool: Running, server: Running, path: str) -> None:
    for each, expected in ((cool, COOL), (server, None)):
        async with each.http.get(path) as reply:
            assert (await reply.json())["preferred_sampling_params"] == expected


def folder_with(folder: Path, **fields: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


def test_five_fields_are_read_and_no_others(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, **{**COOL, "min_p": None}, do_sample=False, max_new_tokens=5, eos_token_id=2)
    expected = {name: value for name, value in COOL.items() if name != "min_p"}
    for said in ("model", "auto"):
        assert read_sampling_defaults(said, folder) == expected
    for said in ("openai", "vllm"):
        assert read_sampling_defaults(said, folder) == {}


def test_a_folder_may_bring_another_file(tmp_path: Path) -> None:
    model = folder_with(tmp_path / "model", **COOL)
    other = folder_with(tmp_path / "other", top_k=0)
    assert read_sampling_defaults(str(other), model) == {"top_k": 0}


def test_a_checkpoint_need_not_have_the_file_but_a_folder_that_is_named_must(tmp_path: Path) -> None:
    assert read_sampling_defaults("model", tmp_path) == {}
    with pytest.raises(InvalidRequest, match=r"a folder with a generation_config\.json, got 'modle'"):
        read_sampling_defaults("modle", tmp_path)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"temperature": 2.5}, "temperature must be at least 0 and at most 2, got 2.5"),
        ({"temperature": "0.6"}, "temperature must be a number, got '0.6'"),
        ({"temperature": True}, "temperature must be a number, got True"),
        ({"temperature": float("nan")}, "temperature must be at least 0 and at most 2, got nan"),
        ({"top_p": 0}, "top_p must be greater than 0 and at most 1, got 0"),
        ({"top_k": 1.5}, "top_k must be a whole number, got 1.5"),
        ({"top_k": -2}, "top_k must be at least -1 and at most 1048576, got -2"),
        ({"min_p": 2}, "min_p must be at least 0 and at most 1, got 2"),
        ({"repetition_penalty": []}, "repetition_penalty must be a number, got []"),
    ],
)
def test_a_value_that_no_request_could_have_is_an_error(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError) as error:
        read_sampling_defaults("model", folder_with(tmp_path, **fields))
    assert f"{tmp_path}/generation_config.json: {says}" in str(error.value)
    assert "give --sampling-defaults openai" in str(error.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json cannot be read"):
        read_sampling_defaults("model", tmp_path)


def test_the_built_in_model_leaves_all_to_the_protocol() -> None:
    assert read_sampling_defaults("model", model_directory(EngineConfig(model_path="tiny"))) == {}


def test_both_spellings_of_the_flag_are_one_setting() -> None:
    assert parse(["tiny"])[0].sampling_defaults == "model"
    assert parse(["tiny", "--sampling-defaults", "openai"])[0].sampling_defaults == "openai"
    assert parse(["tiny", "--generation-config", "vllm"])[0].sampling_defaults == "vllm"


def test_the_operator_s_own_values_win(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, temperature=0.6, top_k=20)
    own = '{"temperature": 0, "min_p": 0.1}'
    assert read_sampling_defaults("model", folder, own) == {"temperature": 0, "top_k": 20, "min_p": 0.1}
    assert read_sampling_defaults("openai", folder, own) == {"temperature": 0, "min_p": 0.1}
    for flag in ("--preferred-sampling-params", "--override-generation-config"):
        assert parse(["tiny", flag, own])[0].preferred_sampling_params == own


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", r"must be a JSON object, got '\[\]'"),
        ("{", "must be a JSON object, got '{'"),
        ('{"max_new_tokens": 5}', "has 'max_new_tokens'; it may have temperature, top_p"),
        ('{"temperature": "hot"}', "temperature must be a number, got 'hot'"),
        ('{"top_p": 2}', "top_p must be greater than 0 and at most 1, got 2"),
    ],
)
def test_wrong_values_of_the_operator_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        read_sampling_defaults("model", tmp_path, text)
