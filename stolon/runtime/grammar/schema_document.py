"""A schema with its references resolved, and room for schemas that are written in place of others."""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import unquote, urljoin

from ...lang.errors import InvalidRequest
from .linter import refuse, subschemas
from .rewrite_shapes import Raw, Term

_DRAFTS = {"draft-03": 3, "draft-04": 4, "draft-06": 6, "draft-07": 7, "2019-09": 8, "2020-12": 9}
NEWEST = 9


class Document:
    """Numbers every schema object, so that a term can name it; two terms of one object are equal."""

    def __init__(self, root: Any) -> None:
        self._nodes: list[dict[str, Any]] = []
        self._places: list[tuple[str, str]] = []
        self._keys: dict[int, int] = {}
        self._by_uri: dict[str, dict[str, Any]] = {}
        self._bases: dict[int, str] = {}
        self._pointers: dict[int, str] = {}
        self._dynamic: dict[str, list[dict[str, Any]]] = {}
        self.has_unevaluated = False
        self.draft = _draft_of(root)
        self._index(root)
        self.root = self.term(root, "", "")

    def term(self, node: Any, base: str, pointer: str) -> Term:
        """The term of a schema that lies in the resource of the URI `base`.

        pointer: where it was found; what was written in a schema's place has that of the schema
        """
        if isinstance(node, bool):
            return node
        assert isinstance(node, dict)
        found = cast("dict[str, Any]", node)
        if id(found) not in self._keys:
            self._keys[id(found)] = len(self._nodes)
            self._nodes.append(found)
            self._places.append((self._bases.get(id(found), base), self._pointers.get(id(found), pointer)))
        return Raw(self._keys[id(found)])

    def node(self, raw: Raw) -> dict[str, Any]:
        return self._nodes[raw.key]

    def place(self, raw: Raw) -> tuple[str, str]:
        """The base URI and the pointer of a schema."""
        return self._places[raw.key]

    def written(self, raw: Raw, node: Any) -> Term:
        """The term of a schema that stands for a part of `raw`, in the same place."""
        return self.term(node, *self.place(raw))

    def resolve(self, raw: Raw, reference: str) -> Term:
        """What a `$ref` of `raw` names. Raises InvalidRequest (code "unresolvable_ref")."""
        base, pointer = self.place(raw)
        target = urljoin(base, reference)
        resource, _, fragment = target.partition("#")
        root = self._by_uri.get(resource)
        fragment = unquote(fragment)
        if root is None:
            raise _unresolvable(pointer, reference, "it is outside of this schema, and nothing is fetched")
        if not fragment:
            return self.term(root, resource, "")
        if not fragment.startswith("/"):
            named = self._by_uri.get(f"{resource}#{fragment}")
            if named is None:
                raise _unresolvable(pointer, reference, "there is no such anchor")
            return self.term(named, resource, f"#{fragment}")
        return self._walk(root, resource, fragment, _unresolvable(pointer, reference, "there is nothing there"))

    def dynamic_target(self, raw: Raw, reference: str) -> Term | None:
        """What a `$dynamicRef` names where that does not depend on the way taken; else None."""
        name = reference.rpartition("#")[2]
        if len(self._dynamic.get(name, [])) > 1:
            return None
        return self.resolve(raw, reference)

    def _walk(self, root: dict[str, Any], base: str, path: str, error: InvalidRequest) -> Term:
        found: Any = root
        for segment in path[1:].split("/"):
            key = segment.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = cast("dict[str, Any]", found)[key]
            elif isinstance(found, list) and re.fullmatch("[0-9]{1,6}", key):
                found = next(iter(cast("list[Any]", found)[int(key) :]), None)
            else:
                raise error
            if isinstance(found, dict):
                base = self._bases.get(id(cast("dict[str, Any]", found)), base)
        if not isinstance(found, (dict, bool)):
            raise error
        return self.term(found, base, f"{self._pointers.get(id(root), '')}{path}")

    def _index(self, root: Any) -> None:
        """Find the identifiers; schemas under keywords that are no schemas' have none."""
        self._by_uri[""] = root
        bases: dict[str, str] = {}
        for pointer, node in subschemas(root, ""):
            base = next((bases[p] for p in _prefixes(pointer) if p in bases), "")
            if not isinstance(node, dict):
                continue
            found = cast("dict[str, Any]", node)
            self._pointers[id(found)] = pointer
            own = found.get("$id", found.get("id") if self.draft <= 4 else None)
            if isinstance(own, str) and not (self.draft <= 7 and "$ref" in found):
                base = self._identify(found, urljoin(base, own))
            if not pointer and base:
                self._by_uri[base.partition("#")[0]] = root
            bases[pointer] = base.partition("#")[0]
            self._bases[id(found)] = bases[pointer]
            for anchor in ("$anchor", "$dynamicAnchor"):
                if isinstance(found.get(anchor), str):
                    self._by_uri[f"{bases[pointer]}#{found[anchor]}"] = found
            if isinstance(found.get("$dynamicAnchor"), str):
                self._dynamic.setdefault(found["$dynamicAnchor"], []).append(found)
            if "unevaluatedProperties" in found or "unevaluatedItems" in found:
                self.has_unevaluated = True

    def _identify(self, node: dict[str, Any], uri: str) -> str:
        resource, _, fragment = uri.partition("#")
        # before draft 2019-09 a plain name was an `$id` that is only a fragment
        self._by_uri[uri if fragment else resource] = node
        return resource


def _prefixes(pointer: str) -> list[str]:
    """The pointer and those of all that it lies in, innermost first."""
    found = [pointer]
    while pointer:
        pointer = pointer.rpartition("/")[0]
        found.append(pointer)
    return found


def _draft_of(root: Any) -> int:
    named = str(cast("dict[str, Any]", root).get("$schema", "")) if isinstance(root, dict) else ""
    return next((number for word, number in _DRAFTS.items() if f"json-schema.org/{word}" in named
                 or f"json-schema.org/draft/{word}" in named), NEWEST)  # fmt: skip


def _unresolvable(pointer: str, reference: str, why: str) -> InvalidRequest:
    return refuse(f"{pointer}/$ref", f"$ref {reference[:200]!r} cannot be resolved: {why}", "unresolvable_ref")
