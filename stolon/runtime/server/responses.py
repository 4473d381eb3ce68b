"""POST /v1/responses, OpenAI's newer form of a chat. Nothing is stored: every request brings its whole conversation."""

from __future__ import annotations

import dataclasses
import functools
import time
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
from .fields import Check, Field, Values, boolean, list_of, number, object_of, one_of, string
from .fields_foreign import only
from .formats.choose import Reading
from .hearing import Hearing, listen
from .prompts import check_model, fit
from .request import Request
from .responses_input import INPUT, TEXT_FORMAT, TOOL_CHOICE, TOOLS
from .responses_items import Items
from .sampling import UNSUPPORTED, openai_params, openai_table
from .service import Engine, Service
from .settings import ServerConfig
from .stream import send
from .talk import Talk, prepare
from .template_variables import EFFORT, effort
from .tools import Tool, offer
from .truncation import Truncation

_NOT_STORED = "responses are not stored here; send the whole conversation as input"
_UNSUPPORTED = {
    **UNSUPPORTED,
    **dict.fromkeys(["previous_response_id", "conversation"], _NOT_STORED),
    "prompt": "prompt templates are not available",
    **dict.fromkeys(["max_tool_calls", "context_management", "moderation"], "not available"),
    "top_logprobs": "log-probabilities are given by /v1/chat/completions",
    "max_tokens": "name it max_output_tokens",
    "max_completion_tokens": "name it max_output_tokens",
    "messages": "name it input",
    "n": "a response has one answer",
    "response_format": "name it text.format",
}
_SAME = (
    "model temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty seed priority stop "
    "stop_token_ids stop_regex logit_bias min_tokens ignore_eos cache_salt stream user metadata service_tier "
    "safety_identifier prompt_cache_key prompt_cache_retention"
).split()


# a thought is sent whole, which is more than any summary of it
_SUMMARY = one_of("auto", "concise", "detailed")
_REASONING = object_of(
    {
        "effort": EFFORT,
        "summary": _SUMMARY,
        "generate_summary": _SUMMARY,
        "context": one_of("auto"),
        "mode": one_of("standard"),
    }
)
# none of these is ever made here: thoughts come in plain text, and there are no tools but functions
_NEVER_MADE = (
    "reasoning.encrypted_content file_search_call.results web_search_call.results web_search_call.action.sources "
    "computer_call_output.output.image_url code_interpreter_call.outputs message.input_image.image_url"
).split()


@functools.lru_cache(maxsize=4)
def request_body(vocab_size: int) -> Field[dict[str, Any]]:
    shared = openai_table(vocab_size)
    table: dict[str, Check] = {
        **{name: shared[name] for name in _SAME},
        "input": INPUT,
        "instructions": string(),
        "max_output_tokens": number(NUMBERS["max_completion_tokens"]),
        "tools": TOOLS,
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": boolean,
        "text": TEXT_FORMAT,
        "reasoning": _REASONING,
        "store": boolean,  # OpenAI's default is true; the answer says that nothing is
        "background": only(False, "a response is made while its client waits"),
        "truncation": one_of("disabled"),
        "include": list_of(one_of(*_NEVER_MADE), LENGTHS["parts"]),
        "stream_options": object_of({"include_obfuscation": boolean}),
    }
    return object_of(table, required=("model", "input"), unsupported=_UNSUPPORTED)


async def answer(service: Service, request: Request) -> web.StreamResponse:
    settings = service.settings
    with service.admitted() as engine:
        found = await read_object(request, settings)
        check_model(found, engine)
        values = request_body(engine.vocab_size)("", found)
        question, reading = await _question(engine, values, settings)
        form = _Form(found, values, engine.model_name, question.params, reading)
        question = dataclasses.replace(question, rid=handle(request, form.id))
        if values.get("stream", False):
            return await send(service, request, ask_all(engine, [question]), _Events(form))
        reply, (spoken,) = await listen(engine, question, reading, parallel=form.parallel)
        items = Items(reading.tools)
        for piece in spoken.pieces:
            items.add(piece)
        whole = form.ended(items, reply.answers[0].finish, reply.usage, spoken.thinking_tokens)
        return web.Response(body=wire.dumps(whole), content_type="application/json")


