"""Which definitions have a value at all, how short the shortest is, and how far one opened value may move the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from .linter import refuse

Node = dict[str, Any]
MAX_SHORTEST = 65_536  # bytes of a value that are written out
_PATTERN_GUESS = 64


@dataclass(frozen=True, slots=True)
class Shortest:
    """text: a value, or None where only the engine could write one; length: of it in bytes, or a guess"""

    length: int
    text: str | None


@dataclass(frozen=True, slots=True)
class Known:
    """values: the shortest of each definition that has one; examples: a text for each pattern for which one is known"""

    values: dict[str, Shortest]
    examples: Mapping[str, str]


def shortest_values(definitions: dict[str, Node | bool], examples: Mapping[str, str]) -> Known:
    """The shortest values of the definitions: the least fixed point over their references."""
    found = Known({}, examples)
    changed = True
    while changed:
        changed = False
        # backwards: a definition is mostly written before those that it refers to
        for name, node in reversed(definitions.items()):
            now = _shortest(node, found)
            if now is not None and (name not in found.values or now.length < found.values[name].length):
                found.values[name] = now
                changed = True
    return found


def prune(node: Node | bool, inhabited: Known) -> Node | bool:
    """A schema without the choices and properties that no value has."""
    if isinstance(node, bool):
        return node
    if "$ref" in node:
        return node if _target(node) in inhabited.values else False
    if "anyOf" in node:
        kept = [part for part in (prune(one, inhabited) for one in node["anyOf"]) if part is not False]
        return False if not kept else kept[0] if len(kept) == 1 else {"anyOf": kept}
    if _shortest(node, inhabited) is None:
        return False
    pruned = dict(node)
    for keyword in ("properties", "patternProperties"):
        if keyword in node:
            pruned[keyword] = {name: prune(part, inhabited) for name, part in node[keyword].items()}
    for keyword in ("items", "additionalProperties"):
        if keyword in node:
            pruned[keyword] = prune(node[keyword], inhabited)
    if "prefixItems" in node:
        pruned["prefixItems"] = [prune(part, inhabited) for part in node["prefixItems"]]
    return pruned


def jump(definitions: dict[str, Node | bool], found: Known) -> int:
    """The most bytes that beginning one value, or one property, may add to the way to an end."""
    return max((_worst(node, found) for node in definitions.values()), default=0) + 4


def _target(node: Node) -> str:
    return str(node["$ref"]).rpartition("/")[2]


def _worst(node: Node | bool, found: Known) -> int:
    if isinstance(node, bool):
        return 4
    if "anyOf" in node:
        return max(_worst(part, found) for part in node["anyOf"])
    own = _shortest(node, found)
    most = own.length if own else 0
    if "$ref" in node or own is None:
        return most
    for name, part in {**node.get("properties", {}), **node.get("patternProperties", {})}.items():
        least = _shortest(part, found)
        most = max(most, len(json.dumps(name)) + 4 + least.length) if least else most
    for part in (node.get("items", False), node.get("additionalProperties", False), *node.get("prefixItems", [])):
        least = _shortest(part, found)
        most = max(most, 6 + least.length) if least else most
    return max(most, *(len(json.dumps(value)) for value in node.get("enum", [""])))


def _shortest(node: Node | bool, found: Known) -> Shortest | None:
    if isinstance(node, bool):
        return Shortest(1, "0") if node else None
    if "$ref" in node:
        return found.values.get(_target(node))
    if "anyOf" in node:
        options = [one for part in node["anyOf"] if (one := _shortest(part, found)) is not None]
        return min(options, key=lambda one: one.length, default=None)
    if "const" in node:
        return _written(json.dumps(node["const"]))
    if "allOf" in node:
        return Shortest(_PATTERN_GUESS + int(node["allOf"][0].get("minLength", 0)), None)
    if "enum" in node and "type" not in node:
        return _written(min((json.dumps(value, ensure_ascii=False) for value in node["enum"]), key=len))
    match node["type"]:
        case "null":
            return _written("null")
        case "boolean":
            return _written("true")
        case "string":
            return _string(node, found)
        case "array":
            return _array(node, found)
        case "object":
            return _object(node, found)
        case _:
            return _number(node)


def _written(text: str) -> Shortest:
    return Shortest(len(text.encode()), text)


def _string(node: Node, found: Known) -> Shortest:
    least = int(node.get("minLength", 0))
    example = found.examples.get(str(node.get("pattern", node.get("format"))))
    if example is not None and least <= len(example) <= node.get("maxLength", len(example)):
        return _written(json.dumps(example, ensure_ascii=False))
    if "pattern" in node or "format" in node or "enum" in node:
        return Shortest(_PATTERN_GUESS + least, None)
    return Shortest(least + 2, json.dumps("a" * least))


def _number(node: Node) -> Shortest:
    low, high = node.get("minimum", node.get("exclusiveMinimum")), node.get("maximum", node.get("exclusiveMaximum"))
    if (low is None or low < 0) and (high is None or high > 0):
        return _written("0")
    step = Fraction(repr(node["multipleOf"])) if "multipleOf" in node else Fraction(1)
    bound = Fraction(repr(low if low is not None else high))
    value = bound // step * step
    if low is not None and (value < bound or (value == bound and "minimum" not in node)):
        value += step
    if low is None and value == bound and "maximum" not in node:
        value -= step
    # where this is not a value after all, the engine refuses it, and another is looked for
    return _written(str(int(value)) if value.denominator == 1 else repr(float(value)))


def _array(node: Node, found: Known) -> Shortest | None:
    prefix = cast("list[Node | bool]", node.get("prefixItems", []))
    parts: list[Shortest] = []
    least = int(node.get("minItems", 0))
    for index in range(min(least, len(prefix) + 1)):
        part = _shortest(prefix[index] if index < len(prefix) else node["items"], found)
        if part is None:
            return None
        parts += [part] * (1 if index < len(prefix) else least - index)
    return _joined("[", [("", part) for part in parts], "]")


def _object(node: Node, found: Known) -> Shortest | None:
    parts: list[tuple[str, Shortest]] = []
    required = node.get("required", [])
    for name, schema in node.get("properties", {}).items():
        if name in required:
            part = _shortest(schema, found)
            if part is None:
                return None
            parts.append((f"{json.dumps(name, ensure_ascii=False)}: ", part))
    if node.get("minProperties", 0) > len(required):
        options = [node["additionalProperties"], *node.get("patternProperties", {}).values()]
        extra = [one for part in options if (one := _shortest(part, found)) is not None]
        if not extra:
            return None
        parts.append(('"a": ', Shortest(min(one.length for one in extra) + 5, None)))
    return _joined("{", parts, "}")


def _joined(opening: str, parts: list[tuple[str, Shortest]], closing: str) -> Shortest:
    length = 2 + 2 * max(0, len(parts) - 1) + sum(len(head.encode()) + part.length for head, part in parts)
    if length > MAX_SHORTEST or any(part.text is None for _, part in parts):
        return Shortest(length, None)
    return Shortest(length, opening + ", ".join(f"{head}{part.text}" for head, part in parts) + closing)


def check_inhabited(root: str, found: Known) -> Shortest:
    if root not in found.values:
        raise refuse("", "no value is valid under it: its rules contradict each other", "unsatisfiable_schema")
    return found.values[root]
