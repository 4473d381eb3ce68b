"""Hermes and Qwen: `<tool_call>{"name": "f", "arguments": {...}}</tool_call>`, any number of them, after any text."""

from __future__ import annotations

from collections.abc import Collection

from .calls import read_call
from .source import Source, Steps, literal, spaces, until

BEGIN, END = "<tool_call>", "</tool_call>"


def read(source: Source, names: Collection[str]) -> Steps[None]:
    while mark := (yield from until(source, BEGIN, source.say)):
        source.keep(mark)
        yield from spaces(source)
        if not (yield from read_call(source, names, END)):
            source.give_back()
            continue
        yield from spaces(source)
        yield from literal(source, END)
        yield from spaces(source)
