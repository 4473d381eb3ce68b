"""Calls written as JSON: `{"name": "f", "arguments": {...}}`, as most formats have them inside their marks.

A call is announced once its name, which must be one that was offered, and the opening brace of its arguments are
there; from then on its arguments are passed on as the model writes them. Other orders of the keys, and arguments that
are a string of JSON, are understood too, at the end of the object.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, cast

from .json_scan import JsonScanner
from .source import Source, Steps, everything, literal, more, peek, spaces, until

_ARGUMENTS = ("arguments", "parameters")  # the second is Llama's word


def read_call(source: Source, names: Collection[str], end: str | None) -> Steps[bool]:
    """Read one call. False: it is none, and what was read of it is among what the source keeps.

    end: the mark up to which broken arguments go; None: they go on to the end of the answer
    """
    begin = source.mark
    if not (yield from literal(source, "{")):
        return False
    yield from spaces(source)
    if (yield from literal(source, '"name"')) and (yield from _colon(source)):
        name = yield from _string(source)
        if name is None or name not in names:
            return False
        if (yield from _arguments_begin(source)):
            yield from read_arguments(source, name, end, wrapped=True)
            return True
    return (yield from _whole(source, names, begin))


def read_arguments(source: Source, name: str, end: str | None, *, wrapped: bool) -> Steps[None]:
    """The call with its arguments, of which the opening brace comes next; `wrapped`: inside an object that ends too."""
    source.call(name)
    scanner = JsonScanner()
    yield from _scan(source, scanner, say=True)
    if scanner.state == "bad":
        # the model's own words, as OpenAI's clients expect them: they read arguments with care
        yield from until(source, end, source.argue) if end else everything(source, source.argue)
    elif wrapped:
        yield from _close(source)


def _colon(source: Source) -> Steps[bool]:
    yield from spaces(source)
    found = yield from literal(source, ":")
    yield from spaces(source)
    return found


def _arguments_begin(source: Source) -> Steps[bool]:
    """After the name: read up to the opening brace of the arguments, if an object of arguments comes next."""
    yield from spaces(source)
    if not (yield from literal(source, ",")):
        return False
    yield from spaces(source)
    for key in _ARGUMENTS:
        if (yield from literal(source, f'"{key}"')):
            return (yield from _colon(source)) and (yield from peek(source)) == "{"
    return False


def _close(source: Source) -> Steps[None]:
    """The rest of the object around the arguments. Small models forget its brace, others add keys of their own."""
    scanner = JsonScanner()
    scanner.scan('{"":0 ', 0)
    source.keep()
    yield from spaces(source)
    yield from _scan(source, scanner)
    if scanner.state == "done" or not source.kept().strip():
        source.forget()
    else:
        source.give_back()


def _scan(source: Source, scanner: JsonScanner, *, say: bool = False) -> Steps[None]:
    """Read until the scanner is done, or cannot go on; with `say` what is read are arguments."""
    while True:
        taken = source.take(scanner.scan(source.text, source.at))
        if say:
            source.argue(taken)
        if scanner.state != "inside" or not (yield from more(source)):
            return


def _string(source: Source) -> Steps[str | None]:
    """A JSON string; None if none comes next."""
    if (yield from peek(source)) != '"':
        return None
    begin, scanner = source.mark, JsonScanner()
    yield from _scan(source, scanner)
    return cast(str, json.loads(source.kept(begin))) if scanner.state == "done" else None


def _whole(source: Source, names: Collection[str], begin: int) -> Steps[bool]:
    """A call that can be understood only at its end."""
    scanner = JsonScanner()
    scanner.scan(source.kept(begin), 0)
    if scanner.state == "inside":
        yield from _scan(source, scanner)
    if scanner.state != "done":
        return False
    call = _understood(source.kept(begin), names)
    if call is None:
        return False
    source.call(call[0])
    source.argue(call[1])
    return True


def _understood(text: str, names: Collection[str]) -> tuple[str, str] | None:
    """Name and arguments of a call."""
    try:
        found = cast("dict[str, Any]", json.loads(text))
        name = found.get("name")
        given = found.get("arguments", found.get("parameters", {}))
        arguments: object = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        return None
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    return name, json_text(cast(object, arguments))


def json_text(value: object) -> str:
    """`value` as JSON, with escapes only where the text could not be sent without."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
