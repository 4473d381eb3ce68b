"""POST /v1/chat/completions"""

from __future__ import annotations

import functools
import time
from typing import Any

from aiohttp import web

from ..limits import LENGTHS, NUMBERS
from . import wire
from .aborting import Name
from .answers import Answer, Question, ask_all
from .body import JsonObject, read_object
from .chat_events import ChatEvents, Form
from .constraints import asked_constraint
from .conversation import messages
from .errors import invalid
from .fields import Check, Field, Values, boolean, list_of, number, object_of, one_of
from .fields_foreign import only
from .hearing import Spoken, listen
from .prompts import check_model, fit
from .request import Request
from .sampling import UNSUPPORTED, StreamOptions, openai_params, openai_table
from .service import Engine, Service
from .settings import ServerConfig
from .stream import send
from .talk import Talk, asked_ending, prepare
from .template_variables import EFFORT, effort, template_variables
from .tools import FUNCTION_CALL, FUNCTIONS, TOOL_CHOICE, TOOLS, Offer, offer
from .truncation import TRUNCATION, Truncation
from .watching import is_unlogged


@functools.lru_cache(maxsize=4)
def request_body(vocab_size: int) -> Field[dict[str, Any]]:
    table: dict[str, Check] = {
        **openai_table(vocab_size),
        "messages": messages,
        "max_completion_tokens": number(NUMBERS["max_completion_tokens"]),
        "logprobs": boolean,
        "top_logprobs": number(NUMBERS["top_logprobs"]),
        "tools": TOOLS,
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": boolean,
        "functions": FUNCTIONS,
        "function_call": FUNCTION_CALL,
        "modalities": list_of(one_of("text"), LENGTHS["parts"]),
        "continue_final_message": boolean,
        "add_generation_prompt": boolean,
        "separate_reasoning": boolean,
        "include_reasoning": boolean,
        "add_special_tokens": only(False, "the chat template writes those that there are"),
        **TRUNCATION,
        "stream_reasoning": boolean,
        "reasoning_effort": EFFORT,
        "chat_template_kwargs": Field({"type": "object"}, template_variables),
    }
    return object_of(table, required=("model", "messages"), unsupported=UNSUPPORTED)


async def answer(service: Service, request: Request) -> web.StreamResponse:
    settings = service.settings
    with service.admitted() as engine:
        found = await read_object(request, settings)
        check_model(found, engine)
        values = request_body(engine.vocab_size)("", found)
        is_unlogged.set(values.get("no_logs", False))
        name = Name.of(request, values, "chatcmpl")
        question, form = await _question(engine, values, settings, name)
        if values.get("stream", False):
            events, interval = ChatEvents(form, question), values.get("stream_interval", 1)
            return await send(service, request, ask_all(engine, [question]), events, interval)
        reply, spoken = await listen(engine, question, form.reading, parallel=form.parallel)
        choices = [
            _choice(form, index, each, done)
            for index, (each, done) in enumerate(zip(spoken, reply.answers, strict=True))
        ]
        thinking = sum(each.thinking_tokens for each in spoken) if form.reading.thinks else None
        whole = {**form.head("chat.completion"), "choices": choices, "usage": wire.usage([reply.usage], thinking)}
        whole |= form.of_prompt(reply.answers[0].prompt_logprobs)
        return web.Response(body=wire.dumps(whole), content_type="application/json")


