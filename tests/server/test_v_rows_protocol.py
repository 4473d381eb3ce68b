"""One test for each class of fault that was published about comparable servers and that a request's body can reach.

The numbers are those of the published list; rows about processes, networks and keys have their tests elsewhere.
"""

from __future__ import annotations

import ast
import asyncio
import io
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stolon
from stolon.runtime import limits
from stolon.runtime.chat import ChatTemplate
from stolon.runtime.server import chat, completions, generate
from stolon.runtime.server.app import ROUTES
from stolon.runtime.server.errors import HttpError
from stolon.runtime.server.fields import Field
from stolon.runtime.server.formats.choose import Reading
from stolon.runtime.server.formats.source import Text
from stolon.runtime.tokenizer import Tokenizer
from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, GOOD, MESSAGES, NATIVE, RESPONSES, TEXT, refused
from tests.server.fake import VOCAB, FakeEngine
from tests.server.test_real import Process, launch
from tests.structured.hostile import HOSTILE, OK

PACKAGE = Path(stolon.__file__).parent
TINY = PACKAGE / "runtime" / "tiny" / "model"
# of forms that are refused before they are compiled: no schema at all, longer than a field or than the answer may be
EARLY = ("invalid_value", "invalid_schema", "budget_too_small")
CODE = ("custom_logit_processor", "custom_params", "prompt_embeds", "input_embeds")
STREAMED: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Tell me about Paris."}],
    "temperature": 0.7,
    "max_tokens": 40,
    "stream": True,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """The built-in model behind the real server."""
    running = launch("tiny", "--log-level", "warning")  # nobody reads its log, and a full pipe would stop it
    yield running
    running.popen.kill()
    running.popen.communicate()


@pytest.fixture
async def http(process: Process) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(process.url) as session:
        yield session


JSON = {"Content-Type": "application/json"}


def written(body: Any) -> io.BytesIO:
    """A body of any size, which the client warns of where it is bytes."""
    return io.BytesIO(json.dumps(body).encode())


async def posted(http: aiohttp.ClientSession, body: dict[str, Any], path: str = CHAT) -> tuple[int, dict[str, Any]]:
    async with http.post(path, data=written(body), headers=JSON) as reply:
        return reply.status, await reply.json()


async def text_of(http: aiohttp.ClientSession, body: dict[str, Any]) -> str:
    """What a stream says in all, if it ends as it should."""
    async with http.post(CHAT, json=body) as reply:
        assert reply.status == 200
        events = (await reply.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event[6:]) for event in events[:-2]]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@pytest.mark.parametrize("route", [CHAT, TEXT, NATIVE, RESPONSES, MESSAGES])
async def test_v04_a_request_cannot_carry_code(server: Running, route: str) -> None:
    for field in CODE:
        async with server.http.post(route, json={**GOOD[route], field: "gASVAAAA"}) as reply:
            await refused(reply, 400, "unsupported_parameter", field)


def test_v05_templates_are_rendered_in_one_sandboxed_place() -> None:
    importing = {
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jinja2")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "jinja2" for alias in node.names))
    }
    assert importing == {"chat_render.py"}


def test_v01_no_code_is_made_of_data_anywhere_in_the_server() -> None:
    banned = {"pickle", "dill", "marshal", "shelve", "cloudpickle", "joblib"}
    for path in (PACKAGE / "runtime" / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not banned & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), path


@pytest.mark.parametrize("route", [CHAT, TEXT, RESPONSES, MESSAGES])
async def test_v08_the_name_of_a_model_is_never_a_path(server: Running, route: str) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "fake/../fake", "..%2f..%2fetc"):
        async with server.http.post(route, json={**GOOD[route], "model": name}) as reply:
            await refused(reply, 404, "model_not_found", "model")


WHOLE_NUMBERS = [-(2**63) - 1, -(2**63), -1, 0, 1, 2**31, 2**63, 10**400, 1.0, 1.5, True, "1", None]


