"""POST /v1/embeddings"""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from ..limits import LENGTHS, NUMBERS, OFF_LOOP_CHARACTERS
from . import wire
from .body import JsonObject, read_object
from .errors import HttpError, invalid
from .fields import Field, Values, ignored, number, object_of, one_of, string
from .prompts import check_model, prompt_list
from .request import Request
from .sampling import UNSUPPORTED
from .service import Embedder, Service
from .settings import ServerConfig
from .truncation import TRUNCATE

if TYPE_CHECKING:
    from ..packed import Tokens

T = TypeVar("T")

EMBEDDING_UNSUPPORTED = {
    "prompt_embeds": UNSUPPORTED["prompt_embeds"],
    "messages": "send the text itself as input",
    "add_special_tokens": "texts are framed as the tokenizer does it; send token ids for anything else",
}


@functools.lru_cache(maxsize=4)
def request_body(vocab_size: int) -> Field[dict[str, Any]]:
    return object_of(
        {
            "model": string(LENGTHS["name"]),
            "input": prompt_list(vocab_size),
            "encoding_format": one_of("float", "base64"),
            "dimensions": number(NUMBERS["dimensions"]),
            "truncate_prompt_tokens": TRUNCATE,
            "user": ignored,
        },
        required=("model", "input"),
        unsupported=EMBEDDING_UNSUPPORTED,
    )


async def answer(service: Service, request: Request) -> web.StreamResponse:
    settings = service.settings
    with service.embedding() as engine:
        found = await read_object(request, settings)
        check_model(found, engine)
        values = request_body(engine.vocab_size)("", found)
        if engine.is_classifier:
            message = f"the model {engine.model_name} is a classifier; use /v1/score or /v1/rerank"
            raise HttpError(400, "unsupported_route", message)
        dimensions: int | None = values.get("dimensions")
        if dimensions is not None and dimensions > engine.width:
            message = f"dimensions must be at most {engine.width}, the model's own, got {dimensions}"
            raise invalid(message, "dimensions")
        texts = await _framed(engine, values["input"], longest(engine, values, settings))
        vectors = await engine.embed(texts, dimensions=dimensions, timeout_s=settings.request_timeout_s)
        if values.get("encoding_format") == "base64":
            written: Sequence[object] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
        else:
            written = vectors.tolist()
        return web.Response(body=_body(engine, written, texts), content_type="application/json")


def longest(engine: Embedder, values: Values, settings: ServerConfig) -> int | None:
    """How many tokens of a text are kept; None: all, and too many are an error."""
    wanted: int | None = values.get("truncate_prompt_tokens", -1 if settings.allow_auto_truncate else None)
    return engine.context_length if wanted == -1 else wanted


async def _framed(engine: Embedder, inputs: Sequence[str | list[int]], most: int | None) -> list[Tokens]:
    def frame() -> list[Tokens]:
        return [
            engine.frame(each, longest=most) if isinstance(each, str) else engine.as_is(each[:most]) for each in inputs
        ]

    return await off_loop(sum(len(each) for each in inputs), frame)


async def off_loop(characters: int, work: Callable[[], T]) -> T:
    """What `work` gives; long texts are tokenized in a thread, so that others are served meanwhile."""
    return await asyncio.to_thread(work) if characters > OFF_LOOP_CHARACTERS else work()


def usage(texts: Sequence[Tokens]) -> JsonObject:
    counted = sum(len(text.ids) for text in texts)
    return {"prompt_tokens": counted, "total_tokens": counted}


def _body(engine: Embedder, written: Sequence[object], texts: Sequence[Tokens]) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(written)]
    return wire.dumps({"object": "list", "data": data, "model": engine.model_name, "usage": usage(texts)})
