"""`input` of /v1/responses, to a conversation as chat templates read it."""

from __future__ import annotations

from typing import Any, cast

from ..limits import LENGTHS
from .constraints import JSON_SCHEMA_FORMAT, Asked, check_null_schema
from .conversation import Message, Messages, call_message, text_or_parts
from .errors import invalid
from .fields import Field, describe, ignored, list_of, mapping, missing, object_of, one_of, string, wrong_type
from .tools import FUNCTION, MODES, NAME, Choice, Tool, allowed_among, check_type, made

_CONTENT = text_or_parts(("input_text", "output_text", "text"), "parts of text", annotations=ignored, logprobs=ignored)
_SAME = {"id": string(LENGTHS["name"]), "status": one_of("in_progress", "completed", "incomplete")}

_MESSAGE = object_of(
    {
        **_SAME,
        "type": one_of("message"),
        "role": one_of("system", "developer", "user", "assistant"),
        "content": _CONTENT,
        "phase": ignored,
    },
    required=("role", "content"),
)
_CALL = object_of(
    {
        **_SAME,
        "type": one_of("function_call"),
        "call_id": string(LENGTHS["name"]),
        "name": string(LENGTHS["name"]),
        "arguments": string(),
    },
    required=("type", "call_id", "name", "arguments"),
)
_RESULT = object_of(
    {**_SAME, "type": one_of("function_call_output"), "call_id": string(LENGTHS["name"]), "output": _CONTENT},
    required=("type", "call_id", "output"),
)
_THOUGHT_PART = object_of({"type": one_of("reasoning_text"), "text": string()}, required=("type", "text"))
_REASONING = object_of(
    {
        **_SAME,
        "type": one_of("reasoning"),
        "summary": list_of(Field({}, ignored.check), LENGTHS["parts"]),
        "content": list_of(_THOUGHT_PART, LENGTHS["parts"]),
        "encrypted_content": ignored,  # never made here
    },
    required=("type",),
)
_ITEMS = {"message": _MESSAGE, "function_call": _CALL, "function_call_output": _RESULT, "reasoning": _REASONING}


def _item(path: str, value: object) -> tuple[str, dict[str, Any]]:
    """The type of an item, and its fields."""
    kind = mapping(path, value).get("type") or "message"
    if not isinstance(kind, str):
        raise wrong_type(f"{path}.type", "a string", kind)
    if kind not in _ITEMS:
        message = f"{path}.type must be one of {', '.join(_ITEMS)}, got {describe(kind)}"
        raise invalid(message, f"{path}.type", "unsupported_content")
    return kind, _ITEMS[kind](path, value)


_ITEM_LIST = list_of(Field({"anyOf": [item.schema for item in _ITEMS.values()]}, _item), LENGTHS["messages"])


def _input(path: str, value: object) -> Messages:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise wrong_type(path, "a string or a list of items", value)
    return _conversation(_ITEM_LIST(path, cast(object, value)))


INPUT: Field[Messages] = Field({"anyOf": [{"type": "string"}, _ITEM_LIST.schema]}, _input)


def _conversation(items: list[tuple[str, dict[str, Any]]]) -> Messages:
    """Items one after the other; what the assistant thought, said and called without a break is one message."""
    messages: Messages = []
    for kind, fields in items:
        match kind:
            case "message" if fields["role"] == "assistant":
                message = _open_turn(messages, unless="content")
                message["content"] = fields["content"]
            case "message":
                role = "user" if fields["role"] == "user" else "system"
                messages.append({"role": role, "content": fields["content"]})
            case "function_call":
                call = call_message(fields["call_id"], fields["name"], fields["arguments"])
                _open_turn(messages).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                messages.append({"role": "tool", "tool_call_id": fields["call_id"], "content": fields["output"]})
            case _:
                thought = "".join(part["text"] for part in fields.get("content", []))
                if thought:
                    _open_turn(messages, unless="content")["reasoning_content"] = thought
    for message in messages:
        if message["role"] == "assistant" and "tool_calls" not in message:
            message.setdefault("content", "")
    return messages


def _open_turn(messages: Messages, unless: str = "") -> Message:
    """The assistant's message that is last, or a new one: also if the last has `unless` or has called already."""
    last = messages[-1] if messages else None
    if last is None or last["role"] != "assistant" or unless in last or (unless and "tool_calls" in last):
        messages.append({"role": "assistant"})
    return messages[-1]


_TOOL = object_of({"type": one_of("function"), **FUNCTION}, required=("type", "name"))


def _tool(path: str, value: object) -> Tool:
    check_type(path, value)
    return made(_TOOL(path, value), f"{path}.parameters")


TOOLS: Field[list[Tool]] = list_of(Field(_TOOL.schema, _tool), LENGTHS["tools"])

_NAMED = object_of({"type": one_of("function"), "name": NAME}, required=("type", "name"))
_ALLOWED = allowed_among(_NAMED, type=one_of("allowed_tools"))


def _choice(path: str, value: object) -> Choice:
    if isinstance(value, str):
        return Choice(MODES(path, value), path=path)
    if mapping(path, value).get("type") == "allowed_tools":
        found = _ALLOWED(path, value)
        only = {each["name"]: f"{path}.tools[{place}].name" for place, each in enumerate(found["tools"])}
        return Choice(found["mode"], only, path=f"{path}.mode")
    check_type(path, value)
    return Choice.named(_NAMED(path, value)["name"], f"{path}.name")


TOOL_CHOICE: Field[Choice] = Field({"anyOf": [MODES.schema, _NAMED.schema, _ALLOWED.schema]}, _choice)

_FORMAT = object_of({"type": one_of("text", "json_object", "json_schema"), **JSON_SCHEMA_FORMAT}, required=("type",))
_TEXT = object_of({"format": _FORMAT}, unsupported={"verbosity": "not available"})


def _text_format(path: str, value: object) -> Asked | None:
    found = mapping(path, value).get("format")
    if isinstance(found, dict):
        check_null_schema(f"{path}.format", cast("dict[str, object]", found))
    format = _TEXT(path, value).get("format", {"type": "text"})
    at = f"{path}.format"
    if format["type"] == "json_schema":
        for name in ("name", "schema"):
            if name not in format:
                raise missing(f"{at}.{name}")
        return Asked.schema(format["schema"], f"{at}.schema")
    if stray := next((name for name in JSON_SCHEMA_FORMAT if name in format), None):
        raise invalid(f"{at}.{stray} is only for type 'json_schema'", f"{at}.{stray}")
    return Asked.json_object(at) if format["type"] == "json_object" else None


TEXT_FORMAT: Field[Asked | None] = Field(_TEXT.schema, _text_format)
