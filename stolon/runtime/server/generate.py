"""POST /generate, in SGLang's shape: text, tokens or (our own) messages, one or a batch."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from typing import Any, cast

from aiohttp import web

from ..limits import LENGTHS, NATIVE_NUMBERS, NUMBERS
from . import wire
from .answers import Question, ask_all, collect
from .body import read_object
from .constraints import Asked, asked_constraint
from .conversation import Messages, messages
from .errors import invalid
from .fields import Check, Field, Values, boolean, list_of, number, object_of, string, token_ids, wrong_type
from .fields_foreign import LOGGED, only
from .native import Form, NativeEvents, replies
from .prompts import cut, encode_chat, encode_text, fit, token_list
from .request import Request
from .sampling import UNSUPPORTED, most_answers, native_params, native_sampling
from .service import Engine, Service
from .settings import ServerConfig
from .stream import send
from .watching import is_unlogged

_DEFAULT_TOKENS = 128  # SGLang's

Input = str | list[int] | Messages


@dataclass(frozen=True, slots=True)
class _Batch:
    """Several inputs. A batch of one is still a batch: its answer is a list."""

    inputs: list[Any]


@functools.lru_cache(maxsize=4)
def request_body(vocab_size: int) -> Field[dict[str, Any]]:
    table: dict[str, Check] = {
        "text": _texts(),
        "input_ids": _nested(token_list(vocab_size), "token ids"),
        "messages": _nested(messages, "messages"),
        "continue_final_message": boolean,
        "sampling_params": _one_or_list(native_sampling(vocab_size)),
        "stream": boolean,
        "incremental": boolean,
        "return_logprob": boolean,
        "return_text_in_logprobs": boolean,
        "logprob_start_len": number(NATIVE_NUMBERS["logprob_start_len"]),
        "top_logprobs_num": number(NATIVE_NUMBERS["top_logprobs_num"]),
        "token_ids_logprob": token_ids(vocab_size, LENGTHS["token_ids_logprob"]),
        "cache_salt": string(LENGTHS["cache_salt"]),
        "priority": number(NUMBERS["priority"]),
        "rid": string(LENGTHS["request_id"]),
        "return_prompt_token_ids": boolean,
        "background": only(False, "an answer is made while its client waits"),
        **LOGGED,
    }
    return object_of(table, unsupported=UNSUPPORTED)


async def answer(service: Service, request: Request) -> web.StreamResponse:
    settings = service.settings
    with service.admitted() as engine:
        began_s = time.monotonic()
        found = await read_object(request, settings)
        values = request_body(engine.vocab_size)("", found)
        is_unlogged.set(values.get("no_logs", False))
        name, given = _given(values)
        questions = await _questions(engine, values, name, given, settings)
        form = Form(
            id=values.get("rid") or wire.new_id("gen"),
            questions=questions,
            is_list=isinstance(given, _Batch) or questions[0].params.n > 1,
            with_texts=values.get("return_text_in_logprobs", False),
            with_prompts=values.get("return_prompt_token_ids", False),
            began_s=began_s,
            tokenizer=engine.tokenizer,
        )
        if values.get("stream", False):
            events = NativeEvents(form, incremental=values.get("incremental", False))
            return await send(service, request, ask_all(engine, questions), events)
        answers = replies(form, await collect(engine, questions))
        return web.Response(body=wire.dumps(answers if form.is_list else answers[0]), content_type="application/json")


def _given(values: Values) -> tuple[str, Input | _Batch]:
    """The one field that brings what is to be continued, and its value."""
    names = [name for name in ("text", "input_ids", "messages") if name in values]
    if len(names) != 1:
        got = " and ".join(names) or "none"
        raise invalid(f"give exactly one of text, input_ids and messages, got {got}", names[-1] if names else "text")
    if "continue_final_message" in values and names != ["messages"]:
        raise invalid("continue_final_message is only for messages", "continue_final_message")
    return names[0], values[names[0]]


async def _questions(
    engine: Engine, values: Values, name: str, given: Input | _Batch, settings: ServerConfig
) -> list[Question]:
    inputs = given.inputs if isinstance(given, _Batch) else [given]
    sampling = _for_each(values.get("sampling_params", {}), len(inputs))
    most_answers(sum(each.get("n", 1) for each in sampling), "sampling_params.n")
    cuts = settings.allow_auto_truncate
    questions: list[Question] = []
    for place, (each, how) in enumerate(zip(inputs, sampling, strict=True)):
        path = f"{name}[{place}]" if isinstance(given, _Batch) else name
        continues = values.get("continue_final_message", False)
        prompt = cut(engine, await _encode(engine, each, path, continues, cuts=cuts), settings)
        wanted = how.get("max_new_tokens")
        max_tokens = fit(engine, prompt, wanted, _DEFAULT_TOKENS, "sampling_params.max_new_tokens", lowers=cuts)
        questions.append(
            Question(
                prompt=prompt,
                params=native_params(
                    how, engine.sampling_defaults, max_tokens=max_tokens, **_logprobs(values, len(prompt))
                ),
                salt=values.get("cache_salt", ""),
                priority=values.get("priority", 0),
                timeout_s=settings.request_timeout_s,
                asked=_asked(how),
            )
        )
    return questions


def _asked(how: Values) -> Asked | None:
    """The form of the answers, and the text from which on it holds."""
    asked = asked_constraint(how)
    after = how.get("constrain_after", "")
    if after and asked is None:
        path = "sampling_params.constrain_after"
        raise invalid(f"{path} is for a regex, json_schema or ebnf beside it", path)
    return replace(asked, constraint=replace(asked.constraint, after=after)) if asked and after else asked


async def _encode(engine: Engine, given: Input, path: str, continue_final: bool, *, cuts: bool) -> list[int]:
    if isinstance(given, str):
        return await encode_text(engine, given, path, cuts=cuts)
    if given and isinstance(given[0], dict):
        return await encode_chat(engine, cast(Messages, given), continue_final=continue_final, cuts=cuts)
    return cast("list[int]", given)


def _logprobs(values: Values, prompt_length: int) -> dict[str, Any]:
    """What log-probabilities are asked for, as fields of SamplingParams."""
    if not values.get("return_logprob", False):
        for name in ("top_logprobs_num", "token_ids_logprob", "logprob_start_len"):
            if values.get(name):
                raise invalid(f"{name} needs return_logprob: true", name)
        return {}
    top = values.get("top_logprobs_num", 0)
    start = values.get("logprob_start_len", -1)
    if start > prompt_length:
        raise invalid(
            f"logprob_start_len must be at most the prompt's length ({prompt_length}), got {start}", "logprob_start_len"
        )
    asked = {"logprobs": top, "logprob_token_ids": values.get("token_ids_logprob", ())}
    return asked if start in (-1, prompt_length) else {**asked, "prompt_logprobs": top, "logprob_start": start}


def _for_each(sampling: dict[str, Any] | list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    if isinstance(sampling, dict):
        return [sampling] * count
    if len(sampling) != count:
        message = f"sampling_params has {len(sampling)} entries for {count} prompts"
        raise invalid(message, "sampling_params")
    return sampling


def _one_or_list(each: Field[Any]) -> Field[Any]:
    """One, or a list of such, which becomes a batch."""
    several = list_of(each, LENGTHS["prompts"])

    def check(path: str, value: object) -> object:
        return several(path, cast(object, value)) if isinstance(value, list) else each(path, value)

    return Field({"anyOf": [each.schema, several.schema]}, check)


def _texts() -> Field[str | _Batch]:
    one, several = string(), list_of(string(), LENGTHS["prompts"])

    def check(path: str, value: object) -> str | _Batch:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise wrong_type(path, "a string or a list of such", value)
        return _Batch(several(path, cast(object, value)))

    return Field({"anyOf": [one.schema, several.schema]}, check)


def _nested(one: Field[Any], what: str) -> Field[Any]:
    """A list, or a list of such lists, which is a batch."""
    several = list_of(one, LENGTHS["prompts"])

    def check(path: str, value: object) -> object:
        if not isinstance(value, list):
            raise wrong_type(path, f"a list of {what}", value)
        if not value:
            raise invalid(f"{path} is empty", path)
        found = cast("list[object]", value)
        return _Batch(several(path, found)) if isinstance(found[0], list) else one(path, found)

    return Field({"anyOf": [one.schema, several.schema]}, check)
