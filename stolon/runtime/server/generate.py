"""POST /generate, in SGLang's shape: text, tokens or (our own) messages, one or a batch."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from aiohttp import web

from ..limits import LENGTHS, NATIVE_NUMBERS, NUMBERS
from . import wire
from .aborting import RID, Name, handle
from .answers import Question, ask_all, collect
from .body import read_object
from .constraints import Asked, asked_constraint
from .conversation import Ending, Messages, messages
from .errors import invalid
from .fields import Check, Field, Values, boolean, list_of, number, object_of, string, token_ids, wrong_type
from .fields_foreign import LOGGED, only
from .native import Form, NativeEvents, replies
from .prompts import encode_chat, encode_text, fit, token_list
from .request import Request
from .sampling import UNSUPPORTED, most_answers, native_params, native_sampling
from .service import Engine, Service
from .settings import ServerConfig
from .stream import send
from .truncation import Truncation, cut
from .watching import is_unlogged

_DEFAULT_TOKENS = 128  # SGLang's

Input = str | list[int] | Messages


@dataclass(frozen=True, slots=True)
class _Batch:
    """Several inputs, or one entry beside each of them. A batch of one is still a batch: its answer is a list."""

    entries: list[Any]


# fields that may differ from prompt to prompt
_OF_EACH = "sampling_params rid return_logprob logprob_start_len top_logprobs_num token_ids_logprob".split()


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
        "return_logprob": _one_or_list(boolean),
        "return_text_in_logprobs": boolean,
        "logprob_start_len": _one_or_list(number(NATIVE_NUMBERS["logprob_start_len"])),
        "top_logprobs_num": _one_or_list(number(NATIVE_NUMBERS["top_logprobs_num"])),
        "token_ids_logprob": _ids_of_each(token_ids(vocab_size, LENGTHS["token_ids_logprob"])),
        "cache_salt": string(LENGTHS["cache_salt"]),
        "priority": number(NUMBERS["priority"]),
        "rid": _one_or_list(RID),
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
        field, given = _given(values)
        inputs = given.entries if isinstance(given, _Batch) else [given]
        rows = _rows(values, len(inputs))
        most_answers(sum(_sampling(row).get("n", 1) for row in rows), "sampling_params.n")
        paths = [f"{field}[{place}]" for place in range(len(inputs))] if isinstance(given, _Batch) else [field]
        name, handles = _names(request, values, len(inputs))
        questions = [
            replace(await _question(engine, row, each, path, settings), rid=rid)
            for row, each, path, rid in zip(rows, inputs, paths, handles, strict=True)
        ]
        is_list = isinstance(given, _Batch) or questions[0].params.n > 1
        form = Form(
            ids=_ids(name, [question.params.n for question in questions], is_list=is_list),
            questions=questions,
            is_list=is_list,
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


def _rows(values: Values, count: int) -> list[Values]:
    """The fields of each of `count` prompts. Raises HttpError for a list of another length."""
    rows = [dict(values) for _ in range(count)]
    for name in _OF_EACH:
        found = values.get(name)
        if not isinstance(found, _Batch):
            continue
        if len(found.entries) != count:
            raise invalid(f"{name} has {len(found.entries)} entries for {count} prompts", name)
        for row, entry in zip(rows, found.entries, strict=True):
            row[name] = entry
    if not any(row.get("return_logprob", False) for row in rows):
        for name in ("top_logprobs_num", "token_ids_logprob", "logprob_start_len"):
            # what SGLang's clients send where they want nothing is no request for log-probabilities
            if any(row.get(name) not in (None, 0, -1, ()) for row in rows):
                raise invalid(f"{name} needs return_logprob: true", name)
    return list(rows)


def _names(request: Request, values: Values, count: int) -> tuple[str | _Batch, list[str]]:
    """The id of the answers, or of each of them, and by what the engine knows each of `count` prompts."""
    rid = values.get("rid")
    if isinstance(rid, _Batch):
        return rid, [handle(request, each) for each in rid.entries]
    name = Name.of(request, values, "gen")
    return name.id, [name.handle] * count


def _ids(rid: str | _Batch, counts: Sequence[int], *, is_list: bool) -> list[str]:
    """Of all answers. counts: how many there are to each prompt"""
    if not isinstance(rid, _Batch):
        return [f"{rid}-{place}" for place in range(sum(counts))] if is_list else [rid]
    ids: list[str] = []
    for each, count in zip(rid.entries, counts, strict=True):
        ids += [each] if count == 1 else [f"{each}-{index}" for index in range(count)]
    return ids


def _sampling(values: Values) -> Values:
    return values.get("sampling_params", {})


async def _question(engine: Engine, values: Values, given: Input, path: str, settings: ServerConfig) -> Question:
    how, cuts = _sampling(values), settings.allow_auto_truncate
    ending = "continued" if values.get("continue_final_message", False) else "opened"
    prompt = await _encode(engine, given, path, ending, Truncation.of_server(engine, settings))
    wanted = how.get("max_new_tokens")
    max_tokens = fit(engine, prompt, wanted, _DEFAULT_TOKENS, "sampling_params.max_new_tokens", lowers=cuts)
    return Question(
        prompt=prompt,
        params=native_params(how, engine.sampling_defaults, max_tokens=max_tokens, **_logprobs(values, len(prompt))),
        salt=values.get("cache_salt", ""),
        priority=values.get("priority", 0),
        timeout_s=settings.request_timeout_s,
        asked=_asked(how),
    )


def _asked(how: Values) -> Asked | None:
    """The form of the answers, and the text from which on it holds."""
    asked = asked_constraint(how)
    after = how.get("constrain_after", "")
    if after and asked is None:
        path = "sampling_params.constrain_after"
        raise invalid(f"{path} is for a regex, json_schema or ebnf beside it", path)
    return replace(asked, constraint=replace(asked.constraint, after=after)) if asked and after else asked


async def _encode(engine: Engine, given: Input, path: str, ending: Ending, truncation: Truncation | None) -> list[int]:
    if isinstance(given, str):
        return await encode_text(engine, given, path, truncation)
    if given and isinstance(given[0], dict):
        return cut(await encode_chat(engine, cast(Messages, given), ending=ending, truncation=truncation), truncation)
    return cut(cast("list[int]", given), truncation)


def _logprobs(values: Values, prompt_length: int) -> dict[str, Any]:
    """What log-probabilities are asked for, as fields of SamplingParams."""
    if not values.get("return_logprob", False):
        return {}
    top = values.get("top_logprobs_num", 0)
    start = values.get("logprob_start_len", -1)
    if start > prompt_length:
        raise invalid(
            f"logprob_start_len must be at most the prompt's length ({prompt_length}), got {start}", "logprob_start_len"
        )
    asked = {"logprobs": top, "logprob_token_ids": values.get("token_ids_logprob", ())}
    return asked if start in (-1, prompt_length) else {**asked, "prompt_logprobs": top, "logprob_start": start}


def _one_or_list(each: Field[Any]) -> Field[Any]:
    """One for all prompts, or a list of such, one for each."""
    several = list_of(each, LENGTHS["prompts"])

    def check(path: str, value: object) -> object:
        return _Batch(several(path, cast(object, value))) if isinstance(value, list) else each(path, value)

    return Field({"anyOf": [each.schema, several.schema]}, check)


def _ids_of_each(one: Field[tuple[int, ...]]) -> Field[Any]:
    """Token ids for all prompts, or a list of such, one for each, where null stands for none."""

    def entry(path: str, value: object) -> tuple[int, ...]:
        return () if value is None else one(path, value)

    several = list_of(Field({"anyOf": [one.schema, {"type": "null"}]}, entry), LENGTHS["prompts"])

    def check(path: str, value: object) -> object:
        first = cast("list[object]", value)[0] if isinstance(value, list) and value else 0
        if first is None or isinstance(first, list):
            return _Batch(several(path, cast(object, value)))
        return one(path, cast(object, value))

    return Field({"anyOf": [one.schema, several.schema]}, check)


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
