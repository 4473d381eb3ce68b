"""From the definitions of a plain schema (rewrite_emit.py) to the form of its texts, where that is regular.

Not regular, or not surely said as llguidance says it: references that lead back to themselves, anything at all, names
by a pattern, decimals that are multiples, patterns that the two dialects may read differently. Such a schema is left to
llguidance. What is here says exactly the same texts as it does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast

from .form import (
    EMPTY,
    NOTHING,
    Both,
    Form,
    Listed,
    Said,
    Times,
    any_of,
    letters,
    row,
    said,
    string,
    string_but,
    word,
)
from .form_numbers import Bound, decimal, whole
from .form_patterns import format_form, pattern_form
from .spelling import separators

Node = dict[str, Any]
# what lies within each other, written by functions that call each other: definitions, items of their own kinds, and the
# letters of names that other names must differ from
_DEEPEST = 64


class IrregularError(Exception):
    """What has no form here: the name of the definition that it stands in, the keyword if it is one, and why."""

    def __init__(self, name: str, keyword: str, why: str) -> None:
        super().__init__(f"{keyword!r}: {why}" if keyword else why)
        self.name, self.keyword = name, keyword


def schema_form(
    definitions: Mapping[str, Node | bool], root: str, most: int | None = None, *, compact: bool = False
) -> Form:
    """Raises IrregularError at the first thing that has no form; and where `most` is given, at the first string of any
    letters, and behind so many definitions: none of these is small.
    """
    return _Writer(definitions, most, compact).definition(root)


class _Writer:
    def __init__(self, definitions: Mapping[str, Node | bool], most: int | None, compact: bool) -> None:
        self.definitions, self.most = definitions, most
        self.comma, self.colon = map(said, separators(compact=compact))
        self.open = [""]  # definitions that lie around what is being written
        self.known: dict[str, Form] = {}

    def definition(self, name: str) -> Form:
        if name in self.open:
            self.refuse("$ref", "it leads back to itself")
        if len(self.open) > _DEEPEST:
            self.refuse("", f"more than {_DEEPEST} schemas within each other have no automaton")
        if name not in self.known:
            if len(self.known) == self.most:
                self.refuse("", f"more than {self.most} schemas are not small")
            self.open.append(name)
            self.known[name] = self.form(self.definitions[name])
            self.open.pop()
        return self.known[name]

    def refuse(self, keyword: str, why: str) -> Any:
        raise IrregularError(self.open[-1], keyword, why)

    def form(self, node: Node | bool) -> Form:
        if isinstance(node, bool):
            return self.refuse("", "anything may stand there") if node else NOTHING
        if "$ref" in node:
            return self.definition(str(node["$ref"]).rpartition("/")[2])
        if "anyOf" in node:
            return any_of([self.form(option) for option in node["anyOf"]])
        if "const" in node:
            return said(json.dumps(node["const"]))
        match node.get("type", "string"):
            case "null":
                return Said(b"null")
            case "boolean":
                return any_of([Said(b"true"), Said(b"false")])
            case "integer" | "number":
                return self.number(node)
            case "array":
                return self.array(node)
            case "object":
                return self.object(node)
            case _ if self.most is not None and node.keys().isdisjoint(("allOf", "enum", "pattern", "format")):
                return self.refuse("type", "strings of any letters are not small")
            case _:
                return string(self.text(node))

    def number(self, node: Node) -> Form:
        low = _bound(node, "minimum", "exclusiveMinimum")
        high = _bound(node, "maximum", "exclusiveMaximum")
        if node["type"] == "integer":
            return whole(low, high, node.get("multipleOf"))
        if "multipleOf" in node:
            return self.refuse("multipleOf", "decimals that are multiples have no automaton")
        return decimal(low, high)

    def text(self, node: Node) -> Form:
        """What stands between the quotes of a string."""
        if "allOf" in node:
            first, *more = map(self.text, node["allOf"])
            for part in more:
                first = part if first == letters() else Both(first, part)
            return first
        length = letters(int(node.get("minLength", 0)), node.get("maxLength"))
        found: Form | None = length
        if "enum" in node:
            found = any_of([Said(word(value).text[1:-1]) for value in node["enum"]])
        elif "pattern" in node:
            found = pattern_form(node["pattern"])
        elif "format" in node:
            found = format_form(node["format"])
        if found is None:
            keyword = "pattern" if "pattern" in node else "format"
            return self.refuse(keyword, f"the automaton does not read {node[keyword]!r}")
        return found if length in (found, letters()) else Both(found, length)

    def array(self, node: Node) -> Form:
        prefix = cast("list[Node | bool]", node.get("prefixItems", []))
        if len(prefix) > _DEEPEST:
            return self.refuse("prefixItems", f"more than {_DEEPEST} have no automaton")
        least, most = int(node.get("minItems", 0)), cast("int | None", node.get("maxItems"))
        if not prefix:
            return row(Said(b"["), self.many(self.items(node, most), least, most), Said(b"]"))
        more = None if most is None else max(most - len(prefix), 0)
        behind = self.behind(self.items(node, more), max(least - len(prefix), 0), more)
        for index in reversed(range(len(prefix) if most is None else min(len(prefix), most))):
            item = row(self.form(prefix[index]), behind)
            behind = row(self.comma, item) if index else item
            if index >= least:
                behind = EMPTY if behind == NOTHING else Times(behind, 0, 1)
        return row(Said(b"["), behind, Said(b"]"))

    def items(self, node: Node, most: int | None) -> Form:
        return NOTHING if most == 0 else self.form(node["items"])

    def object(self, node: Node) -> Form:
        if "patternProperties" in node:
            return self.refuse("patternProperties", "names by a pattern have no automaton")
        required = set(cast("list[str]", node.get("required", [])))
        listed: list[tuple[Form, bool]] = []
        for name, schema in node.get("properties", {}).items():
            value = self.form(schema)
            if value != NOTHING:
                listed.append((row(word(name), self.colon, value), name in required))
            elif name in required:
                return NOTHING
        others = self.others(node, len(required), any(not is_required for _, is_required in listed))
        if others is not None:
            listed.append(others)
        return NOTHING if others == (NOTHING, True) else row(Said(b"{"), Listed(tuple(listed), self.comma), Said(b"}"))

    def others(self, node: Node, required: int, some_optional: bool) -> tuple[Form, bool] | None:
        """Properties that are not listed, and whether there must be some; None where there are none."""
        least = max(int(node.get("minProperties", 0)) - required, 0)
        most = node["maxProperties"] - required if "maxProperties" in node else None
        if some_optional and (least or most is not None):
            return self.refuse("minProperties", "a number of properties that may be missing has no automaton")
        if node["additionalProperties"] is False or most == 0:
            return (NOTHING, True) if least else None
        value = self.form(node["additionalProperties"])
        if value == NOTHING:
            return (NOTHING, True) if least else None
        names = list(node.get("properties", {}))
        if any(len(name) > _DEEPEST for name in names):
            return self.refuse(
                "additionalProperties", f"beside a name of more than {_DEEPEST} letters it has no automaton"
            )
        name = string_but(names)
        return self.many(row(name, self.colon, value), max(least, 1), most), least > 0

    def many(self, item: Form, least: int, most: int | None) -> Form:
        """Items with commas between them."""
        if most == 0 or item == NOTHING:
            return NOTHING if least else EMPTY
        some = row(item, self.behind(item, max(least - 1, 0), None if most is None else most - 1))
        return some if least else Times(some, 0, 1)

    def behind(self, item: Form, least: int, most: int | None) -> Form:
        """Items with a comma before each."""
        if most == 0 or item == NOTHING:
            return NOTHING if least else EMPTY
        return Times(row(self.comma, item), least, most)


def _bound(node: Node, keyword: str, exclusive: str) -> Bound | None:
    for name in (keyword, exclusive):
        if name in node:
            value = node[name]
            return Fraction(value) if isinstance(value, int) else Fraction(repr(value)), name == exclusive
    return None
