"""Mistral: `[TOOL_CALLS] [{"name": "f", "arguments": {...}}, ...]`, and the newer `[TOOL_CALLS]f[ARGS]{...}`."""

from __future__ import annotations

from collections.abc import Collection

from .calls import read_arguments, read_call
from .source import Source, Steps, literal, peek, spaces, until, word

MARK = "[TOOL_CALLS]"


def read(source: Source, names: Collection[str]) -> Steps[None]:
    while mark := (yield from until(source, MARK, source.say)):
        source.keep(mark)
        yield from spaces(source)
        listed = yield from literal(source, "[")
        if not (yield from (_list(source, names) if listed else _named(source, names))):
            source.give_back()
        yield from spaces(source)


def _list(source: Source, names: Collection[str]) -> Steps[bool]:
    while True:
        yield from spaces(source)
        if not (yield from read_call(source, names, None)):
            return False
        source.keep()
        yield from spaces(source)
        if not (yield from literal(source, ",")):
            if not (yield from literal(source, "]")) and source.kept().strip():
                source.give_back()
            source.forget()
            return True


def _named(source: Source, names: Collection[str]) -> Steps[bool]:
    name = yield from word(source)
    if name not in names:
        return False
    if (yield from literal(source, "[CALL_ID]")):
        yield from word(source)  # ours are made here
    yield from literal(source, "[ARGS]")
    yield from spaces(source)
    if (yield from peek(source)) != "{":
        return False
    yield from read_arguments(source, name, None, wrapped=False)
    return True
