"""Which format a model writes: by the operator's word, or by its chat template where that is sure."""

from __future__ import annotations

import functools
import secrets
import string
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from . import hermes, llama3, mistral, pythonic, thoughts
from .source import Parser, Source, Steps, everything

ToolFormat = Literal["hermes", "llama3", "mistral", "pythonic"]
ToolParser = Literal["auto", "none", "hermes", "qwen", "qwen25", "llama3", "llama3_json", "mistral", "pythonic"]
ReasoningParser = Literal["auto", "none", "think", "deepseek-r1", "deepseek_r1", "qwen3"]

_READERS: dict[ToolFormat, Callable[[Source, Collection[str]], Steps[None]]] = {
    "hermes": hermes.read,
    "llama3": llama3.read,
    "mistral": mistral.read,
    "pythonic": pythonic.read,
}
_SAME: dict[str, ToolFormat] = {"qwen": "hermes", "qwen25": "hermes", "llama3_json": "llama3"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be told apart in the answers to one request.

    names: of the tools that may be called; inside: the prompt has begun a thought
    """

    thinks: bool = False
    inside: bool = False
    tools: ToolFormat | None = None
    names: frozenset[str] = frozenset()

    @property
    def is_plain(self) -> bool:
        """All of an answer is text."""
        return not self.thinks and self.tools is None

    @property
    def has_control_marks(self) -> bool:
        """Calls begin with a control token, which otherwise is no part of the text."""
        return self.tools == "mistral"

    def parser(self) -> Parser:
        """For one answer."""
        return Parser(self._program)

    def _program(self, source: Source) -> Steps[None]:
        if self.thinks:
            yield from thoughts.read(source, inside=self.inside)
        if self.tools is None:
            yield from everything(source, source.say)
        else:
            yield from _READERS[self.tools](source, self.names)


@functools.lru_cache(maxsize=16)
def tool_format(wanted: ToolParser, template: str) -> ToolFormat | None:
    """None: no tool calls are understood, or it is not sure how this model writes them.

    template: the source of the chat template
    """
    if wanted == "auto":
        return _found_in(template)
    if wanted == "none":
        return None
    for name in _READERS:
        if name == _SAME.get(wanted, wanted):
            return name
    raise AssertionError(wanted)


def _found_in(template: str) -> ToolFormat | None:
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<tool_call>" in template and "<function=" not in template and '"name"' in template.replace("\\", ""):
        return "hermes"
    if "<|python_tag|>" in template or '{"name": function name, "parameters"' in template:
        return "llama3"
    if "[func_name1(params_name1=" in template:
        return "pythonic"
    return None


@functools.lru_cache(maxsize=16)
def thinks(wanted: ReasoningParser, template: str) -> bool:
    """Whether answers may begin with a thought."""
    return thoughts.END in template if wanted == "auto" else wanted != "none"


def is_hybrid(template: str) -> bool:
    """Whether the model thinks unless it is told not to."""
    return "enable_thinking" in template


def opens_thought(prompt_end: str) -> bool | None:
    """Whether the end of a prompt has begun a thought; None if it says nothing about thoughts."""
    begun, ended = prompt_end.rfind(thoughts.BEGIN), prompt_end.rfind(thoughts.END)
    text = prompt_end.rstrip()
    if begun > ended and text.endswith(thoughts.BEGIN):
        return True
    return False if text.endswith(thoughts.END) else None


def new_call_id(format: ToolFormat | None) -> str:
    """Mistral's templates refuse ids of any other form than theirs."""
    if format == "mistral":
        return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"
