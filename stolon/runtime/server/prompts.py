"""What a request asks to be continued: text, tokens or a conversation, as token ids."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ...lang.errors import ChatTemplateError
from .. import limits
from ..limits import LENGTHS
from . import wire
from .body import JsonObject
from .conversation import Ending, Messages, characters, shortened, texts
from .errors import HttpError, invalid
from .fields import (
    Field,
    describe,
    entries,
    ids,
    list_of,
    missing,
    string,
    token_id,
    wrong_type,
)
from .service import ChatTemplate, Engine, Served
from .truncation import Truncation, cut


def chat_of(engine: Engine, conversation: Messages, *, continue_final: bool) -> ChatTemplate:
    """The template. Raises ChatTemplateError if there is none, HttpError if `conversation` has nothing to continue."""
    chat = engine.chat
    if chat is None:
        engine.tokenizer.require("a conversation")
        raise ChatTemplateError(
            "this model has no chat template; use /v1/completions, or start the server with --chat-template FILE"
        )
    last = conversation[-1]
    if continue_final and (last["role"] != "assistant" or "content" not in last or "tool_calls" in last):
        raise invalid(
            "continue_final_message needs a conversation that ends with text of the assistant", "continue_final_message"
        )
    return chat


async def encode_chat(
    engine: Engine,
    conversation: Messages,
    *,
    ending: Ending = "opened",
    tools: Sequence[JsonObject] | None = None,
    variables: Mapping[str, Any] | None = None,
    truncation: Truncation | None = None,
) -> list[int]:
    """All of it; truncation: how it will be cut, so that of a conversation that is far too long that part is enough

    Raises ChatTemplateError if the template refuses the conversation, HttpError if it is far too long, and what
    `chat_of` raises.
    """
    continue_final = ending == "continued"
    chat = chat_of(engine, conversation, continue_final=continue_final)
    encode = functools.partial(chat.encode, tools=tools, variables=variables, start_answer=ending == "opened")
    size = characters(conversation)
    if size + (len(wire.encode(tools)) if tools else 0) <= limits.OFF_LOOP_CHARACTERS:
        return encode(conversation, continue_final=continue_final)
    far = await asyncio.to_thread(_far_too_long, engine, "".join(texts(conversation)), truncation)
    if far is not None:
        keeps_end = truncation is not None and truncation.keeps_end
        conversation = shortened(conversation, far[0], keeps_end=keeps_end)
        # else its end, and how it ends, will be cut off
        continue_final = continue_final and keeps_end
    return await asyncio.to_thread(encode, conversation, continue_final=continue_final)


def _far_too_long(
    engine: Engine, text: str, truncation: Truncation | None, *, bos: bool = True
) -> tuple[int, list[int]] | None:
    """How many characters of `text`, from the side that is kept, have more than twice as many tokens as the model
    reads, and those tokens; None: so many has it not. To tokenize all of it would cost a hundred bytes of memory for
    each character.

    Raises HttpError in place of an answer, unless the prompt will be cut.
    """
    keeps_end = truncation is not None and truncation.keeps_end
    most = engine.context_length
    size = most * limits.CHARACTERS_A_TOKEN
    while size < len(text):
        found = engine.tokenizer.encode(text[-size:] if keeps_end else text[:size], bos=bos)
        if len(found) > 2 * most:
            if truncation is not None:
                return size, found
            message = f"the first {size} characters of the prompt have {len(found)} tokens, but the context length is"
            raise invalid(f"{message} {most} tokens; shorten the prompt", "prompt", "context_length_exceeded")
        size *= 4
    return None


async def encode_text(
    engine: Engine, text: str, path: str, truncation: Truncation | None = None, *, bos: bool = True
) -> list[int]:
    """What is kept of it, with the token that starts a text if the model has one. Raises HttpError if it is empty or,
    where it is not cut, far too long.

    bos: False: without that token
    """
    encode = functools.partial(engine.tokenizer.encode, bos=bos)
    if len(text) > limits.OFF_LOOP_CHARACTERS:
        far = await asyncio.to_thread(_far_too_long, engine, text, truncation, bos=bos)
        found = await asyncio.to_thread(encode, text) if far is None else far[1]
    else:
        found = encode(text)
    if not found:
        raise invalid(f"{path} is empty", path)
    return found if truncation is None else cut(found, truncation, len(encode("")))


def fit(
    engine: Engine,
    prompt: Sequence[int],
    wanted: int | None,
    default: int | None,
    path: str,
    *,
    lowers: bool = False,
) -> int:
    """How many tokens to generate: `wanted`, which must fit, else `default` or all that fits.

    path: the field that gave `wanted`; lowers: it is made to fit, if one token does
    """
    length, room = len(prompt), engine.room(len(prompt))
    if lowers and wanted is not None and room > 0:
        wanted = min(wanted, room)
    least = 1 if wanted is None else wanted
    if room < least:
        limit = length + room
        context = f"the context length is {engine.context_length} tokens"
        if limit < engine.context_length:
            context += f", and the cache holds {limit}"
        asked = "" if not wanted else f" and {path} is {wanted}"
        raise invalid(
            f"the prompt has {length} tokens{asked}, but {context}; shorten the prompt or ask for fewer tokens",
            path if length < limit else "prompt",
            "context_length_exceeded",
        )
    if wanted is not None:
        return wanted
    return room if default is None else min(default, room)


def prompt_list(vocab_size: int) -> Field[list[str | list[int]]]:
    """OpenAI's `prompt`: a string, a list of strings, token ids or a list of lists of them."""

    def check(path: str, value: object) -> list[str | list[int]]:
        try:
            return _prompt_list(path, value, vocab_size)
        except HttpError as error:
            error.param = path  # the message has the place in the list
            raise

    text, tokens = string(), token_list(vocab_size)
    several = [list_of(each, LENGTHS["prompts"]).schema for each in (text, tokens)]
    return Field({"anyOf": [text.schema, tokens.schema, *several]}, check)


