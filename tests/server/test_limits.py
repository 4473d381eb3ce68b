"""Made from the table of limits: each bound is allowed, one step beyond it is refused, naming field and bound."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import typing
from collections.abc import Iterator
from typing import Any, cast

import pytest

from stolon.runtime import limits
from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.limits import LENGTHS, NATIVE_NUMBERS, NUMBERS, Range
from stolon.runtime.server.settings import ServerConfig
from tests.server.conftest import Running, StartServer
from tests.server.expected import CHAT, COUNT, DETOKENIZE, EMBED, HELLO, LABELS, NATIVE, RERANK, SCORE, TEXT, TOKENIZE
from tests.server.fake import FakeEngine
from tests.server.fake_embedder import FakeEmbedder


def edges(bounds: Range) -> tuple[list[float], list[float]]:
    """Values that are just allowed, and values that are just refused."""
    low, high = (int(bounds.low), int(bounds.high)) if bounds.whole else (bounds.low, bounds.high)
    if bounds.whole:
        return [low, high], [low - 1, high + 1]
    below = math.nextafter(low, -math.inf)
    inside = math.nextafter(low, math.inf) if bounds.open_low else low
    return [inside, high], [low if bounds.open_low else below, math.nextafter(high, math.inf)]


def of_a_number(name: str, value: float) -> tuple[str, dict[str, Any], str]:
    """A request of an OpenAI route in which `value` stands for limit `name`, and the field it is for."""
    text: dict[str, Any] = {"model": "fake", "prompt": "a"}
    chat: dict[str, Any] = {"model": "fake", "messages": HELLO, "max_tokens": 1}
    match name:
        case "max_tokens_with_echo":
            return TEXT, {**text, "max_tokens": value, "echo": True, "stop": "never"}, "max_tokens"
        case "min_tokens":
            return TEXT, {**text, "max_tokens": limits.MAX_TOKENS, "min_tokens": value}, "min_tokens"
        case "logprobs" | "best_of":
            return TEXT, {**text, "max_tokens": 1, name: value}, name
        case "top_logprobs":
            return CHAT, {**chat, "logprobs": True, name: value}, name
        case "max_completion_tokens":
            return CHAT, {"model": "fake", "messages": HELLO, name: value}, name
        case "dimensions" | "truncate_prompt_tokens":
            return EMBED, {"model": "fake", "input": "a", name: value}, name
        case "stream_interval":
            return CHAT, {**chat, "stream": True, name: value}, name
        case "prompt_logprobs":
            return TEXT, {**text, "max_tokens": 1, name: value}, name
        case "top_n":
            return RERANK, {"query": "a", "documents": ["b"], name: value}, name
        case "budget_tokens":
            thinking = {"type": "enabled", name: value}
            return COUNT, {"model": "fake", "messages": HELLO, "thinking": thinking}, f"thinking.{name}"
        case _:
            return CHAT, {**chat, name: value}, name


def of_a_native_number(name: str, value: float) -> tuple[str, dict[str, Any], str]:
    match name:
        case "logprob_start_len":
            return NATIVE, {"text": "a", "return_logprob": True, name: value}, name
        case "top_logprobs_num":
            return NATIVE, {"text": "a", "return_logprob": True, name: value}, name
        case "min_new_tokens":
            sampling = {"max_new_tokens": limits.MAX_TOKENS, name: value}
            return NATIVE, {"text": "a", "sampling_params": sampling}, f"sampling_params.{name}"
        case _:
            return NATIVE, {"text": "a", "sampling_params": {name: value}}, f"sampling_params.{name}"


def of_a_length(name: str, count: int) -> tuple[str, dict[str, Any], str]:
    """A request with `count` of what limit `name` counts."""
    text: dict[str, Any] = {"model": "fake", "prompt": "a", "max_tokens": 1}
    chat: dict[str, Any] = {"model": "fake", "messages": HELLO, "max_tokens": 1}
    native: dict[str, Any] = {"text": "a"}
    match name:
        case "messages":
            return CHAT, {**chat, "messages": HELLO * count}, "messages"
        case "parts":
            parts = [{"type": "text", "text": "a"}] * count
            return CHAT, {**chat, "messages": [{"role": "user", "content": parts}]}, "messages[0].content"
        case "prompts":
            return TEXT, {**text, "prompt": ["a"] * count}, "prompt"
        case "stop":
            return CHAT, {**chat, "stop": ["z"] * count}, "stop"
        case "stop_characters":
            return TEXT, {**text, "stop": "z" * count}, "stop"
        case "native_stop":
            return NATIVE, {**native, "sampling_params": {"stop": ["z"] * count}}, "sampling_params.stop"
        case "stop_regex":
            return NATIVE, {**native, "sampling_params": {"stop_regex": ["z"] * count}}, "sampling_params.stop_regex"
        case "stop_token_ids":
            return CHAT, {**chat, "stop_token_ids": [1] * count}, "stop_token_ids"
        case "allowed_token_ids":
            return TEXT, {**text, "allowed_token_ids": [1] * count}, "allowed_token_ids"
        case "logit_bias":
            return CHAT, {**chat, "logit_bias": {str(i): 1 for i in range(count)}}, "logit_bias"
        case "token_ids_logprob":
            return NATIVE, {**native, "return_logprob": True, "token_ids_logprob": [1] * count}, "token_ids_logprob"
        case "cache_salt":
            return CHAT, {**chat, "cache_salt": "s" * count}, "cache_salt"
        case "name":
            return CHAT, {**chat, "messages": [{**HELLO[0], "name": "n" * count}]}, "messages[0].name"
        case "request_id":
            return NATIVE, {**native, "rid": "r" * count}, "rid"
        case "aborted_id":
            return "/abort_request", {"rid": "r" * count, "abort_all": True}, "rid"
        case "options":
            return SCORE, {"text": "a", "options": ["b"] * count}, "options"
        case "documents":
            return RERANK, {"query": "a", "documents": ["b"] * count}, "documents"
        case "labels":
            return LABELS, {"query": "a", "items": "b", "label_token_ids": [5] * count}, "label_token_ids"
        case "tokens":
            return DETOKENIZE, {"tokens": [97] * count}, "tokens"
        case "tokenized":
            return TOKENIZE, {"prompt": "a" * count}, "prompt"
        case "option_characters":
            return SCORE, {"text": "a", "options": ["b" * count]}, "options[0]"
        case "pattern":
            return CHAT, {**chat, "regex": "a" * count}, "regex"
        case "grammar":
            return CHAT, {**chat, "ebnf": "a" * count}, "ebnf"
        case "tools" | "tool_calls" | "tool_name" | "format_name":
            return of_tools(name, count, chat)
        case _:
            raise AssertionError(f"the limit {name} is tested nowhere")


def of_tools(name: str, count: int, chat: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
    match name:
        case "tools":
            tools = [{"type": "function", "function": {"name": f"f{i}"}} for i in range(count)]
            return CHAT, {**chat, "tools": tools}, "tools"
        case "tool_calls":
            calls = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}] * count
            asked = {"role": "assistant", "content": "x", "tool_calls": calls}
            return CHAT, {**chat, "messages": [asked]}, "messages[0].tool_calls"
        case "tool_name":
            tools = [{"type": "function", "function": {"name": "f" * count}}]
            return CHAT, {**chat, "tools": tools}, "tools[0].function.name"
        case _:
            json_schema = {"name": "f" * count, "schema": {}}
            format = {"type": "json_schema", "json_schema": json_schema}
            return CHAT, {**chat, "response_format": format}, "response_format.json_schema.name"


def allowed_and_refused() -> Iterator[tuple[str, str, dict[str, Any], str | None]]:
    """(name, route, body, None if it is allowed, else the field)"""
    for table, make in ((NUMBERS, of_a_number), (NATIVE_NUMBERS, of_a_native_number)):
        for name, bounds in table.items():
            good, bad = edges(bounds)
            for value in good:
                if name == "dimensions" and value > 26:  # what the model has is less than any may have
                    continue
                if (value == -1 and name == "logprob_start_len") or not (name == "logprob_start_len" and value > 1):
                    yield f"{name} {value}", *make(name, value)[:2], None
            for value in bad:
                yield f"{name} {value}", *make(name, value)
    for name, length in LENGTHS.items():
        if name in ("api_key", "prompt_tokens"):  # of the command line; a body of many megabytes, see test_v_rows.py
            continue
        for count in (length.low, length.high):
            yield f"{count} {name}", *of_a_length(name, count)[:2], None
        yield f"{length.high + 1} {name}", *of_a_length(name, length.high + 1)
        if length.low:
            yield f"{length.low - 1} {name}", *of_a_length(name, length.low - 1)


JSON = {"Content-Type": "application/json"}
CASES = list(allowed_and_refused())


@pytest.mark.parametrize(("route", "body", "field"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
async def test_a_bound_is_allowed_and_what_lies_beyond_is_not(
    start: StartServer, route: str, body: dict[str, Any], field: str | None
) -> None:
    # so large that a limit is what refuses, and a vocabulary that has as many ids as biases are allowed
    engine = FakeEngine(context_length=1 << 22)
    engine.vocab_size = LENGTHS["logit_bias"].high + 2
    server: Running = await start(engine, embedder=FakeEmbedder() if route == EMBED else None)
    async with server.http.post(route, data=io.BytesIO(json.dumps(body).encode()), headers=JSON) as reply:
        if field is None:
            assert reply.status == 200, await reply.text()
        else:
            error = (await reply.json())["error"]
            assert (reply.status, error["param"]) == (400, field), error
            assert field.split(".")[-1] in error["message"]


def test_a_refusal_names_the_bound() -> None:
    assert str(NUMBERS["n"]) == "at least 1 and at most 128"
    assert str(NUMBERS["top_p"]) == "greater than 0 and at most 1"
    assert not NUMBERS["temperature"].holds(math.nan)


def test_a_number_outside_may_have_a_meaning() -> None:
    bounds = limits.Range(low=1, high=9, whole=True, also=-1)
    assert [n for n in range(-3, 12) if bounds.holds(n)] == [-1, *range(1, 10)]
    assert str(bounds) == "at least 1 and at most 9, or -1"
    assert bounds.schema() == {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"const": -1}]}


@pytest.mark.parametrize("config", [EngineConfig, SchedulerConfig, ServerConfig])
def test_every_number_of_the_settings_has_a_bound(config: type) -> None:
    kinds = typing.get_type_hints(config)
    numbers = {
        f.name for f in dataclasses.fields(config) if {int, float} & {kinds[f.name], *typing.get_args(kinds[f.name])}
    }
    assert numbers <= set(limits.FLAGS)


@pytest.mark.parametrize("config", [SchedulerConfig, ServerConfig])
def test_every_default_is_within_its_bound(config: type) -> None:
    for field in dataclasses.fields(config):
        if field.name in limits.FLAGS and field.default is not None:  # None is worked out later
            assert limits.FLAGS[field.name].holds(cast(float, field.default)), field.name
