"""POST /v1/messages and /v1/messages/count_tokens, in Anthropic's shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from ...lang.types import Delta, FinishReason, SamplingParams, Usage
from ..limits import LENGTHS, NUMBERS
from . import wire
from .aborting import handle
from .answers import Question, ask_all
from .body import JsonObject, read_object
from .errors import HttpError, invalid, kind_of
from .fields import Check, Field, Values, boolean, ignored, list_of, mapping, number, object_of, one_of, string
from .hearing import Hearing, listen
from .messages_blocks import Blocks
from .messages_input import MESSAGES, SYSTEM, TOOL_CHOICE, TOOLS
from .prompts import check_model, fit
from .request import Request
from .sampling import UNSUPPORTED, drawing
from .service import Engine, Service
from .settings import ServerConfig
from .stream import send
from .talk import Prepared, Talk, prepare
from .template_variables import thinking
from .tools import Choice, offer
from .truncation import Truncation

_UNSUPPORTED = {
    **UNSUPPORTED,
    "stop": "name it stop_sequences",
    "max_completion_tokens": "name it max_tokens",
    **dict.fromkeys(
        ["container", "context_management", "mcp_servers", "inference_geo", "output_config", "output_format"],
        "not available",
    ),
}
# a thought is never left out of the answer
_SHOWN = {"display": one_of("summarized")}
_THINKING = {
    "enabled": object_of(
        {"type": one_of("enabled"), "budget_tokens": number(NUMBERS["budget_tokens"]), **_SHOWN},
        required=("type", "budget_tokens"),
    ),
    "adaptive": object_of({"type": one_of("adaptive"), **_SHOWN}, required=("type",)),
    "disabled": object_of({"type": one_of("disabled")}, required=("type",)),
}
_THINKING_TYPE = one_of(*_THINKING)


def _thinking(path: str, value: object) -> dict[str, Any]:
    kind = _THINKING_TYPE(f"{path}.type", mapping(path, value).get("type"))
    return _THINKING[kind](path, value)


_NUMBERS = "temperature top_p min_p seed priority frequency_penalty presence_penalty repetition_penalty".split()
_CONVERSATION: dict[str, Check] = {
    "model": string(LENGTHS["name"]),
    "messages": MESSAGES,
    "system": SYSTEM,
    "tools": TOOLS,
    "tool_choice": TOOL_CHOICE,
    "thinking": Field({"anyOf": [kind.schema for kind in _THINKING.values()]}, _thinking),
    "cache_control": ignored,
}
COUNTED_BODY = object_of(_CONVERSATION, required=("model", "messages"), unsupported=_UNSUPPORTED)
REQUEST_BODY = object_of(
    {
        **_CONVERSATION,
        **{name: number(NUMBERS[name]) for name in _NUMBERS},
        "max_tokens": number(NUMBERS["max_tokens"]),
        "stop_sequences": list_of(string(LENGTHS["stop_characters"]), LENGTHS["stop"]),
        "top_k": number(NUMBERS["top_k"]),
        "stream": boolean,
        "cache_salt": string(LENGTHS["cache_salt"]),
        **dict.fromkeys(["metadata", "service_tier", "user_profile_id"], ignored),
    },
    required=("model", "messages", "max_tokens"),
    unsupported=_UNSUPPORTED,
)


async def answer(service: Service, request: Request) -> web.StreamResponse:
    settings = service.settings
    with service.admitted() as engine:
        found = await read_object(request, settings)
        check_model(found, engine)
        values = REQUEST_BODY("", found)
        prepared = await _prepared(engine, values, settings, Truncation.of_server(engine, settings))
        question = _question(engine, values, prepared, settings)
        form = _Form(engine.model_name, prepared, parallel=_choice(values)[1])
        question = dataclasses.replace(question, rid=handle(request, form.id))
        if values.get("stream", False):
            return await send(service, request, ask_all(engine, [question]), _Events(form))
        reply, (spoken,) = await listen(engine, question, form.reading, parallel=form.parallel)
        blocks = Blocks(form.reading.tools)
        for piece in spoken.pieces:
            blocks.add(piece)
        blocks.close()
        (done,) = reply.answers
        end = _end(done.finish, done.matched, len(spoken.calls))
        whole = {**form.message(blocks.content), **end, "usage": _usage(reply.usage)}
        return web.Response(body=wire.dumps(whole), content_type="application/json")


async def count(service: Service, request: Request) -> web.StreamResponse:
    """How long the prompt of a request would be."""
    settings = service.settings
    with service.admitted() as engine:
        found = await read_object(request, settings)
        check_model(found, engine)
        prepared = await _prepared(engine, COUNTED_BODY("", found), settings)
        return web.Response(body=wire.dumps({"input_tokens": len(prepared.prompt)}), content_type="application/json")


def _choice(values: Values) -> tuple[Choice | None, bool]:
    return values.get("tool_choice", (None, True))


async def _prepared(
    engine: Engine, values: Values, settings: ServerConfig, truncation: Truncation | None = None
) -> Prepared:
    choice, parallel = _choice(values)
    system = [{"role": "system", "content": values["system"]}] if values.get("system") else []
    messages = [*system, *values["messages"]]
    last = messages[-1]
    talk = Talk(
        messages=messages,
        offer=offer(values.get("tools", []), choice, parallel=parallel),
        # an answer may be begun for the model
        ending="continued" if last["role"] == "assistant" and "tool_calls" not in last else "opened",
        variables=thinking(values["thinking"]["type"] != "disabled") if "thinking" in values else {},
        truncation=truncation,
    )
    return await prepare(engine, settings, talk)


def _question(engine: Engine, values: Values, prepared: Prepared, settings: ServerConfig) -> Question:
    wanted, lowers = values["max_tokens"], settings.allow_auto_truncate
    budget = values.get("thinking", {}).get("budget_tokens", 0)
    if budget >= wanted:
        path = "thinking.budget_tokens"
        raise invalid(f"{path} must be less than max_tokens ({wanted}), got {budget}", path)
    params = SamplingParams(
        max_tokens=fit(engine, prepared.prompt, wanted, None, "max_tokens", lowers=lowers),
        stop=tuple(values.get("stop_sequences", ())),
        seed=values.get("seed"),
        **drawing(prepared.shown(values), engine.sampling_defaults),
    )
    return prepared.question(params, values, settings.request_timeout_s)


def _end(finish: FinishReason | None, matched: str | int | None, calls: int) -> JsonObject:
    """Why an answer ended."""
    if finish == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if finish == "abort":
        # what Anthropic calls an answer that may go on if it is sent back
        return {"stop_reason": "pause_turn", "stop_sequence": None}
    if isinstance(matched, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": matched}
    return {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}


def _usage(usage: Usage) -> JsonObject:
    """Anthropic counts what was found in the cache apart."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


