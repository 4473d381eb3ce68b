"""POST /tokenize and /detokenize: the server's own tokenizer."""

from __future__ import annotations

import functools
from typing import Any, cast

from aiohttp import web

from ..limits import LENGTHS
from . import wire
from .body import JsonObject, read_object
from .conversation import messages
from .embeddings import off_loop
from .errors import invalid
from .fields import Field, boolean, list_of, measure, object_of, string, token_id, wrong_type
from .prompts import check_model
from .request import Request
from .sampling import UNSUPPORTED
from .service import Service
from .talk import Talk, asked_ending, prepare
from .tools import TOOLS, offer
from .watching import noted


def _prompt(path: str, value: object) -> str | list[str]:
    """A text, or several that together are no longer than one may be."""
    if isinstance(value, str):
        return _TEXT(path, value)
    if not isinstance(value, list):
        raise wrong_type(path, "a string or a list of strings", value)
    found = _SEVERAL(path, cast(object, value))
    measure(path, sum(map(len, found)), LENGTHS["tokenized"])
    return found


_TEXT = string(LENGTHS["tokenized"])
_SEVERAL = list_of(_TEXT, LENGTHS["prompts"])

TOKENIZE_BODY = object_of(
    {
        "model": string(LENGTHS["name"]),
        "prompt": Field({"anyOf": [_TEXT.schema, _SEVERAL.schema]}, _prompt),
        "messages": messages,
        "tools": TOOLS,
        "add_special_tokens": boolean,
        "add_generation_prompt": boolean,
        "continue_final_message": boolean,
        "return_token_strs": boolean,
    },
    unsupported=UNSUPPORTED,
)


def _token_lists(vocab_size: int) -> Field[list[int] | list[list[int]]]:
    """Token ids, or several lists of them that together are no longer than one may be."""
    one = list_of(token_id(vocab_size), LENGTHS["tokens"])
    several = list_of(one, LENGTHS["prompts"])

    def check(path: str, value: object) -> list[int] | list[list[int]]:
        first = cast("list[object]", value)[0] if isinstance(value, list) and value else 0
        if not isinstance(first, list):
            return one(path, cast(object, value))
        found = several(path, cast(object, value))
        measure(path, sum(map(len, found)), LENGTHS["tokens"])
        return found

    return Field({"anyOf": [one.schema, several.schema]}, check)


@functools.lru_cache(maxsize=4)
def detokenize_body(vocab_size: int) -> Field[dict[str, Any]]:
    return object_of(
        {
            "model": string(LENGTHS["name"]),
            "tokens": _token_lists(vocab_size),
            "skip_special_tokens": boolean,
        },
        required=("tokens",),
    )


async def tokenize(service: Service, request: Request) -> web.StreamResponse:
    """For a list of texts a list of each thing, as SGLang answers."""
    settings = service.settings
    with service.admitted_any() as served:
        found = await read_object(request, settings)
        if "model" in found:
            check_model(found, served)
        values = TOKENIZE_BODY("", found)
        with noted(settings.request_log, "tokenize", served.tokenizer) as texts:
            read = await _tokens(service, values)
            texts.extend(read)
        columns: dict[str, list[Any]] = {"tokens": read, "count": [len(tokens) for tokens in read]}
        if values.get("return_token_strs", False):
            columns["token_strs"] = [[served.tokenizer.token_text(token) for token in tokens] for tokens in read]
        is_list = isinstance(values.get("prompt"), list)
        whole: JsonObject = {name: column if is_list else column[0] for name, column in columns.items()}
        whole["max_model_len"] = service.longest
        return web.Response(body=wire.dumps(whole), content_type="application/json")


async def _tokens(service: Service, values: dict[str, Any]) -> list[list[int]]:
    """Of each text, or of the conversation."""
    if ("prompt" in values) == ("messages" in values):
        raise invalid("give exactly one of prompt and messages", "prompt")
    if "messages" in values:
        tools = offer(values.get("tools", []), None, parallel=True)
        talk = Talk(messages=values["messages"], offer=tools, ending=asked_ending(values))
        return [(await prepare(service.engine, service.settings, talk)).prompt]
    if "tools" in values:
        raise invalid("tools is only for messages", "tools")
    given: str | list[str] = values["prompt"]
    texts = [given] if isinstance(given, str) else given
    bos = values.get("add_special_tokens", True)
    encode = service.served.tokenizer.encode
    return await off_loop(sum(map(len, texts)), lambda: [encode(text, bos=bos) for text in texts])


async def detokenize(service: Service, request: Request) -> web.StreamResponse:
    """The text under SGLang's name and under vLLM's; for several lists of tokens, a list."""
    settings = service.settings
    with service.admitted_any() as served:
        found = await read_object(request, settings)
        if "model" in found:
            check_model(found, served)
        values = detokenize_body(served.vocab_size)("", found)
        served.tokenizer.require("text of tokens")
        given: list[Any] = values["tokens"]
        is_list = bool(given) and isinstance(given[0], list)
        read: list[list[int]] = given if is_list else [given]
        skip = values.get("skip_special_tokens", True)
        decode = served.tokenizer.decode
        with noted(settings.request_log, "detokenize", served.tokenizer) as texts:
            texts.extend(read)
            size = sum(map(len, read))
            said = await off_loop(size, lambda: [decode(tokens, skip_special_tokens=skip) for tokens in read])
        text = said if is_list else said[0]
        return web.Response(body=wire.dumps({"text": text, "prompt": text}), content_type="application/json")
