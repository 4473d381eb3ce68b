"""Which part of a schema is to blame where the whole of it was refused: parts are tried alone, the root's first."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

from llguidance import LLMatcher

from ...lang.errors import InvalidRequest
from .linter import refuse, too_large
from .llg_source import BYTES, LIMITS, speaks_of_limit, spelling
from .rewrite_scalars import spelled
from .rewrite_shapes import Unsupported
from .schema import emitted
from .schema_cost import MAX_SHORTEST, Node, prune, shortest_values
from .schema_places import keyword_place, place_of

_CONTRADICTION = "no value is valid under it: its rules contradict each other"


def is_placed(error: InvalidRequest) -> bool:
    """Whether it points at a part of the schema."""
    return error.param not in (None, "#")


def placed(error: InvalidRequest, text: str, example: Callable[[str], str | None]) -> InvalidRequest:
    """A refusal of the schema `text` as a whole, with the pointer of what is to blame, where that is found.

    error: by `rewrite_schema` or by llguidance; example: as `rewrite_schema` takes it
    """
    if is_placed(error):
        return error
    try:
        parts = _Parts(text, example)
    except InvalidRequest:  # it was never taken apart
        return _of_engine("", str(error)) if error.param is None else error
    return parts.blamed(error)


class _Parts:
    """The definitions to which a schema is rewritten."""

    def __init__(self, text: str, example: Callable[[str], str | None]) -> None:
        emitter, self._root = emitted(text)
        self._document = emitter.rewriter.document
        self._terms = emitter.terms
        self._written = emitter.definitions
        examples = {pattern: found for pattern in emitter.patterns if (found := example(pattern)) is not None}
        self._known = shortest_values(emitter.definitions, examples)
        self._kept = {n: prune(node, self._known) for n, node in self._written.items() if n in self._known.values}

    def blamed(self, error: InvalidRequest) -> InvalidRequest:
        values = self._known.values
        if self._root not in values:
            here = self._inwards(_needed, lambda names: any(name not in values for name in names))
            return refuse(self._place(here), _CONTRADICTION, "unsatisfiable_schema")
        if values[self._root].length > MAX_SHORTEST:
            here = self._inwards(_needed, lambda names: any(values[name].length > MAX_SHORTEST for name in names))
            return too_large(self._place(here), "bytes of the shortest value", values[here].length, MAX_SHORTEST)
        why = self._why_not([self._root])
        if why is None:  # llguidance found it out at a mask
            return _of_engine("", str(error)) if error.param is None else error
        if _is_contradiction(why):
            here = self._inwards(_needed, lambda names: _is_contradiction(self._why_not(names, every=True)))
        else:
            here = self._inwards(_mentioned, lambda names: self._why_not(names) is not None)
        return self._refusal(here)

    def _inwards(self, inner: Callable[[Any], list[str]], is_to_blame: Callable[[Sequence[str]], bool]) -> str:
        """The last definition on a way inwards on which each is to blame. is_to_blame: whether one of several is"""
        here, seen = self._root, {self._root}
        while True:
            names = [name for name in dict.fromkeys(inner(self._written[here])) if name not in seen]
            while len(names) > 1:
                half = names[: len(names) // 2]
                names = half if is_to_blame(half) else names[len(half) :]
            if not names or not is_to_blame(names):
                return here
            here = names[0]
            seen.add(here)

    def _why_not(self, names: Sequence[str], *, every: bool = False) -> str | None:
        """What llguidance has against values of these definitions. every: not one of them, but one of each"""
        refs = [{"$ref": f"#/$defs/{name}"} for name in names if name in self._kept]
        if not refs:
            return None
        of_each: Node = {"type": "array", "prefixItems": refs, "items": False, "minItems": len(refs)}
        return _objection({**(of_each if every else {"anyOf": refs}), "$defs": self._kept})

    def _refusal(self, name: str) -> InvalidRequest:
        term = self._terms[name]
        for pattern in _patterns(self._written[name]):
            why = _objection({"type": "string", "pattern": pattern})
            if why is not None:
                at, keyword = keyword_place(self._document, term, "pattern", lambda found, p=pattern: _is(found, p))
                return _of_engine(at, why, keyword)
        why = self._why_not([name]) or ""
        if "disjoint" in why:
            at, keyword = keyword_place(self._document, term, "patternProperties")
            return _of_engine(at, why, keyword)
        return _of_engine(self._place(name), why)

    def _place(self, name: str) -> str:
        return place_of(self._document, self._terms[name])


def _objection(schema: Node) -> str | None:
    source = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=spelling(compact=False))
    matcher = LLMatcher(BYTES.tokenizer, source, log_level=0, limits=LIMITS)
    return matcher.get_error() or "no reason given" if matcher.is_error() else None


def _of_engine(at: str, why: str, keyword: str | None = None) -> InvalidRequest:
    """A refusal in llguidance's words. A pattern is shown by it over several lines, and its fault in the last."""
    if _is_contradiction(why):
        return refuse(at, _CONTRADICTION, "unsatisfiable_schema")
    line = why.strip().splitlines()[-1 if keyword else 0].removeprefix("error: ")[:300]
    code = "schema_too_large" if speaks_of_limit(line) else "unsupported_schema_keyword"
    return refuse(at, f"{keyword!r} cannot be enforced: {line}" if keyword else line, code)


def _is_contradiction(why: str | None) -> bool:
    return why is not None and "nsatisfiable" in why


def _is(found: str, pattern: str) -> bool:
    try:
        return spelled(found) == pattern
    except Unsupported:
        return False


def _needed(node: Node | bool) -> list[str]:
    """The definitions of which each value holds one."""
    if isinstance(node, bool) or "anyOf" in node:
        return []
    properties = cast("dict[str, Any]", node.get("properties", {}))
    prefix, least = cast("list[Any]", node.get("prefixItems", [])), int(node.get("minItems", 0))
    parts = [properties[name] for name in node.get("required", []) if name in properties]
    parts += prefix[:least] + ([node["items"]] if least > len(prefix) else [])
    return [name for part in (node, *parts) for name in _target(part)]


def _mentioned(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for part in cast("list[Any]", node) for name in _mentioned(part)]
    if not isinstance(node, dict):
        return []
    found = cast("Node", node)
    return [*_target(found), *(name for part in found.values() for name in _mentioned(part))]


def _target(node: Any) -> list[str]:
    found = cast("Node", node) if isinstance(node, dict) else {}
    reference = found.get("$ref")
    return [reference.rpartition("/")[2]] if isinstance(reference, str) else []


def _patterns(node: Any) -> list[str]:
    """Of strings and names, in one definition."""
    if isinstance(node, list):
        return [pattern for part in cast("list[Any]", node) for pattern in _patterns(part)]
    if not isinstance(node, dict):
        return []
    found = cast("Node", node)
    own = [str(found["pattern"])] if "pattern" in found and found.get("type") == "string" else []
    names = list(cast("Node", found.get("patternProperties", {}))) if found.get("type") == "object" else []
    return own + names + [p for key in ("anyOf", "allOf") for p in _patterns(found.get(key))]