@pytest.mark.parametrize(
    ("route", "field"),
    [
        *((CHAT, name) for name in ("n", "max_tokens", "max_completion_tokens", "min_tokens", "seed", "top_k")),
        *((CHAT, name) for name in ("top_logprobs", "priority")),
        *((TEXT, name) for name in ("logprobs", "best_of")),
        (RESPONSES, "max_output_tokens"),
        (MESSAGES, "max_tokens"),
        (MESSAGES, "top_k"),
    ],
)
async def test_v13_any_number_in_a_field_is_taken_or_refused(server: Running, route: str, field: str) -> None:
    good = {
        name: value for name, value in GOOD[route].items() if field != "max_completion_tokens" or name != "max_tokens"
    }
    for value in WHOLE_NUMBERS:
        body = io.BytesIO(json.dumps({**good, field: value}).encode())
        async with server.http.post(route, data=body, headers={"Content-Type": "application/json"}) as reply:
            assert reply.status in (200, 400), await reply.text()
            if reply.status == 400:
                assert json.loads(await reply.read())["error"]["param"] == field


async def test_v21_a_fan_out_is_refused_before_anything_is_made(server: Running) -> None:
    memory = psutil.Process().memory_info().rss
    for body, param in (
        ({**GOOD[CHAT], "n": 10**9}, "n"),
        ({**GOOD[TEXT], "best_of": 10**9}, "best_of"),
        ({**GOOD[TEXT], "prompt": ["a"] * 1024, "n": 128}, "n"),
    ):
        async with server.http.post(CHAT if "messages" in body else TEXT, json=body) as reply:
            await refused(reply, 400, "invalid_value", param)
    assert server.engine.asked == []
    assert psutil.Process().memory_info().rss - memory < 64_000_000


EMPTY: list[tuple[str, dict[str, Any], int]] = [
    (TEXT, {"prompt": ""}, 200),
    (TEXT, {"prompt": []}, 400),
    (TEXT, {"prompt": [[]]}, 400),
    (TEXT, {"prompt": [""]}, 200),
    (TEXT, {"prompt": "", "max_tokens": 0}, 400),
    (TEXT, {"prompt": "", "max_tokens": 0, "echo": True}, 200),
    (TEXT, {"prompt": "a", "max_tokens": 0, "echo": True, "logprobs": 1}, 200),
    (CHAT, {"messages": []}, 400),
    (CHAT, {"messages": [{"role": "user", "content": ""}]}, 200),
    (CHAT, {"messages": [{"role": "user", "content": None}]}, 400),
    (CHAT, {"messages": [{"role": "user", "content": []}]}, 200),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": []}]}, 400),
    (CHAT, {"tools": []}, 200),
    (CHAT, {"max_tokens": 0}, 400),
    (NATIVE, {"text": ""}, 200),
    (NATIVE, {"text": "a", "sampling_params": {"max_new_tokens": 0}}, 200),
    (RESPONSES, {"input": ""}, 200),
    (RESPONSES, {"input": []}, 400),
    (MESSAGES, {"messages": []}, 400),
    (MESSAGES, {"system": ""}, 200),
]


@pytest.mark.parametrize(("route", "fields", "status"), EMPTY, ids=[f"{r} {f}"[:60] for r, f, _ in EMPTY])
async def test_v23_nothing_at_all_is_answered_or_refused(
    server: Running, route: str, fields: dict[str, Any], status: int
) -> None:
    async with server.http.post(route, json={**GOOD[route], **fields}) as reply:
        assert reply.status == status, await reply.text()


FIELDS = {"regex": "regex", "json_schema": "json_schema", "grammar": "ebnf", "choices": "guided_choice"}
REACHABLE = [name for name, (constraint, _) in HOSTILE.items() if constraint.kind in FIELDS]


def as_fields(name: str) -> dict[str, Any]:
    constraint, _ = HOSTILE[name]
    value = list(constraint.choices) if constraint.kind == "choices" else constraint.text
    return {FIELDS[constraint.kind]: value}


async def test_v24_hostile_constraints_end_their_own_requests_only(
    process: Process, http: aiohttp.ClientSession
) -> None:
    """V24, V25, V26 and D5, D6: over HTTP, beside streams whose text must be what it is on a quiet server."""
    assert len(REACHABLE) >= 48
    streams = [{**STREAMED, "seed": seed} for seed in range(2)]
    quiet = await asyncio.gather(*(text_of(http, body) for body in streams))
    for names in (REACHABLE[at : at + 16] for at in range(0, len(REACHABLE), 16)):
        bodies = [
            {**STREAMED, "stream": False, "ignore_eos": False, "max_tokens": 24, **as_fields(name)} for name in names
        ]
        answers, texts = await asyncio.gather(
            asyncio.gather(*(posted(http, body) for body in bodies)),
            asyncio.gather(*(text_of(http, stream) for stream in streams)),
        )
        assert texts == quiet, names
        for name, (status, found) in zip(names, answers, strict=True):
            codes = HOSTILE[name][1]
            if status == 200:
                assert OK in codes, name
            else:
                # a form that works may still become too slow
                own = {400: (*codes, *EARLY), 500: ("grammar_limit", "grammar_dead_end")}[status]
                assert found["error"]["code"] in own, (name, found)
    assert process.popen.poll() is None
    process_now = psutil.Process(process.popen.pid)
    began = time.monotonic()
    while process_now.cpu_percent(0.2) > 20:
        assert time.monotonic() - began < 10, "something still compiles"


