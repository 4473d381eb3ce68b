"""`messages` as chat clients write them: roles, contents, tool calls and their results."""

from __future__ import annotations

from typing import Any, Literal, cast

from ..limits import LENGTHS
from . import wire
from .body import object_in
from .errors import invalid
from .fields import Field, describe, ignored, list_of, mapping, missing, object_of, one_of, string, wrong_type
from .sampling import UNSUPPORTED

Message = dict[str, Any]
Messages = list[Message]

# what a conversation ends with: the start of an answer, its last message left open, or that message as it is
Ending = Literal["opened", "continued", "closed"]


_REFUSAL = object_of({"type": one_of("refusal"), "refusal": string()}, required=("type", "refusal"))


def text_or_parts(types: tuple[str, ...], parts: str, **others: Field[Any]) -> Field[str]:
    """Text, or a list of parts that are all text, or what a model refused with: joined.

    types: of parts that are text; parts: how a refusal names those; others: further fields of a part
    """
    whole = object_of({"type": one_of(*types), "text": string(), **others}, required=("type", "text"))

    def part(path: str, value: object) -> str:
        kind = mapping(path, value).get("type")
        if kind == "refusal":
            return _REFUSAL(path, value)["refusal"]
        if isinstance(kind, str) and kind not in types:
            message = f"{path}.type: only {parts} are understood, got {describe(kind)}"
            raise invalid(message, f"{path}.type", "unsupported_content")
        return whole(path, value)["text"]

    listed = list_of(Field({"anyOf": [whole.schema, _REFUSAL.schema]}, part), LENGTHS["parts"])

    def content(path: str, value: object) -> str:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise wrong_type(path, "a string or a list of parts", value)
        return "".join(listed(path, cast(object, value)))

    return Field({"anyOf": [{"type": "string"}, listed.schema]}, content)


_CONTENT = text_or_parts(("text",), "parts of type 'text'")

_CALLED = object_of(
    # what OpenAI's client has read out of the arguments comes back with a parsed message
    {"name": string(LENGTHS["name"]), "arguments": string(), "parsed_arguments": ignored},
    required=("name", "arguments"),
)
_CALL = object_of(
    {
        "id": string(LENGTHS["name"]),
        "type": one_of("function"),
        "function": _CALLED,
        "index": ignored,  # of a streamed call that a client has put together
    },
    required=("function",),
)


def _call(path: str, value: object) -> Message:
    found = _CALL(path, value)
    function = found["function"]
    return call_message(found.get("id"), function["name"], function["arguments"])


def call_message(id: str | None, name: str, arguments: str) -> Message:
    """A call as templates read it: its arguments as an object wherever they are one that templates can walk over."""
    found = object_in(arguments)
    # what a model got wrong is part of the conversation all the same
    function = {"name": name, "arguments": arguments if found is None else found}
    call: Message = {"type": "function", "function": function}
    return call if id is None else {"id": id, **call}


_MESSAGE = object_of(
    {
        "role": one_of("system", "developer", "user", "assistant", "tool", "function"),
        "content": _CONTENT,
        "name": string(LENGTHS["name"]),
        "tool_calls": list_of(Field(_CALL.schema, _call), LENGTHS["tool_calls"]),
        "function_call": _CALLED,
        "tool_call_id": string(LENGTHS["name"]),
        "reasoning_content": string(),
        "reasoning": string(),
        "refusal": string(),
        # what OpenAI's client read out of the content comes back with a parsed message
        **dict.fromkeys(["annotations", "parsed"], ignored),
    },
    required=("role",),
    unsupported=UNSUPPORTED,
)


_SAME_ROLES = {"developer": "system", "function": "tool"}


def _message(path: str, value: object) -> Message:
    fields = _MESSAGE(path, value)
    for name in ("annotations", "parsed"):
        fields.pop(name, None)
    for name in ("tool_calls", "function_call", "reasoning_content", "reasoning", "refusal"):
        if name in fields and fields["role"] != "assistant":
            raise invalid(f"{path}.{name} is only for messages of the assistant", f"{path}.{name}")
    thought = fields.pop("reasoning", None)  # vLLM's later name
    if thought is not None and fields.setdefault("reasoning_content", thought) != thought:
        raise invalid(f"{path}.reasoning and reasoning_content differ; give one", f"{path}.reasoning")
    if "refusal" in fields:
        # it stands in the place of an answer
        fields["content"] = fields.get("content", "") + fields.pop("refusal")
    called = fields.pop("function_call", None)
    if called is not None:
        if fields.get("tool_calls"):
            raise invalid(f"{path}: give one of tool_calls and function_call", f"{path}.function_call")
        fields["tool_calls"] = [call_message(None, called["name"], called["arguments"])]
    if not fields.get("tool_calls"):
        fields.pop("tool_calls", None)
        if "content" not in fields:
            raise missing(f"{path}.content")
    if fields["role"] == "function" and "name" not in fields:
        raise missing(f"{path}.name")
    fields["role"] = _SAME_ROLES.get(fields["role"], fields["role"])
    return fields


_TEXTS = ("content", "reasoning_content")

# a conversation of at least one message
messages: Field[Messages] = list_of(Field(_MESSAGE.schema, _message), LENGTHS["messages"])


def characters(conversation: Messages) -> int:
    """How long what the template writes may be: contents, thoughts and calls."""
    return sum(map(len, texts(conversation))) + sum(
        len(wire.encode(message["tool_calls"])) for message in conversation if "tool_calls" in message
    )


def shortened(conversation: Messages, size: int, *, keeps_end: bool = False) -> Messages:
    """The same messages with no more than the first (or the last) `size` characters of `texts`."""
    found = [dict(message) for message in conversation]
    places = [(message, name) for message in found for name in _TEXTS if name in message]
    for message, name in reversed(places) if keeps_end else places:
        text: str = message[name]
        message[name] = text[max(0, len(text) - size) :] if keeps_end else text[:size]
        size -= len(message[name])
    return found


def texts(conversation: Messages) -> list[str]:
    """Its contents and thoughts."""
    return [message[name] for message in conversation for name in _TEXTS if name in message]
