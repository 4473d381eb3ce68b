"""Llama 3: `{"name": "f", "parameters": {...}}` as the whole answer, or after `<|python_tag|>`; more after `;`."""

from __future__ import annotations

from collections.abc import Collection

from .calls import read_call
from .source import Source, Steps, literal, peek, spaces, until

TAG = "<|python_tag|>"


def read(source: Source, names: Collection[str]) -> Steps[None]:
    source.keep()
    yield from spaces(source)
    if (yield from peek(source)) == "{":
        yield from _calls(source, names)
    else:
        source.give_back()
    while mark := (yield from until(source, TAG, source.say)):
        source.keep(mark)
        yield from spaces(source)
        yield from _calls(source, names)


def _calls(source: Source, names: Collection[str]) -> Steps[None]:
    """One call after the other; what follows and is none is text."""
    while True:
        if not (yield from read_call(source, names, None)):
            source.give_back()
            return
        source.keep()
        yield from spaces(source)
        yield from literal(source, ";")
        yield from spaces(source)
        following = yield from peek(source)
        if following != "{":
            # what closes the last call is no text, what opens a text is
            if following:
                source.give_back()
            source.forget()
            return
