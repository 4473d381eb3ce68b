"""Texts that have a pattern: with one of them a string can be ended that must have it."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, cast

from llguidance import LLMatcher, LLParserLimits

from ...lang.errors import InvalidRequest
from .dialect import Anchor, Chain, Choice, Leaf, Node, Repeat, parse
from .llg_closing import shortest_known
from .llg_source import BYTES

_SHORT = 32  # bytes of one that needs not be shorter
_NEAR, _FAR = 64, 256  # bytes of one that is looked for by chance, at first and where nothing else helps
_LONGEST_TAIL = 64  # characters of one that is offered piecemeal
_MOST_ENDINGS = 512
_LIMITS = LLParserLimits(verbose_errors=False)
# the sets are large: what can be read and needs no escape comes first
_LIKED = ((0x30, 0x39), (0x61, 0x7A), (0x41, 0x5A), (0x23, 0x5B), (0x5D, 0x7E), (0x20, 0x21))


class Examples:
    """Those of the patterns that were asked for. texts: all of them, without doubles"""

    def __init__(self) -> None:
        self._found: dict[str, None] = {}

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self._found)

    def of(self, pattern: str) -> str | None:
        """The shortest that is known, if any is."""
        found = _examples(pattern)
        self._found.update(dict.fromkeys(found))
        return min(found, key=len, default=None)

    def learn_names(self, schema: str) -> None:
        """Find some for the patterns of names in a plain schema, which have to be ended like any string."""
        pending: list[Any] = [json.loads(schema)] if '"patternProperties"' in schema else []
        while pending:
            found = pending.pop()
            if isinstance(found, dict):
                node = cast("dict[str, Any]", found)
                names = node.get("patternProperties", {})
                for pattern in cast("dict[str, Any]", names) if isinstance(names, dict) else ():
                    self.of(pattern)
                pending += node.values()
            elif isinstance(found, list):
                pending += cast("list[Any]", found)


def endings(examples: tuple[str, ...], *, is_json: bool = True) -> list[str]:
    """What may end a text that has begun: the examples, then their tails. In JSON as strings, the quote included."""
    short = [text for text in examples if len(text) <= _LONGEST_TAIL]
    tails = [text[start:] for text in short for start in range(1, len(text))]
    found = dict.fromkeys([*examples, *tails][:_MOST_ENDINGS])
    return [json.dumps(text, ensure_ascii=False)[1:] for text in found] if is_json else list(found)


@lru_cache(maxsize=512)
def _examples(pattern: str) -> tuple[str, ...]:
    """Found on the pattern alone: beside other text a search would rarely come to its end.

    By chance first, as reading a pattern costs more; and one of each choice, where the pattern as a whole is one.
    """
    matcher = LLMatcher(BYTES.tokenizer, LLMatcher.grammar_from_regex(pattern), log_level=0, limits=_LIMITS)
    if matcher.is_error():
        return ()
    by_chance = _by_chance(matcher, _NEAR)
    if "|" not in pattern and by_chance and len(by_chance[0]) <= _SHORT:
        return by_chance
    read = tuple(text for text in choices_of(pattern) if _is_said(matcher, text))
    return read or by_chance or _by_chance(matcher, _FAR)


def _by_chance(matcher: LLMatcher, limit: int) -> tuple[str, ...]:
    found = shortest_known(matcher, BYTES, limit, is_json=False, enough=_SHORT)
    text = None if found is None else bytes(found).decode("utf-8", "replace")
    return () if text is None or not _is_spelled(text) else (text,)


def _is_said(matcher: LLMatcher, text: str) -> bool:
    trial = matcher.deep_copy()
    return _is_spelled(text) and trial.consume_tokens(list(text.encode())) and trial.is_accepting()


def _is_spelled(text: str) -> bool:
    """Without \\uXXXX (see llg_source.py)."""
    return "\\u" not in json.dumps(text, ensure_ascii=False).replace("\\\\", "")


def choices_of(pattern: str) -> list[str]:
    """A short text of each of its choices, as Python reads them; none where it does not."""
    try:
        tree = parse(pattern)
    except InvalidRequest:
        return []
    options = tree.options if isinstance(tree, Choice) else (tree,)
    return [_text(option) for option in options]


def _text(node: Node) -> str:
    match node:
        case Leaf(ranges):
            liked = [max(low, least) for least, most in _LIKED for low, high in ranges if low <= most and high >= least]
            return chr(liked[0] if liked else ranges[0][0])
        case Chain(parts):
            return "".join(map(_text, parts))
        case Choice(options):
            return min(map(_text, options), key=len, default="")
        case Repeat(part, low, _):
            return _text(part) * low if low else ""
        case Anchor():
            return ""
