"""White space between the tokens of JSON: one definite way of writing it, so that a form forces it.

As Python's json module writes it, `{"a": 1, "b": [2, 3]}`, or compact, `{"a":1,"b":[2,3]}`.
"""

from __future__ import annotations

import re

from ...lang.errors import InvalidRequest
from .dialect import Anchor, Chain, Choice, Leaf, Node, Repeat, parse

_WHITE_SPACE = frozenset(map(ord, " \t\n\r"))
_NAME = "constrained_json_whitespace_pattern"


def is_compact(pattern: str | None) -> bool:
    """Whether JSON is written compact where all white space in it has to match `pattern`; None asks for nothing.

    Raises InvalidRequest where neither way matches, and for a pattern of anything else than white space.
    """
    if pattern is None:
        return False
    try:
        tree = parse(pattern)
    except InvalidRequest as error:
        raise InvalidRequest(f"{_NAME}: {error}", param=_NAME) from None
    if not _is_white(tree):
        raise _wrong(pattern, "must match nothing but the white space of JSON")
    if re.fullmatch(pattern, "") is None:
        raise _wrong(pattern, "must match the empty text too, since nothing stands beside brackets")
    return re.fullmatch(pattern, " ") is None


def separators(*, compact: bool) -> tuple[str, str]:
    """What stands between items, and between a name and its value."""
    return (",", ":") if compact else (", ", ": ")


def _is_white(node: Node) -> bool:
    match node:
        case Leaf(ranges):
            return all(high <= ord(" ") and _WHITE_SPACE.issuperset(range(low, high + 1)) for low, high in ranges)
        case Chain(parts) | Choice(parts):
            return all(map(_is_white, parts))
        case Repeat(part):
            return _is_white(part)
        case Anchor():
            return True


def _wrong(pattern: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"{_NAME} {what}; give '[ \\n\\r\\t]*', say, or '' for none; got {pattern!r:.80}", param=_NAME
    )
