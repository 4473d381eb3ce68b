"""Documents of the corpus and how they are written out: the twin of the chat template in `tokenizer.py`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from typing_extensions import assert_never

Role = Literal["system", "user", "assistant", "tool"]

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
TEXT_END = "<|endoftext|>"

TOOLS_BEFORE = "You can call these tools:\n<tools>\n"
TOOLS_AFTER = (
    "\n</tools>\nTo call a tool, answer with\n<tool_call>\n"
    '{"name": <tool name>, "arguments": <arguments as JSON>}\n</tool_call>'
)


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation; the model learns what the assistant says."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a written-out document; `is_answer` marks what the model has to say itself."""

    text: str
    is_answer: bool


@dataclass(frozen=True, slots=True)
class Plain:
    """Text without chat markup, such as a few-shot prompt with its answers."""

    spans: tuple[Span, ...]


Document: TypeAlias = Chat | Plain


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the chat template shows it; `parameters` maps each name to its JSON type."""

    name: str
    description: str
    parameters: tuple[tuple[str, str], ...]

    def as_json(self) -> str:
        schema = {
            "type": "object",
            "properties": {name: {"type": kind} for name, kind in self.parameters},
            "required": [name for name, _ in self.parameters],
        }
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return json.dumps({"type": "function", "function": function})


def tool_system_text(system: str, tools: Sequence[ToolSpec]) -> str:
    """The system message that announces the tools, after the user's own system text if there is one."""
    announcement = TOOLS_BEFORE + "\n".join(tool.as_json() for tool in tools) + TOOLS_AFTER
    return f"{system}\n\n{announcement}" if system else announcement


def tool_call_text(name: str, arguments: dict[str, object]) -> str:
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


def chat(*turns: str, system: str = "") -> Chat:
    """A conversation from alternating user and assistant texts."""
    messages = [Message("system", system)] if system else []
    for index, text in enumerate(turns):
        messages.append(Message("assistant" if index % 2 else "user", text))
    return Chat(tuple(messages))


def plain(*pieces: str) -> Plain:
    """Plain text from alternating prompt and answer pieces."""
    return Plain(tuple(Span(text, bool(index % 2)) for index, text in enumerate(pieces)))


def written(document: Document) -> list[Span]:
    """The document as spans, end tokens included."""
    match document:
        case Plain(spans):
            return [*spans, Span(TEXT_END, True)]
        case Chat(messages):
            out: list[Span] = []
            for message in messages:
                answers = message.role == "assistant"
                out.append(Span(f"{TURN_START}{message.role}\n", False))
                out.append(Span(message.text + TURN_END, answers))
                out.append(Span("\n", False))
            return [*out, Span(TEXT_END, False)]
        case _:
            assert_never(document)