async def test_v29_no_variable_of_a_request_reaches_tokenizer_or_template(server: Running) -> None:
    for kwargs in ({"tokenize": True}, {"chat_template": "{{ 1 }}"}, {"enable_thinking": True}):
        async with server.http.post(CHAT, json={**GOOD[CHAT], "chat_template_kwargs": kwargs}) as reply:
            await refused(reply, 400, "unsupported_parameter", "chat_template_kwargs")
    for field in ("chat_template", "tokenizer_kwargs", "mm_processor_kwargs"):
        async with server.http.post(CHAT, json={**GOOD[CHAT], field: "x"}) as reply:
            assert reply.status == 400


async def test_v29_long_prompts_do_not_hold_up_the_others(http: aiohttp.ClientSession) -> None:
    body = {**STREAMED, "stream": False, "messages": [{"role": "user", "content": "many words " * 90_000}]}
    long = [asyncio.create_task(posted(http, body)) for _ in range(4)]
    slowest = 0.0
    while not all(task.done() for task in long):
        began = time.monotonic()
        async with http.get("/health") as reply:
            assert reply.status == 200
        slowest = max(slowest, time.monotonic() - began)
    for status, found in await asyncio.gather(*long):
        assert (status, found["error"]["code"]) == (400, "context_length_exceeded")
    assert slowest < 2  # tokenizing one of them takes longer


