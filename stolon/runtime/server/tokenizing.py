"""POST /tokenize and /detokenize: the server's own tokenizer."""

from __future__ import annotations

import functools
from typing import Any

from aiohttp import web

from ..limits import LENGTHS
from . import wire
from .body import JsonObject, read_object
from .conversation import messages
from .embeddings import off_loop
from .errors import invalid
from .fields import Field, boolean, list_of, object_of, string, token_id
from .prompts import check_model
from .request import Request
from .sampling import UNSUPPORTED
from .service import Service
from .talk import Talk, continues, prepare
from .tools import TOOLS, offer
from .watching import noted

TOKENIZE_BODY = object_of(
    {
        "model": string(LENGTHS["name"]),
        "prompt": string(LENGTHS["tokenized"]),
        "messages": messages,
        "tools": TOOLS,
        "add_special_tokens": boolean,
        "add_generation_prompt": boolean,
        "continue_final_message": boolean,
        "return_token_strs": boolean,
    },
    unsupported=UNSUPPORTED,
)


@functools.lru_cache(maxsize=4)
def detokenize_body(vocab_size: int) -> Field[dict[str, Any]]:
    return object_of(
        {
            "model": string(LENGTHS["name"]),
            "tokens": list_of(token_id(vocab_size), LENGTHS["tokens"]),
            "skip_special_tokens": boolean,
        },
        required=("tokens",),
    )


async def tokenize(service: Service, request: Request) -> web.StreamResponse:
    settings = service.settings
    with service.admitted_any() as served:
        found = await read_object(request, settings)
        if "model" in found:
            check_model(found, served)
        values = TOKENIZE_BODY("", found)
        with noted(settings.request_log, "tokenize", served.tokenizer) as texts:
            tokens = await _tokens(service, values)
            texts.append(tokens)
        whole: JsonObject = {"tokens": tokens, "count": len(tokens), "max_model_len": service.longest}
        if values.get("return_token_strs", False):
            whole["token_strs"] = [served.tokenizer.token_text(token) for token in tokens]
        return web.Response(body=wire.dumps(whole), content_type="application/json")


async def _tokens(service: Service, values: dict[str, Any]) -> list[int]:
    if ("prompt" in values) == ("messages" in values):
        raise invalid("give exactly one of prompt and messages", "prompt")
    if "messages" in values:
        tools = offer(values.get("tools", []), None, parallel=True)
        talk = Talk(messages=values["messages"], offer=tools, continue_final=continues(values))
        return (await prepare(service.engine, service.settings, talk)).prompt
    if "tools" in values:
        raise invalid("tools is only for messages", "tools")
    text: str = values["prompt"]
    bos = values.get("add_special_tokens", True)
    encode = service.served.tokenizer.encode
    return await off_loop(len(text), lambda: encode(text, bos=bos))


async def detokenize(service: Service, request: Request) -> web.StreamResponse:
    """The text under SGLang's name and under vLLM's."""
    settings = service.settings
    with service.admitted_any() as served:
        found = await read_object(request, settings)
        if "model" in found:
            check_model(found, served)
        values = detokenize_body(served.vocab_size)("", found)
        served.tokenizer.require("text of tokens")
        tokens: list[int] = values["tokens"]
        skip = values.get("skip_special_tokens", True)
        with noted(settings.request_log, "detokenize", served.tokenizer) as texts:
            texts.append(tokens)
            text = await off_loop(len(tokens), lambda: served.tokenizer.decode(tokens, skip_special_tokens=skip))
        return web.Response(body=wire.dumps({"text": text, "prompt": text}), content_type="application/json")