class _Form:
    """How one answer is written."""

    def __init__(self, model: str, prepared: Prepared, *, parallel: bool) -> None:
        self.reading = prepared.reading
        self.parallel = parallel
        self.prompt_tokens = len(prepared.prompt)
        self._model = model
        self.id = wire.new_id("msg").replace("-", "_")

    def message(self, content: Sequence[JsonObject]) -> JsonObject:
        head: JsonObject = {"id": self.id, "type": "message", "role": "assistant", "model": self._model}
        return {**head, "content": list(content), "stop_reason": None, "stop_sequence": None}


class _Events:
    """Events of one streamed answer."""

    def __init__(self, form: _Form) -> None:
        self._form = form
        self._hearing = Hearing(form.reading, parallel=form.parallel)
        self._blocks = Blocks(form.reading.tools)
        self._usage = Usage()
        self._end: JsonObject = {}

    def start(self) -> bytes:
        usage = _usage(Usage(prompt_tokens=self._form.prompt_tokens))
        return _all([{"type": "message_start", "message": {**self._form.message([]), "usage": usage}}])

    def delta(self, place: int, delta: Delta) -> bytes:
        if delta.usage is not None:
            self._usage = delta.usage
        events = [event for piece in self._hearing.hear(delta) for event in self._blocks.add(piece)]
        if delta.finish is not None:
            self._end = _end(delta.finish, delta.matched, self._hearing.calls)
        return _all(events)

    def end(self) -> bytes:
        last: JsonObject = {"type": "message_delta", "delta": self._end, "usage": _usage(self._usage)}
        return _all([*self._blocks.close(), last, {"type": "message_stop"}])

    def error(self, error: HttpError) -> bytes:
        said = {"type": kind_of(error), "message": error.message, "param": error.param, "code": error.code}
        return _all([{"type": "error", "error": said}])


def _all(events: Sequence[JsonObject]) -> bytes:
    return b"".join(wire.event(event, str(event["type"])) for event in events)
