"""Where in a schema a refusal belongs: the place of the keyword that is to blame, wherever it was noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from ...lang.errors import InvalidRequest
from .linter import escaped, refuse
from .rewrite_shapes import All, Raw, Term, Unsupported
from .schema_document import Document

# keywords that speak of the same value as the schema they stand in, and at last of its names
_LISTS = ("allOf", "anyOf", "oneOf")
_SINGLE = ("not", "if", "then", "else")
_NAMED = ("dependentSchemas", "dependencies")
_MOST_LOOKED_AT = 2_000
# how else what a shape says may have been written
_SPELLINGS = {"enum": ("enum", "const")}


def place_of(document: Document, term: Term) -> str:
    """The pointer of a term; of one that joins several, of the first."""
    if isinstance(term, bool):
        return ""
    return document.place(term.parts[0] if isinstance(term, All) else term)[1]


def unsupported_in(document: Document, term: Term, error: Unsupported, keyword: str = "") -> InvalidRequest:
    """A refusal of what `term` says, or what it refers to.

    keyword: the one that was looked at, if the error has none
    """
    wanted = None if error.value is None else error.value.__eq__
    at, named = keyword_place(document, term, error.keyword or keyword, wanted)
    return refuse(at, f"{named!r} cannot be enforced: {error.why}", "unsupported_schema_keyword")


def keyword_place(
    document: Document, term: Term, keyword: str, is_wanted: Callable[[str], bool] | None = None
) -> tuple[str, str]:
    """The pointer of the keyword by which `term`, or what it refers to, says something, and the keyword found there;
    the pointer of the term where there is none.

    is_wanted: of several patterns, those of names included, whether it is this one
    """
    for raw in _in_place(document, term):
        node, pointer = document.node(raw), document.place(raw)[1]
        if is_wanted is not None:
            if "pattern" in node and is_wanted(node["pattern"]):
                return f"{pointer}/pattern", "pattern"
            names = cast("dict[str, Any]", node.get("patternProperties", {}))
            name = next(filter(is_wanted, names), None)
            if name is not None:
                return f"{pointer}/patternProperties/{escaped(name)}", "patternProperties"
            continue
        for spelling in _SPELLINGS.get(keyword, (keyword,)):
            if spelling in node:
                return f"{pointer}/{escaped(spelling)}", spelling
    return place_of(document, term), keyword


def _in_place(document: Document, term: Term) -> Iterator[Raw]:
    """The schemas that a value is held to where it is held to `term`, nearest first."""
    pending: list[Term] = [term]
    seen: set[Raw] = set()
    while pending and len(seen) < _MOST_LOOKED_AT:
        found = pending.pop(0)
        if isinstance(found, bool):
            continue
        for raw in found.parts if isinstance(found, All) else (found,):
            if raw not in seen:
                seen.add(raw)
                yield raw
                pending += _next(document, raw)


def _next(document: Document, raw: Raw) -> list[Term]:
    node = document.node(raw)
    base, pointer = document.place(raw)
    found: list[Term] = []
    if "$ref" in node:
        found.append(document.resolve(raw, node["$ref"]))
        if document.draft <= 7:
            return found
    inside: list[tuple[str, Any]] = [(f"{key}/{i}", part) for key in _LISTS for i, part in enumerate(node.get(key, []))]
    inside += [(key, node[key]) for key in _SINGLE if key in node]
    for key in _NAMED:
        named = cast("dict[str, Any]", node.get(key, {}))
        inside += [(f"{key}/{escaped(name)}", part) for name, part in named.items() if not isinstance(part, list)]
    inside += [(key, node[key]) for key in ("propertyNames",) if key in node]
    return found + [document.term(part, base, f"{pointer}/{path}") for path, part in inside]
