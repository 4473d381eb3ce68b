"""stolon's own server, as a process, through each remote backend: it answers as the engine in this process does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from stolon import OpenAI, Runtime, RuntimeEndpoint, State, assistant, function, gen, user
from stolon.lang.backend import Backend, GenerateRequest
from stolon.lang.errors import BackendRequestError
from stolon.lang.prompt import EMPTY, Prompt, Text
from stolon.lang.types import Delta, SamplingParams
from tests.backends.speakers import chat_prompt

ROOT = Path(__file__).parents[2]
HELLO = chat_prompt(("system", "You are a helpful assistant."), ("user", "What is the capital?"))
BEGUN = HELLO.append(Text("The capital"))
PLAIN = EMPTY.append(Text("One two three"))


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[str]:
    """The address of a server that ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "stolon.launch_server", "--model-path", str(folder), "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--kv-tokens", "4096", "--threads", "1", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as server:
        assert server.stdout is not None
        said: list[str] = []
        for line in server.stdout:
            said.append(line)
            if line.startswith("ready:"):
                break
        assert said[-1].startswith("ready:"), "".join(said)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def url(tiny_checkpoint: Path) -> Iterator[str]:
    with serving(tiny_checkpoint) as address:
        yield address


@pytest.fixture(scope="module")
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime(str(tiny_checkpoint), kv_tokens=4096, threads=1) as engine:
        yield engine


@pytest.fixture(params=["endpoint", "openai"])
def remote(request: pytest.FixtureRequest, url: str) -> Iterator[Backend]:
    if request.param == "endpoint":
        with RuntimeEndpoint(url, max_retries=0) as endpoint:
            yield endpoint
    else:
        with OpenAI("default", base_url=url + "/v1", dialect="stolon", max_retries=0) as openai:
            yield openai


async def deltas_of(backend: Backend, prompt: Prompt, **params: Any) -> list[Delta]:
    request = GenerateRequest(prompt=prompt, params=SamplingParams(**params))
    return [delta async for delta in backend.stream(request)]


def text_of(deltas: Sequence[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


@pytest.mark.parametrize("prompt", [HELLO, BEGUN, PLAIN], ids=["chat", "begun", "plain"])
@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0, "max_tokens": 24},
        {"temperature": 1.0, "seed": 7, "max_tokens": 24, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1},
        {"temperature": 0.0, "max_tokens": 24, "stop": ("a",), "min_tokens": 2, "ignore_eos": True},
    ],
    ids=["greedy", "drawn", "stopped"],
)
async def test_the_server_answers_what_the_engine_answers(
    remote: Backend, runtime: Runtime, prompt: Prompt, params: dict[str, Any]
) -> None:
    near, far = await deltas_of(runtime, prompt, **params), await deltas_of(remote, prompt, **params)
    assert text_of(far) == text_of(near)
    assert far[-1].finish == near[-1].finish
    assert near[-1].usage is not None
    assert far[-1].usage is not None
    assert far[-1].usage.prompt_tokens == near[-1].usage.prompt_tokens
    assert far[-1].usage.completion_tokens == near[-1].usage.completion_tokens
    await remote.close()


async def test_several_answers_are_those_of_the_engine(remote: Backend, runtime: Runtime) -> None:
    params: dict[str, Any] = {"n": 3, "seed": 5, "max_tokens": 12}
    near, far = await deltas_of(runtime, HELLO, **params), await deltas_of(remote, HELLO, **params)
    assert [text_of(far, index) for index in range(3)] == [text_of(near, index) for index in range(3)]
    assert len({text_of(near, index) for index in range(3)}) > 1
    await remote.close()


async def test_tokens_and_log_probabilities_come_through_the_native_route(url: str, runtime: Runtime) -> None:
    params: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8, "logprobs": 2, "prompt_logprobs": 2}
    endpoint = RuntimeEndpoint(url)
    near, far = await deltas_of(runtime, PLAIN, **params), await deltas_of(endpoint, PLAIN, **params)
    await endpoint.close()
    assert [t for d in far for t in d.tokens] == [t for d in near for t in d.tokens]
    for side in ("logprobs", "prompt_logprobs"):
        values = [
            [None if row is None else (row.token, row.top) for d in deltas for row in getattr(d, side) or ()]
            for deltas in (near, far)
        ]
        assert values[0] == values[1]
        assert values[0]


