"""Calls as a list in Python: `[f(city="Paris", days=3), g()]` as the whole answer.

A call is announced with its first argument, since text, too, may begin with a bracket and a name; further ones are
passed on one by one.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from .calls import json_text
from .python_values import python_to_json
from .source import Source, Steps, everything, literal, peek, spaces, word

_PLAIN = re.compile(r"[^'\"\\()\[\]{},]+")
_IN_STRING = re.compile(r"[^'\"\\]+")


def read(source: Source, names: Collection[str]) -> Steps[None]:
    source.keep()
    yield from spaces(source)
    if (yield from literal(source, "[")):
        yield from _calls(source, names)
    if source.kept():
        source.give_back()
    source.forget()
    yield from everything(source, source.say)


def _calls(source: Source, names: Collection[str]) -> Steps[None]:
    """What turns out to be no call is left among what the source keeps."""
    while True:
        yield from spaces(source)
        name = yield from word(source)
        if name not in names or not (yield from literal(source, "(")):
            return
        if not (yield from _arguments(source, name)):
            return
        source.keep()
        yield from spaces(source)
        if (yield from literal(source, ",")):
            continue
        if (yield from literal(source, "]")):
            yield from spaces(source)
            source.forget()
        return


def _arguments(source: Source, name: str) -> Steps[bool]:
    """The arguments of one call and its closing bracket. False: nothing was announced."""
    count = 0
    yield from spaces(source)
    while not (yield from literal(source, ")")):
        begin = source.mark
        pair = yield from _argument(source)
        if pair is None:
            if not count:
                return False
            source.argue(source.kept(begin))
            source.forget()
            yield from everything(source, source.argue)
            return True
        if not count:
            source.call(name)
        source.argue(("{" if not count else ", ") + pair)
        source.keep()
        count += 1
        yield from literal(source, ",")
        yield from spaces(source)
        source.keep()
    if not count:
        source.call(name)
    source.argue("}" if count else "{}")
    source.forget()
    return True


def _argument(source: Source) -> Steps[str | None]:
    """`key=value` as a member of a JSON object, up to the comma or bracket after it; None if none comes next."""
    key = yield from word(source)
    yield from spaces(source)
    if not key or not (yield from literal(source, "=")):
        return None
    begin = source.mark
    if not (yield from _value_ends(source)):
        return None
    value = python_to_json(source.kept(begin))
    return None if value is None else f"{json_text(key)}: {value}"


def _value_ends(source: Source) -> Steps[bool]:
    """Read a value up to the comma or closing bracket that is not part of it."""
    depth, quote = 0, ""
    while char := (yield from peek(source)):
        if char == "\\":
            source.take(source.at + 1)
            if (yield from peek(source)):
                source.take(source.at + 1)
        elif found := (_IN_STRING if quote else _PLAIN).match(source.text, source.at):
            source.take(found.end())
        elif quote:
            quote = "" if char == quote else quote
            source.take(source.at + 1)
        elif char in "'\"":
            quote = char
            source.take(source.at + 1)
        elif not depth and char in ",)]}":
            return char in ",)"
        else:
            depth += (char in "([{") - (char in ")]}")
            source.take(source.at + 1)
    return False
