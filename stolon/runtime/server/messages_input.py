"""`messages`, `system` and `tools` of /v1/messages, to a conversation as chat templates read it."""

from __future__ import annotations

from typing import Any, cast

from ..limits import LENGTHS
from . import wire
from .conversation import Message, Messages, call_message
from .errors import invalid
from .fields import (
    Check,
    Field,
    boolean,
    describe,
    ignored,
    list_of,
    mapping,
    missing,
    object_of,
    one_of,
    string,
    wrong_type,
)
from .tools import NAME, PARAMETERS, Choice, Tool, made

_ID = string(LENGTHS["name"])
_CACHED = {"cache_control": ignored}  # prefixes are kept anyway

_TEXT = object_of(
    {"type": one_of("text"), "text": string(), "citations": ignored, **_CACHED}, required=("type", "text")
)
_THINKING = object_of(
    {"type": one_of("thinking"), "thinking": string(), "signature": ignored}, required=("type", "thinking")
)
_USE = object_of(
    {
        "type": one_of("tool_use"),
        "id": _ID,
        "name": string(LENGTHS["name"]),
        "input": Field({"type": "object"}, mapping),
        "caller": ignored,
        **_CACHED,
    },
    required=("type", "id", "name", "input"),
)
_BLOCKS: dict[str, Field[dict[str, Any]]] = {"text": _TEXT, "thinking": _THINKING, "tool_use": _USE}


def _block_of(kinds: dict[str, Field[dict[str, Any]]]) -> Field[dict[str, Any]]:
    def check(path: str, value: object) -> dict[str, Any]:
        kind = mapping(path, value).get("type")
        if isinstance(kind, str) and kind not in kinds:
            message = f"{path}.type must be one of {', '.join(kinds)}, got {describe(kind)}"
            raise invalid(message, f"{path}.type", "unsupported_content")
        if not isinstance(kind, str):
            raise missing(f"{path}.type") if kind is None else wrong_type(f"{path}.type", "a string", kind)
        return kinds[kind](path, value)

    return Field({"anyOf": [kind.schema for kind in kinds.values()]}, check)


def _text_or_blocks(blocks: Field[list[dict[str, Any]]]) -> Field[list[dict[str, Any]]]:
    def check(path: str, value: object) -> list[dict[str, Any]]:
        if isinstance(value, str):
            return [{"type": "text", "text": value}]
        if not isinstance(value, list):
            raise wrong_type(path, "a string or a list of blocks", value)
        return blocks(path, cast(object, value))

    return Field({"anyOf": [{"type": "string"}, blocks.schema]}, check)


_TEXTS = _text_or_blocks(list_of(_block_of({"text": _TEXT}), LENGTHS["parts"]))
_RESULT = object_of(
    {"type": one_of("tool_result"), "tool_use_id": _ID, "content": _TEXTS, "is_error": boolean, **_CACHED},
    required=("type", "tool_use_id"),
)
_CONTENT = _text_or_blocks(list_of(_block_of({**_BLOCKS, "tool_result": _RESULT}), LENGTHS["parts"]))
_MESSAGE = object_of({"role": one_of("user", "assistant"), "content": _CONTENT}, required=("role", "content"))


def _joined(blocks: list[dict[str, Any]]) -> str:
    return "".join(block["text"] for block in blocks)


def _system(path: str, value: object) -> str:
    return _joined(_TEXTS(path, value))


SYSTEM: Field[str] = Field(_TEXTS.schema, _system)


def _turn(path: str, value: object) -> Messages:
    """One message of theirs, which may be several of ours: results come in the message of a user."""
    found = _MESSAGE(path, value)
    blocks: list[dict[str, Any]] = found["content"]
    mine = ("text", "tool_result") if found["role"] == "user" else tuple(_BLOCKS)
    for place, block in enumerate(blocks):
        if block["type"] not in mine:
            at = f"{path}.content[{place}].type"
            raise invalid(f"{at}: a message of the {found['role']} has no '{block['type']}'", at)
    return _of_user(blocks) if found["role"] == "user" else [_of_assistant(blocks)]


def _of_user(blocks: list[dict[str, Any]]) -> Messages:
    messages: Messages = []
    for block in blocks:
        if block["type"] == "tool_result":
            text = _joined(block.get("content", []))
            said = f"Error: {text}" if block.get("is_error", False) else text
            messages.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": said})
        elif messages and messages[-1]["role"] == "user":
            messages[-1]["content"] += block["text"]
        else:
            messages.append({"role": "user", "content": block["text"]})
    return messages


def _of_assistant(blocks: list[dict[str, Any]]) -> Message:
    message: Message = {"role": "assistant"}
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    thoughts = [block["thinking"] for block in blocks if block["type"] == "thinking"]
    calls = [
        call_message(block["id"], block["name"], wire.encode(block["input"]))
        for block in blocks
        if block["type"] == "tool_use"
    ]
    if texts or not calls:
        message["content"] = "".join(texts)
    if calls:
        message["tool_calls"] = calls
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    return message


_TURNS = list_of(Field(_MESSAGE.schema, _turn), LENGTHS["messages"])


def _messages(path: str, value: object) -> Messages:
    found = [message for turn in _TURNS(path, value) for message in turn]
    if not found:
        raise invalid(f"{path} has no content", path)
    return found


MESSAGES: Field[Messages] = Field(_TURNS.schema, _messages)

_TOOL = object_of(
    {
        "type": one_of("custom"),
        "name": NAME,
        "description": string(),
        "input_schema": PARAMETERS,
        "strict": boolean,
        **_CACHED,
    },
    required=("name", "input_schema"),
)


def _tool(path: str, value: object) -> Tool:
    kind = mapping(path, value).get("type")
    if isinstance(kind, str) and kind != "custom":
        message = f"{path}.type: only tools of type 'custom' are understood, got {describe(kind)}"
        raise invalid(message, f"{path}.type", "unsupported_parameter")
    found = _TOOL(path, value)
    return made({**found, "parameters": found["input_schema"]}, f"{path}.input_schema")


TOOLS: Field[list[Tool]] = list_of(Field(_TOOL.schema, _tool), LENGTHS["tools"])

_CHOICE: dict[str, Check] = {
    "type": one_of("auto", "any", "tool", "none"),
    "name": NAME,
    "disable_parallel_tool_use": boolean,
}
_CHOICE_OBJECT = object_of(_CHOICE, required=("type",))


def _choice(path: str, value: object) -> tuple[Choice, bool]:
    found = _CHOICE_OBJECT(path, value)
    kind: str = found["type"]
    parallel = not found.get("disable_parallel_tool_use", False)
    if kind != "tool":
        if "name" in found:
            raise invalid(f"{path}.name is only for type 'tool'", f"{path}.name")
        return Choice({"any": "required"}.get(kind, kind), path=path), parallel
    if "name" not in found:
        raise missing(f"{path}.name")
    return Choice.named(found["name"], f"{path}.name"), parallel


# the choice, and whether there may be several calls
TOOL_CHOICE: Field[tuple[Choice, bool]] = Field(_CHOICE_OBJECT.schema, _choice)