async def _question(engine: Engine, values: Values, settings: ServerConfig) -> tuple[Question, Reading]:
    parallel = values.get("parallel_tool_calls", True)
    system = [{"role": "system", "content": values["instructions"]}] if values.get("instructions") else []
    messages = [*system, *values["input"]]
    if not messages:
        raise invalid("input holds nothing but thoughts without text; give it a message", "input")
    talk = Talk(
        messages=messages,
        offer=offer(values.get("tools", []), values.get("tool_choice"), parallel=parallel),
        asked=values.get("text"),
        variables=effort(values.get("reasoning", {}).get("effort")),
        truncation=Truncation.of_server(engine, settings),
    )
    prepared = await prepare(engine, settings, talk)
    wanted = values.get("max_output_tokens")
    params = openai_params(
        prepared.shown(values),
        engine.sampling_defaults,
        max_tokens=fit(engine, prepared.prompt, wanted, None, "max_output_tokens", lowers=settings.allow_auto_truncate),
        logprobs=None,
    )
    return prepared.question(params, values, settings.request_timeout_s), prepared.reading


class _Form:
    """How one response is written; much of it repeats the request."""

    def __init__(self, found: JsonObject, values: Values, model: str, params: SamplingParams, reading: Reading) -> None:
        self.reading = reading
        self.parallel = values.get("parallel_tool_calls", True)
        self.id = wire.new_id("resp").replace("-", "_")
        text: Any = found.get("text") or {}
        self._head: JsonObject = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "instructions": values.get("instructions"),
            "max_output_tokens": values.get("max_output_tokens"),
            "metadata": values.get("metadata", {}),
            "parallel_tool_calls": self.parallel,
            "previous_response_id": None,
            "reasoning": {"effort": values.get("reasoning", {}).get("effort"), "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": params.temperature,
            "text": {"format": text.get("format") or {"type": "text"}},
            "tool_choice": found.get("tool_choice") or "auto",
            "tools": [_tool(tool) for tool in values.get("tools", [])],
            "top_p": params.top_p,
            "truncation": "disabled",
            "background": False,
            "user": values.get("user"),
            "error": None,
        }

    def running(self) -> JsonObject:
        return {**self._head, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}

    def ended(self, items: Items, finish: FinishReason | None, usage: Usage, thinking: int) -> JsonObject:
        """The response as a whole; closes the last of `items` where that has not been done."""
        is_cut = finish != "stop"  # or it was ended from outside
        items.close("incomplete" if is_cut else "completed")
        return {
            **self._head,
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if finish == "length" else None,
            "output": items.output,
            "usage": _usage(usage, thinking),
        }


def _usage(usage: Usage, thinking: int) -> JsonObject:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": thinking},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _tool(tool: Tool) -> JsonObject:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


class _Events:
    """Typed events of one streamed response."""

    def __init__(self, form: _Form) -> None:
        self._form = form
        self._hearing = Hearing(form.reading, parallel=form.parallel)
        self._items = Items(form.reading.tools)
        self._finish: FinishReason | None = None
        self._usage = Usage()
        self._sent = 0

    def start(self) -> bytes:
        running = self._form.running()
        return self._all([{"type": f"response.{word}", "response": running} for word in ("created", "in_progress")])

    def delta(self, place: int, delta: Delta) -> bytes:
        if delta.usage is not None:
            self._usage = delta.usage
        self._finish = delta.finish
        return self._all([event for piece in self._hearing.hear(delta) for event in self._items.add(piece)])

    def end(self) -> bytes:
        is_cut = self._finish != "stop"
        events = self._items.close("incomplete" if is_cut else "completed")
        whole = self._form.ended(self._items, self._finish, self._usage, self._hearing.thinking_tokens)
        return self._all([*events, {"type": f"response.{whole['status']}", "response": whole}])

    def error(self, error: HttpError) -> bytes:
        said: JsonObject = {"message": error.message, "param": error.param, "code": error.code}
        # OpenAI's client raises only for what is called `error`
        return self._all([{"type": "error", **said, "error": {**said, "type": kind_of(error)}}])

    def _all(self, events: Sequence[JsonObject]) -> bytes:
        parts: list[bytes] = []
        for event in events:
            parts.append(wire.event({**event, "sequence_number": self._sent}, str(event["type"])))
            self._sent += 1
        return b"".join(parts)
