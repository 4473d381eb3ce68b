"""A prompt as the messages of a chat request."""

from __future__ import annotations

from dataclasses import dataclass

from ..lang.errors import UnsupportedError
from ..lang.prompt import Generated, Message, Prompt, RoleClose, RoleOpen, Text


@dataclass(frozen=True, slots=True)
class Turns:
    """continued: the last message is an assistant turn that the server must continue, not answer"""

    messages: list[Message]
    continued: bool


def turns_of(prompt: Prompt, *, continues: bool) -> Turns:
    """Raises UnsupportedError for what messages cannot say; nothing is left out silently."""
    _refuse_text_outside_turns(prompt)
    messages = prompt.messages()
    if prompt.open_role != "assistant":
        raise UnsupportedError(
            f"a chat API answers as the assistant only, but this generation is {_place(prompt)}; "
            "put it inside `assistant(...)`"
        )
    if not messages[-1]["content"]:
        messages.pop()
        return Turns(_nonempty(messages), continued=False)
    if not continues:
        raise UnsupportedError(
            "this API starts every assistant turn itself and cannot continue the text before the generation "
            f"({messages[-1]['content'][:60]!r}); let the generation come first in its turn, or name the server's "
            'dialect (`dialect="vllm"`) if it can'
        )
    return Turns(messages, continued=True)


def _nonempty(messages: list[Message]) -> list[Message]:
    if not messages:
        raise UnsupportedError("a chat API needs at least one message before the generation; add a `user(...)` turn")
    return messages


def _place(prompt: Prompt) -> str:
    return f"inside a {prompt.open_role} turn" if prompt.open_role else "outside any role"


def _refuse_text_outside_turns(prompt: Prompt) -> None:
    inside = False
    for piece in prompt.pieces():
        match piece:
            case RoleOpen():
                inside = True
            case RoleClose():
                inside = False
            case Text(value) | Generated(value):
                if value.strip() and not inside:
                    raise UnsupportedError(
                        f"a chat API takes text inside roles only, and {value[:60]!r} is outside; "
                        "put it inside `user(...)`, `system(...)` or `assistant(...)`"
                    )