@pytest.mark.parametrize("prompt", [HELLO, BEGUN, PLAIN], ids=["chat", "begun", "plain"])
async def test_scores_are_those_of_the_engine(url: str, runtime: Runtime, prompt: Prompt) -> None:
    options = [" Washington", " is", " two local attractions", "."]
    endpoint = RuntimeEndpoint(url)
    far = await endpoint.score(prompt, options, unconditional=True)
    near = await runtime.score(prompt, options, unconditional=True)
    await endpoint.close()
    assert [score.tokens for score in far] == [score.tokens for score in near]
    for one, other in zip(far, near, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.unconditional == pytest.approx(other.unconditional, abs=1e-4)


async def test_what_the_server_says_of_itself_is_told_and_its_cache_can_be_flushed(url: str) -> None:
    endpoint = RuntimeEndpoint(url)
    info = endpoint.info()
    assert (info["server"], info["model"]) == ("stolon", endpoint.get_model_name())
    await endpoint.prefill(HELLO)
    warm = await deltas_of(endpoint, HELLO, max_tokens=1)
    assert warm[-1].usage is not None
    assert warm[-1].usage.cached_tokens > 5
    assert await endpoint.flush_cache()
    cold = await deltas_of(endpoint, HELLO, max_tokens=1)
    assert cold[-1].usage is not None
    assert cold[-1].usage.cached_tokens == 0
    await endpoint.close()


async def test_a_prompt_that_does_not_fit_is_refused_with_the_servers_words(remote: Backend) -> None:
    with pytest.raises(BackendRequestError, match="token") as raised:
        await deltas_of(remote, PLAIN.append(Text(" two three" * 2000)))
    assert raised.value.status == 400
    await remote.close()


@function
def typed(s: State, node: Any) -> None:
    s += user("Ask.") + assistant(node)


FORMS = [
    gen("x", int),
    gen("x", Literal["red", "green", "blue"]),
    gen("x", regex="[ab]{3}c?"),
    gen("x", json_schema={"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3}),
    gen("x", json_schema={"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": False}),
    gen("x", grammar='start: "a"+ "b"'),
]


@pytest.mark.parametrize("node", FORMS, ids=[str(number) for number in range(len(FORMS))])
def test_an_answer_in_a_form_is_that_of_the_engine(remote: Backend, runtime: Runtime, node: Any) -> None:
    near, far = (typed.run(node, backend=backend, temperature=0, max_tokens=48) for backend in (runtime, remote))
    assert far["x"] == near["x"]


@pytest.mark.parametrize("node", FORMS[:5], ids=[str(number) for number in range(5)])
def test_strict_schemas_work_on_a_server_that_holds_to_them(url: str, node: Any) -> None:
    with OpenAI("default", base_url=url + "/v1", max_retries=0) as strict:
        state = typed.run(node, backend=strict, temperature=0, max_tokens=48)
        assert state.info("x").finish == "stop"


def test_a_form_after_reasoning_is_that_of_the_engine(url: str, runtime: Runtime) -> None:
    node = gen("x", Literal["red", "green"], reasoning=True, max_tokens=40)
    with RuntimeEndpoint(url) as endpoint:
        far = typed.run(node, backend=endpoint, temperature=0)
    near = typed.run(node, backend=runtime, temperature=0)
    assert (far["x"], far.info("x").reasoning) == (near["x"], near.info("x").reasoning)


@pytest.fixture
def cool_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """One whose makers want the likeliest tokens, far from what the language draws by default."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "cool")
    path = folder / "generation_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "temperature": 0.01, "top_k": 1, "repetition_penalty": 1.2})
    )
    return folder


@function
def talk(s: State) -> None:
    s += user("Say something long.")
    s += assistant(gen("answer", max_tokens=24))


def completed(url: str, **fields: object) -> str:
    body = json.dumps({"model": "default", "prompt": "One two three", "max_tokens": 24, "seed": 3, **fields}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)["choices"][0]["text"]


def test_what_a_program_leaves_open_is_the_languages_and_what_a_client_leaves_open_the_checkpoints(
    cool_checkpoint: Path,
) -> None:
    plain = {"temperature": 1, "top_k": -1, "repetition_penalty": 1}
    cool = {"temperature": 0.01, "top_k": 1, "repetition_penalty": 1.2}
    ways: list[dict[str, Any]] = [{}, {"top_p": 0.9}, cool]
    with Runtime(str(cool_checkpoint), kv_tokens=4096, threads=1) as near:
        told = [talk.run(backend=near, seed=7, **how)["answer"] for how in ways]
    with serving(cool_checkpoint) as url:
        backends: list[Backend] = [
            RuntimeEndpoint(url),
            OpenAI("default", base_url=f"{url}/v1", dialect="stolon"),
            OpenAI("default", base_url=f"{url}/v1", dialect="vllm"),
        ]
        for far in backends:
            assert [talk.run(backend=far, seed=7, **how)["answer"] for how in ways] == told
        assert completed(url) == completed(url, **cool)
        assert completed(url, **plain) != completed(url)
        asked = completed(url, **plain)
    with serving(cool_checkpoint, "--sampling-defaults", "openai") as url:
        assert completed(url) == asked
