"""Numbers and strings as plain schemas: what llguidance reads otherwise than JSON Schema does is spelled out."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from .rewrite_shapes import Number, String, Unsupported
from .schema_formats import PATTERNS, REFUSED

Node = dict[str, Any]
_SAFE = Fraction(2**53)
_LAST_REPEAT = re.compile(r"(.*[\])A-Za-z0-9_])\{(\d+),\d*\}", re.DOTALL)
# a set of characters in a pattern, or an escaped character outside of one
_SET = re.compile(r"\\.|\[(\^\]?)?(?:\\.|[^\]\\])*\]", re.DOTALL)
_BACK_REFERENCE = re.compile(r"(?:[^\\]|^)(?:\\\\)*\\(?:[1-9]|k<)")
_UNSPELLED = re.compile(r"[\x00-\x07\x0b\x0e-\x1f]")
_CONTROL_ESCAPE = re.compile(r"\\(?:x[01]|x\{0*1?[0-9a-fA-F]\}|u00[01]|u\{0*1?[0-9a-fA-F]\}|c[A-Za-z]|[0-7ave])")
# which no short escape says either, and which llguidance leaves out of a text where it stands alone
_DEL = re.compile(r"\x7f|\\(?:x7f|x\{0*7f\}|u007f|u\{0*7f\})", re.IGNORECASE)


def number_nodes(shape: Number) -> list[Node]:
    if shape.excluded:
        return [node for part in _around(shape) if not part.is_empty for node in number_nodes(part)]
    point = shape.point
    if point is not None:
        return [{"type": "integer" if point.denominator == 1 else "number", **_exact("minimum", "maximum", point)}]
    step = shape.step
    low, high = _off_whole(shape)
    node: Node = {"type": "integer" if step is not None and step.denominator == 1 else "number"}
    if low is not None:
        node.update(_exact("exclusiveMinimum" if low[1] else "minimum", None, low[0]))
    if high is not None:
        node.update(_exact("exclusiveMaximum" if high[1] else "maximum", None, high[0]))
    if step is not None and step != 1:
        node.update(_exact("multipleOf", None, step))
    return [node]


def _around(shape: Number) -> list[Number]:
    """The stretches between the numbers left out."""
    found: list[Number] = []
    low = shape.low
    for value in sorted(shape.excluded):
        if (low is not None and value < low[0]) or (shape.high is not None and value > shape.high[0]):
            continue
        found.append(Number(low=low, high=(value, True), integer=shape.integer, multiple=shape.multiple))
        low = (value, True)
    found.append(Number(low=low, high=shape.high, integer=shape.integer, multiple=shape.multiple))
    return found


def _off_whole(shape: Number) -> tuple[tuple[Fraction, bool] | None, tuple[Fraction, bool] | None]:
    """The bounds. Where a whole number is left out, and no other lies between them, llguidance takes it all the same:
    that bound is brought in by less than a thousandth of what lies between, and values so near to it are not said.
    """
    low, high = shape.low, shape.high
    if low is None or high is None:
        return low, high
    gap = Fraction(1, 1000)
    while gap * 1000 > high[0] - low[0]:
        gap /= 10
    gap = gap if shape.multiple is None else min(gap, shape.multiple)
    if low[1] and low[0].denominator == 1 and low[0] >= 0 and high[0] < low[0] + 1:
        return (low[0] + gap, False), high
    if high[1] and high[0].denominator == 1 and high[0] <= 0 and low[0] > high[0] - 1:
        return low, (high[0] - gap, False)
    return low, high


def _exact(keyword: str, second: str | None, value: Fraction) -> Node:
    """A bound as the engine reads it, which is in double precision.

    A limit beyond 2**53 is brought down to it: no more does RFC 8259 (section 6) let two readers agree on.
    """
    if keyword.lower().endswith("maximum") and value > _SAFE:
        value = _SAFE
    elif keyword.lower().endswith("minimum") and value < -_SAFE:
        value = -_SAFE
    number = int(value) if value.denominator == 1 else float(value)
    if abs(value) > _SAFE or Fraction(repr(float(value))) != value:
        raise Unsupported(keyword, f"{number} has more digits than the engine compares")
    return {keyword: number} if second is None else {keyword: number, second: number}


def string_nodes(shape: String) -> list[Node]:
    refused = [name for name in shape.formats if name in REFUSED]
    if refused:
        raise Unsupported("format", f"{refused[0]!r} is a format that the engine cannot enforce")
    if shape.not_patterns:
        raise Unsupported("not", "strings without a pattern in them cannot be enumerated")
    if any(_UNSPELLED.search(value) or "\x7f" in value for value in shape.values or ()):
        raise Unsupported("enum", "control characters that have no short escape are not spelled")
    rules: list[Node] = [{"pattern": spelled(pattern)} for pattern in shape.patterns]
    rules += [{"pattern": PATTERNS[name]} if name in PATTERNS else {"format": name} for name in shape.formats]
    if shape.excluded:
        rules.append({"pattern": spelled(f"^{_without_words(sorted(shape.excluded))}$")})
    if shape.values is not None:
        if not rules:
            return [{"enum": list(shape.values)}]
        rules.append({"enum": list(shape.values)})
    node: Node = {"type": "string"}
    if shape.min_length:
        node["minLength"] = shape.min_length
    if shape.max_length is not None:
        node["maxLength"] = shape.max_length
    if len(rules) == 1:
        return [{**node, **rules[0]}]
    return [{"allOf": [node, *({"type": "string", **rule} for rule in rules)]}] if rules else [node]


def spelled(pattern: str) -> str:
    """Without \\uXXXX (see llg_source.py) the engine would leave out a control character that a pattern asks for."""
    if _BACK_REFERENCE.search(pattern):
        raise Unsupported("pattern", "it refers back to one of its groups", pattern)
    outside = _SET.sub(lambda found: found[0] if found[0].startswith("\\") else "", pattern)
    if _UNSPELLED.search(pattern) or _CONTROL_ESCAPE.search(pattern) or _DEL.search(outside):
        raise Unsupported("pattern", "control characters that have no short escape are not spelled", pattern)
    pattern = _SET.sub(_without_nul, pattern)
    # where a search ends with a repeat, the least of it is as good as more, and much less to build
    repeat = _LAST_REPEAT.fullmatch(pattern)
    return pattern if repeat is None or "|" in pattern else f"{repeat[1]}{{{repeat[2]}}}"


def _without_nul(found: re.Match[str]) -> str:
    """A set by what is not in it says that NUL, which is not spelled anyway, is not either: llguidance takes escaped
    quotes and backslashes, in or not, for parts of a set that has all control characters, or all but the line feed.
    """
    head = found[1]
    return f"[{head}\\x00{found[0][1 + len(head) :]}" if head else found[0]


def _without_words(words: list[str]) -> str:
    """A pattern of all strings but these."""
    first = sorted({word[0] for word in words if word})
    parts = ["" if "" not in words else None]
    for letter in first:
        rest = [word[1:] for word in words if word[:1] == letter]
        parts.append(f"{_letter(letter)}{_without_words(rest)}")
    other = f"[^{''.join(map(_letter, first))}]" if first else r"[\s\S]"
    parts.append(rf"{other}[\s\S]*")
    return f"(?:{'|'.join(part for part in parts if part is not None)})"


def _letter(letter: str) -> str:
    return letter if letter.isascii() and letter.isalnum() else rf"\x{{{ord(letter):x}}}"