async def test_v30_nothing_is_fetched_for_a_request(server: Running) -> None:
    """V30 and D7: somebody listens where the pictures are said to be, and nobody comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        parts: list[tuple[str, Any]] = [
            (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}),
            (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}),
            (
                MESSAGES,
                {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": url}}]}]},
            ),
            (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": url}}}}),
            (CHAT, {"messages": [{"role": "user", "content": f"![x]({url})"}]}),
        ]
        for route, fields in parts:
            async with server.http.post(route, json={**GOOD[route], **fields}) as reply:
                assert reply.status in (200, 400)
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_v30_a_remote_reference_is_refused_by_the_engine(http: aiohttp.ClientSession) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x.json"}}}
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    status, found = await posted(http, {**STREAMED, "stream": False, "response_format": format})
    assert (status, found["error"]["code"]) == (400, "unresolvable_ref")
    assert found["error"]["param"] == "response_format.json_schema.schema#/properties/a/$ref"


@pytest.mark.parametrize("route", [CHAT, TEXT, NATIVE, RESPONSES, MESSAGES])
async def test_v33_an_error_is_small_whatever_it_is_about(server: Running, route: str) -> None:
    field = {CHAT: "messages", TEXT: "prompt", NATIVE: "text", RESPONSES: "input", MESSAGES: "messages"}[route]
    for value in ([{"role": "x" * 100_000}] * 100, [["y" * 100_000]] * 100, {"z" * 100_000: 1}, [{"w" * 100_000: 1}]):
        async with server.http.post(route, data=written({**GOOD[route], field: value}), headers=JSON) as reply:
            raw = await reply.read()
        assert reply.status == 400
        assert len(raw) <= 4096
        assert b"xx" * 100 not in raw


@settings(max_examples=60, deadline=None)
@given(id=st.integers() | st.integers(-3, VOCAB + 3))
def test_v34_a_token_id_is_inside_the_vocabulary_or_refused(id: int) -> None:
    def taken(read: Any, body: dict[str, Any]) -> bool:
        try:
            read("", body)
        except HttpError:
            return False
        return True

    inside = 0 <= id < VOCAB
    chat_body, text_body = chat.request_body(VOCAB), completions.request_body(VOCAB)
    assert taken(chat_body, {**GOOD[CHAT], "stop_token_ids": [id]}) == inside
    assert taken(chat_body, {**GOOD[CHAT], "logit_bias": {str(id): 1}}) == inside
    assert taken(text_body, {**GOOD[TEXT], "prompt": [id]}) == inside
    native = generate.request_body(VOCAB)
    assert taken(native, {"input_ids": [[1], [id]]}) == inside
    assert taken(native, {"text": "a", "token_ids_logprob": [id]}) == inside


TOKENIZER = Tokenizer.load(TINY)


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    found = ChatTemplate.load(TOKENIZER, TINY, None)
    assert found is not None
    return found


SPELLED = st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<|", "im_end", "|>", "user\n", "a", " ", "é"]))


@settings(max_examples=60, deadline=None)
@given(content=SPELLED.map("".join), name=SPELLED.map("".join))
def test_v35_nothing_in_a_conversation_becomes_a_control_token(template: ChatTemplate, content: str, name: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {name: content}}}
    tool = {"type": "function", "function": {"name": "f", "description": content, "parameters": {name: content}}}

    def control(said: str, key: str, called: Any, tools: Any) -> list[int]:
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": said},
            {"role": "assistant", "content": said, "tool_calls": [called]},
            {"role": "tool", "content": said},
        ]
        ids = template.encode(messages, tools=tools, variables={"note": said, "key": key})
        return [id for id in ids if id in TOKENIZER.special_ids]

    plain_call = {"type": "function", "function": {"name": "f", "arguments": {"x": "x"}}}
    plain_tool = {"type": "function", "function": {"name": "f", "description": "x", "parameters": {"x": "x"}}}
    assert control(content, name, call, [tool]) == control("x", "x", plain_call, [plain_tool])


TOGETHER: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 1.5},
    "top_p": {"top_p": 0.5},
    "top_k": {"top_k": 3},
    "min_p": {"min_p": 0.2},
    "frequency": {"frequency_penalty": 1.5},
    "presence": {"presence_penalty": -1.5},
    "repetition": {"repetition_penalty": 1.5},
    "min_tokens": {"min_tokens": 3},
    "seed": {"seed": -1},
    "bias": {"logit_bias": {"65": 5, "66": -100}},
    "stop": {"stop": ["e", "Paris is"]},
    "stop ids": {"stop_token_ids": [70, 71]},
    "stop regex": {"stop_regex": ["[xyz]+"]},
    "on": {"ignore_eos": True},
    "control tokens": {"skip_special_tokens": False},
    "n": {"n": 2},
    "logprobs": {"logprobs": True, "top_logprobs": 3},
    "salt": {"cache_salt": "a"},
    "regex": {"regex": "[A-Za-z ]{1,30}"},
    "object": {"response_format": {"type": "json_object"}, "max_tokens": 60},
    "call": {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 100,
    },
    "stream": {"stream": True},
}
CONTRARY = {"regex", "object", "call"}  # of these a request may have one
PAIRS = [pair for pair in itertools.combinations(TOGETHER, 2) if len(CONTRARY & set(pair)) < 2]


async def test_v37_every_two_parameters_work_together(http: aiohttp.ClientSession) -> None:
    limited = asyncio.Semaphore(16)

    async def ask(first: str, second: str) -> None:
        body = {**STREAMED, "stream": False, "ignore_eos": False, "max_tokens": 12}
        body |= TOGETHER[first] | TOGETHER[second]
        body["max_tokens"] = max(TOGETHER[name].get("max_tokens", 12) for name in (first, second))
        async with limited, http.post(CHAT, json=body) as reply:
            raw = await reply.text()
        assert reply.status == 200, (first, second, raw)
        assert '"error"' not in raw, (first, second, raw)

    await asyncio.gather(*(ask(*pair) for pair in PAIRS))


async def test_v38_tenants_do_not_see_each_others_prefixes(http: aiohttp.ClientSession) -> None:
    """V38 and D10."""
    ours, theirs = f"a-{time.time_ns()}", f"b-{time.time_ns()}"
    prompt = f"The tenants of this house are quiet, and this is sentence number {time.time_ns()}."
    body = {**STREAMED, "stream": False, "max_tokens": 2, "messages": [{"role": "user", "content": prompt}]}

    async def cached(salt: str) -> int:
        _, found = await posted(http, {**body, "cache_salt": salt})
        return found["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert await cached(ours) == 0
    assert await cached(ours) > 20
    assert await cached(theirs) == 0
    assert await cached(theirs) > 20


async def test_v55_no_body_has_a_number_that_is_no_json(server: Running) -> None:
    bodies = [
        (CHAT, {**GOOD[CHAT], "logprobs": True, "top_logprobs": 5}),
        (TEXT, {**GOOD[TEXT], "logprobs": 5, "echo": True}),
        (NATIVE, {**GOOD[NATIVE], "return_logprob": True, "top_logprobs_num": 5, "logprob_start_len": 0}),
    ]
    for route, body in bodies:
        for stream in (False, True):
            async with server.http.post(route, json={**body, "stream": stream}) as reply:
                raw = await reply.text()
            found = [line.removeprefix("data: ") for line in raw.split("\n\n") if line and "[DONE]" not in line]
            for each in found:
                json.loads(each, parse_constant=pytest.fail)
            assert "-9999.0" in raw


def test_d4_every_number_of_a_request_has_two_bounds_and_every_list_a_length() -> None:
    for table in (limits.NUMBERS, limits.NATIVE_NUMBERS):
        assert all(abs(bounds.low) < 1e30 and abs(bounds.high) < 1e30 for bounds in table.values())
    assert all(length.high <= 1 << 20 for length in limits.LENGTHS.values())


def test_d4_no_schema_of_a_body_leaves_a_list_open() -> None:
    def lists(schema: Any) -> Iterator[dict[str, Any]]:
        if isinstance(schema, dict):
            if schema.get("type") == "array":
                yield schema
            for inner in schema.values():
                yield from lists(inner)
        elif isinstance(schema, list):
            for inner in schema:
                yield from lists(inner)

    for route in ROUTES:
        body = route.body if isinstance(route.body, Field) or route.body is None else route.body(300)
        for found in lists(None if body is None else body.schema):
            # how many tokens a prompt may have is the model's to say
            assert "maxItems" in found or found["items"] == {"type": "integer", "minimum": 0, "maximum": 299}, (
                route.path
            )


async def test_d6_a_failing_request_leaves_the_others_alone(start: StartServer) -> None:
    engine = FakeEngine()
    server = await start(engine)
    async with server.http.post(CHAT, json=GOOD[CHAT]) as reply:
        quiet = (await reply.json())["choices"]
    for route in (CHAT, RESPONSES, MESSAGES):
        engine.fail_at = 2
        async with server.http.post(route, json=GOOD[route]) as reply:
            await refused(reply, 500, "internal_error", None)
        engine.fail_at = None
        async with server.http.post(CHAT, json=GOOD[CHAT]) as reply:
            assert (await reply.json())["choices"] == quiet
    assert engine.running == 0


async def test_d8_templates_come_from_the_operator_alone(server: Running) -> None:
    for field in ("chat_template", "chat_template_kwargs"):
        for route in (CHAT, TEXT, NATIVE, RESPONSES, MESSAGES):
            async with server.http.post(route, json={**GOOD[route], field: {"a": 1}}) as reply:
                await refused(reply, 400, "unsupported_parameter", field)


@pytest.mark.parametrize("route", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True])
async def test_d9_a_client_that_leaves_ends_its_request(start: StartServer, route: str, stream: bool) -> None:
    server = await start(FakeEngine(pace_s=0.01))
    body = {**GOOD[route], "stream": stream}
    body["max_output_tokens" if route == RESPONSES else "max_tokens"] = 1000
    server.engine.script = "a" * 2000
    request = asyncio.create_task(_read(server.http, route, body))
    await _until(lambda: server.engine.running == 1)
    request.cancel()
    await _until(lambda: server.engine.running == 0)
    assert (server.engine.running, server.engine.aborted) == (0, 1)


async def _until(is_so: Callable[[], bool]) -> None:
    for _ in range(500):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen in time")


async def _read(http: aiohttp.ClientSession, route: str, body: dict[str, Any]) -> bytes:
    async with http.post(route, json=body) as reply:
        return await reply.read()


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_v49_no_character_is_said_twice_or_lost(text: str, cuts: list[int]) -> None:
    parser = Reading(thinks=True, tools="hermes", names=frozenset({"f"})).parser()
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [piece for low, high in itertools.pairwise(places) for piece in parser.feed(text[low:high])]
    said = "".join(piece.text for piece in [*pieces, *parser.finish()] if isinstance(piece, Text))
    assert said == text
