"""The one place where a chat template runs, in a sandbox. Nothing else in the package imports jinja2."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..lang.errors import ChatTemplateError

MAX_OUTPUT = 32 * 1024 * 1024  # characters


class ChatRenderer:
    """A compiled chat template. Raises ChatTemplateError if `source` is no valid template."""

    def __init__(self, source: str) -> None:
        try:
            self._template = _environment().from_string(source)
        except Exception as error:  # a template can make the compiler fail in any way, RecursionError among them
            raise ChatTemplateError(f"the chat template cannot be compiled: {_reason(error)}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        named_tokens: Mapping[str, str],
    ) -> str:
        """The conversation as the model reads it. Raises ChatTemplateError with the template's own words."""
        variables = {
            **named_tokens,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        chunks: list[str] = []
        size = 0
        try:
            for chunk in self._template.generate(variables):
                size += len(chunk)
                if size > MAX_OUTPUT:
                    raise ChatTemplateError(f"the chat template writes more than {MAX_OUTPUT} characters")
                chunks.append(chunk)
        except ChatTemplateError:
            raise
        except Exception as error:  # a template can fail in any way: TypeError, OverflowError, MemoryError, ...
            raise ChatTemplateError(f"the chat template refuses these messages: {_reason(error)}") from error
        return "".join(chunks)


class _GenerationTag(Extension):
    """`{% generation %}` marks what a model wrote, for training; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012  (so declared by the parent)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    filters: dict[str, Any] = environment.filters
    filters["tojson"] = _tojson
    names: dict[str, Any] = environment.globals
    names["raise_exception"] = _raise_exception
    names["strftime_now"] = _strftime_now
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__)[:1000]