def _prompt_list(path: str, value: object, vocab_size: int) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong_type(path, "a string, a list of strings or token ids", value)
    listed = cast("list[object]", value)
    if not listed:
        raise invalid(f"{path} is empty", path)
    if not isinstance(listed[0], (str, list)):
        return [ids(path, listed, vocab_size)]
    entries(path, listed, LENGTHS["prompts"])  # measured
    if isinstance(listed[0], str):
        return [_text(f"{path}[{index}]", entry) for index, entry in enumerate(listed)]
    return [_tokens(f"{path}[{index}]", entry, vocab_size) for index, entry in enumerate(listed)]


def _text(path: str, value: object) -> str:
    if not isinstance(value, str):
        raise wrong_type(path, "a string, as the first prompt is", value)
    return value


def _tokens(path: str, value: object, vocab_size: int) -> list[int]:
    if not isinstance(value, list):
        raise wrong_type(path, "a list of token ids, as the first prompt is", value)
    return token_list(vocab_size)(path, cast(object, value))


def token_list(vocab_size: int) -> Field[list[int]]:
    """Token ids, at least one."""

    def check(path: str, value: object) -> list[int]:
        if not isinstance(value, list):
            raise wrong_type(path, "a list of token ids", value)
        if not value:
            raise invalid(f"{path} is empty", path)
        return ids(path, entries(path, cast(object, value), LENGTHS["prompt_tokens"]), vocab_size)

    return Field(list_of(token_id(vocab_size), LENGTHS["prompt_tokens"]).schema, check)


def check_model(found: JsonObject, engine: Served) -> None:
    """Raises HttpError unless `model` names the one that is served; `default` always does."""
    name = found.get("model")
    if name is None:
        raise missing("model")
    if not is_served(name, engine):
        raise not_served(describe(name), engine)


def listed_names(engine: Served) -> tuple[str, ...]:
    """Those of the model that everybody is told, the first of which answers carry."""
    return engine.model_name, *engine.other_names


def is_served(name: object, engine: Served) -> bool:
    return name in (*listed_names(engine), "default") or (name is not None and name == engine.path)


def not_served(name: str, engine: Served) -> HttpError:
    message = f"the model {name} is not served here; served: {', '.join(listed_names(engine))}"
    return HttpError(404, "model_not_found", message, "model")
