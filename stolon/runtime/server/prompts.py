"""What a request asks to be continued: text, tokens or a conversation, as token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from ...lang.errors import ChatTemplateError
from .. import limits
from ..limits import LENGTHS
from .body import JsonObject
from .errors import HttpError, invalid
from .fields import Check, describe, entries, ids, mapping, one_of, read, string, wrong_type
from .sampling import UNSUPPORTED
from .service import ChatTemplate, Engine

Messages = list[dict[str, str]]

_MESSAGE: dict[str, Check] = {
    "role": one_of("system", "developer", "user", "assistant", "tool"),
    "content": lambda path, value: _content(path, value),
    "name": string(LENGTHS["name"]),
    "tool_call_id": string(LENGTHS["name"]),
}

_NOT_IN_A_MESSAGE = {
    **UNSUPPORTED,
    "tool_calls": UNSUPPORTED["tools"],
    "refusal": "refusals are not available",
    "reasoning_content": "reasoning is not available",
}


def messages(path: str, value: object) -> Messages:
    """A conversation of at least one message."""
    found = entries(path, value, LENGTHS["messages"])
    return [_message(f"{path}[{index}]", entry) for index, entry in enumerate(found)]


def _message(path: str, value: object) -> dict[str, str]:
    found = mapping(path, value)
    fields = cast("dict[str, str]", read(found, _MESSAGE, unsupported=_NOT_IN_A_MESSAGE, prefix=f"{path}."))
    for name in ("role", "content"):
        if name not in fields:
            raise missing(f"{path}.{name}")
    if fields["role"] == "developer":
        fields["role"] = "system"
    return fields


def _content(path: str, value: object) -> str:
    """Text, or a list of parts that are all text."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong_type(path, "a string or a list of parts", value)
    parts = cast("list[object]", value)
    return "".join(_part(f"{path}[{index}]", part) for index, part in enumerate(parts))


_PART: dict[str, Check] = {"type": one_of("text"), "text": string()}


def _part(path: str, value: object) -> str:
    found = mapping(path, value)
    kind = found.get("type")
    if isinstance(kind, str) and kind != "text":
        message = f"{path}.type: only parts of type 'text' are understood, got {describe(kind)}"
        raise invalid(message, f"{path}.type", "unsupported_content")
    fields = read(found, _PART, unsupported={}, prefix=f"{path}.")
    for name in _PART:
        if name not in fields:
            raise missing(f"{path}.{name}")
    return cast(str, fields["text"])


def missing(path: str) -> HttpError:
    return invalid(f"{path} is missing", path, "missing_parameter")


def chat_of(engine: Engine, conversation: Messages, *, continue_final: bool) -> ChatTemplate:
    """The template. Raises ChatTemplateError if there is none, HttpError if `conversation` has nothing to continue."""
    chat = engine.chat
    if chat is None:
        raise ChatTemplateError(
            "this model has no chat template; use /v1/completions, or start the server with --chat-template FILE"
        )
    if continue_final and conversation[-1]["role"] != "assistant":
        raise invalid(
            "continue_final_message needs a conversation that ends with an assistant message", "continue_final_message"
        )
    return chat


async def encode_chat(engine: Engine, conversation: Messages, *, continue_final: bool) -> list[int]:
    """Raises ChatTemplateError if the template refuses the conversation, and what `chat_of` raises."""
    chat = chat_of(engine, conversation, continue_final=continue_final)
    if sum(len(message["content"]) for message in conversation) > limits.OFF_LOOP_CHARACTERS:
        return await asyncio.to_thread(chat.encode, conversation, continue_final=continue_final)
    return chat.encode(conversation, continue_final=continue_final)


async def encode_text(engine: Engine, text: str, path: str) -> list[int]:
    """With the token that starts a text, if the model has one. Raises HttpError if nothing comes of it."""
    encode = engine.tokenizer.encode
    found = await asyncio.to_thread(encode, text) if len(text) > limits.OFF_LOOP_CHARACTERS else encode(text)
    if not found:
        raise invalid(f"{path} is empty", path)
    return found


def fit(engine: Engine, prompt: Sequence[int], wanted: int | None, default: int | None, path: str) -> int:
    """How many tokens to generate: `wanted`, which must fit, else `default` or all that fits.

    path: the field that gave `wanted`
    """
    length, room = len(prompt), engine.room(len(prompt))
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


def prompt_list(path: str, value: object, vocab_size: int) -> list[str | list[int]]:
    """OpenAI's `prompt`: a string, a list of strings, token ids or a list of lists of them."""
    try:
        return _prompt_list(path, value, vocab_size)
    except HttpError as error:
        error.param = path  # the message has the place in the list
        raise


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
    if not value:
        raise invalid(f"{path} is empty", path)
    return ids(path, cast("list[object]", value), vocab_size)


def check_model(found: JsonObject, engine: Engine) -> None:
    """Raises HttpError unless `model` names the one that is served; `default` always does."""
    name = found.get("model")
    if name is None:
        raise missing("model")
    if name not in (engine.model_name, "default"):
        raise not_served(describe(name), engine)


def not_served(name: str, engine: Engine) -> HttpError:
    message = f"the model {name} is not served here; served: {engine.model_name}"
    return HttpError(404, "model_not_found", message, "model")
