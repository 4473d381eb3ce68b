"""`<think>...</think>`: what a reasoning model says to itself before it answers."""

from __future__ import annotations

from .source import Source, Steps, literal, spaces, until

BEGIN, END = "<think>", "</think>"


def read(source: Source, *, inside: bool) -> Steps[None]:
    """The thought at the start of an answer, if there is one. `inside`: the prompt has begun it.

    White space next to the marks is part of the marks.
    """
    if not inside:
        source.keep()
        yield from spaces(source)
        if not (yield from literal(source, BEGIN)):
            source.give_back()
            return
        source.forget()
    yield from spaces(source)
    yield from until(source, END, source.think)
    yield from spaces(source)