async def _question(engine: Engine, values: Values, settings: ServerConfig, name: Name) -> tuple[Question, Form]:
    limit, wanted = _max_tokens(values)
    truncation = Truncation.of_request(engine, values, settings, 1 if wanted is None else wanted)
    prepared = await prepare(engine, settings, _talk(values, settings, truncation))
    params = openai_params(
        prepared.shown(values),
        engine.sampling_defaults,
        max_tokens=fit(engine, prepared.prompt, wanted, None, limit, lowers=settings.allow_auto_truncate),
        logprobs=_wanted_logprobs(values),
        prompt_logprobs=values.get("prompt_logprobs"),
    )
    question = prepared.question(params, values, settings.request_timeout_s, rid=name.handle)
    form = Form(
        id=name.id,
        created=int(time.time()),
        model=engine.model_name,
        reading=prepared.reading,
        parallel=_parallel(values),
        first_form=_has_functions(values),
        stream_reasoning=values.get("stream_reasoning", True),
        options=values.get("stream_options", StreamOptions()),
        top_logprobs=params.logprobs,
        prompt_logprobs=params.prompt_logprobs,
        prompt_ids=question.prompt if values.get("return_token_ids", False) else None,
        shows_thoughts=values.get("include_reasoning", True),
        naming=wire.Naming(engine.tokenizer, values.get("return_tokens_as_token_ids", False)),
    )
    return question, form


def _talk(values: Values, settings: ServerConfig, truncation: Truncation | None) -> Talk:
    if "chat_template_kwargs" in values and not settings.allow_chat_template_kwargs:
        message = "chat_template_kwargs: this server was started without --allow-chat-template-kwargs"
        raise invalid(message, "chat_template_kwargs", "unsupported_parameter")
    if not (values.get("include_reasoning", True) or values.get("separate_reasoning", True)):
        message = "include_reasoning: false leaves a thought out, separate_reasoning: false leaves it in; give one"
        raise invalid(message, "include_reasoning")
    return Talk(
        messages=values["messages"],
        offer=_offer(values),
        asked=asked_constraint(values),
        ending=asked_ending(values),
        separate_reasoning=values.get("separate_reasoning", True),
        variables={**effort(values.get("reasoning_effort")), **values.get("chat_template_kwargs", {})},
        truncation=truncation,
    )


def _has_functions(values: Values) -> bool:
    """Whether tools are asked for in OpenAI's first form. Raises HttpError if they are in both."""
    first = next((name for name in ("functions", "function_call") if name in values), None)
    if first is None:
        return False
    for second in ("tools", "tool_choice", "parallel_tool_calls"):
        if second in values:
            raise invalid(f"{first} is the first form of {second}; give one", first)
    return True


def _parallel(values: Values) -> bool:
    return not _has_functions(values) and values.get("parallel_tool_calls", True)


def _offer(values: Values) -> Offer | None:
    tools, choice = ("functions", "function_call") if _has_functions(values) else ("tools", "tool_choice")
    return offer(values.get(tools, []), values.get(choice), parallel=_parallel(values))


def _max_tokens(values: Values) -> tuple[str, int | None]:
    """The limit and the field that gave it. Both names are the same limit; `max_tokens` is the older."""
    old, new = values.get("max_tokens", None), values.get("max_completion_tokens", None)
    if old is not None and new is not None and old != new:
        raise invalid(f"max_tokens ({old}) and max_completion_tokens ({new}) differ; give one", "max_tokens")
    return ("max_tokens", old) if new is None else ("max_completion_tokens", new)


def _wanted_logprobs(values: Values) -> int | None:
    wanted = values.get("logprobs", False)
    if "top_logprobs" in values and not wanted:
        raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
    return values.get("top_logprobs", 0) if wanted else None


def _choice(form: Form, index: int, spoken: Spoken, done: Answer) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": spoken.text, "refusal": None}
    if spoken.thought and form.shows_thoughts:
        message["reasoning_content"] = spoken.thought
    if spoken.calls:
        message["content"] = spoken.text or None
        called: list[JsonObject] = [{"name": call.name, "arguments": call.arguments} for call in spoken.calls]
        if form.first_form:
            (message["function_call"],) = called
        else:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": function}
                for call, function in zip(spoken.calls, called, strict=True)
            ]
    ids: JsonObject = {} if form.prompt_ids is None else {"token_ids": done.tokens}
    return {
        **ids,
        "index": index,
        "message": message,
        "logprobs": form.logprobs(done.logprobs),
        "finish_reason": form.finish_reason(done.finish, len(spoken.calls)),
        "matched_stop": done.matched,
    }
