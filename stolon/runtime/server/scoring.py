"""POST /score: how likely each of several options is as the continuation of one prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web

from ..limits import LENGTHS, OFF_LOOP_CHARACTERS
from ..score import first_scored
from . import wire
from .body import JsonObject, read_object
from .conversation import Messages, characters, messages
from .errors import invalid
from .fields import Values, boolean, finite, list_of, object_of, string
from .prompts import chat_of, fit
from .request import Request
from .sampling import UNSUPPORTED
from .service import Engine, Service

REQUEST_BODY = object_of(
    {
        "text": string(),
        "messages": messages,
        "continue_final_message": boolean,
        "options": list_of(string(LENGTHS["option_characters"]), LENGTHS["options"]),
        "unconditional": boolean,
        "cache_salt": string(LENGTHS["cache_salt"]),
    },
    required=("options",),
    unsupported=UNSUPPORTED,
)


async def answer(service: Service, request: Request) -> web.StreamResponse:
    settings = service.settings
    with service.admitted() as engine:
        found = await read_object(request, settings)
        values = REQUEST_BODY("", found)
        prompt, continued = await _encode(engine, values)
        for tokens in continued:
            fit(engine, tokens, 0, None, "options")
        salt, timeout_s = values.get("cache_salt", ""), settings.request_timeout_s
        start = first_scored(prompt, continued)
        given = await engine.score(continued, start, salt=salt, timeout_s=timeout_s)
        alone: Sequence[Sequence[float] | None] = [None] * len(continued)
        if values.get("unconditional", False):
            alone = await _alone(engine, [tokens[start:] for tokens in continued], salt, timeout_s)
        scores: list[JsonObject] = [
            {
                "tokens": tokens[start:],
                "logprobs": [finite(value) for value in logprobs],
                "unconditional": None if without is None else [finite(value) for value in without],
            }
            for tokens, logprobs, without in zip(continued, given, alone, strict=True)
        ]
        counted = sum(len(tokens) for tokens in continued)
        usage = {"prompt_tokens": counted, "completion_tokens": 0, "total_tokens": counted}
        return web.Response(body=wire.dumps({"scores": scores, "usage": usage}), content_type="application/json")


async def _encode(engine: Engine, values: Values) -> tuple[list[int], list[list[int]]]:
    """The prompt, and the prompt with each option."""
    options: list[str] = values["options"]
    text: str | None = values.get("text")
    conversation: Messages | None = values.get("messages")
    if text is not None and conversation is None:
        if "continue_final_message" in values:
            raise invalid("continue_final_message is only for messages", "continue_final_message")
        encode, length = _text_encoder(engine, text), len(text)
    elif conversation is not None and text is None:
        encode = _chat_encoder(engine, conversation, values.get("continue_final_message", False))
        length = characters(conversation)
    else:
        raise invalid("give exactly one of text and messages", "text")
    texts = ["", *options]
    if length * len(texts) + sum(map(len, options)) > OFF_LOOP_CHARACTERS:
        bare, *continued = await asyncio.to_thread(lambda: [encode(text) for text in texts])
    else:
        bare, *continued = [encode(text) for text in texts]
    return bare, continued


def _text_encoder(engine: Engine, text: str) -> Callable[[str], list[int]]:
    return lambda option: engine.tokenizer.encode(text + option)


def _chat_encoder(engine: Engine, conversation: Messages, continues: bool) -> Callable[[str], list[int]]:
    """Options continue the last message, or begin the answer."""
    chat = chat_of(engine, conversation, continue_final=continues)
    *before, last = conversation if continues else [*conversation, {"role": "assistant", "content": ""}]

    def encode(option: str) -> list[int]:
        if not option and not continues:
            return chat.encode(conversation)
        return chat.encode([*before, {**last, "content": last["content"] + option}], continue_final=True)

    return encode


async def _alone(
    engine: Engine, lists: list[list[int]], salt: str, timeout_s: float
) -> Sequence[Sequence[float] | None]:
    """The same tokens without the prompt, after the model's start token; where it has none the first counts 0."""
    bos = engine.tokenizer.bos_token_id
    if bos is not None:
        return await engine.score([[bos, *tokens] for tokens in lists], 1, salt=salt, timeout_s=timeout_s)
    filled = [tokens for tokens in lists if tokens]
    scores = iter(await engine.score(filled, 1, salt=salt, timeout_s=timeout_s))
    return [(0.0, *next(scores)) if tokens else () for tokens in lists]
