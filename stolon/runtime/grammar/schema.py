"""The JSON-schema front end: from a schema's text to a plain schema that llguidance reads exactly, or to a form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from .form import Form
from .form_schema import IrregularError, schema_form
from .linter import parse, too_large
from .rewrite import Rewriter
from .rewrite_emit import Emitter
from .schema_cost import MAX_SHORTEST, Node, check_inhabited, jump, prune, shortest_values
from .schema_document import Document
from .schema_places import keyword_place
from .spelling import separators


@dataclass(frozen=True, slots=True)
class PlainSchema:
    """text: the schema as JSON; completion: a short value of it, where one is known; jump: see schema_cost.jump;
    is_plain: whether it has no patterns
    """

    text: str
    completion: str | None
    jump: int
    is_plain: bool = False


def rewrite_schema(
    text: str, example: Callable[[str], str | None] | None = None, *, compact: bool = False
) -> PlainSchema:
    """`example` finds a text that has a pattern; without it the short value stays unknown where patterns are asked for.

    Raises InvalidRequest with the JSON pointer as `param` and one of the codes "invalid_schema",
    "unsupported_schema_keyword", "unsatisfiable_schema", "schema_too_large" and "unresolvable_ref".
    """
    emitter, root = emitted(text)
    tried = {pattern: example(pattern) for pattern in emitter.patterns} if example else {}
    examples = {pattern: text for pattern, text in tried.items() if text is not None}
    found = shortest_values(emitter.definitions, examples)
    if root not in found.values and emitter.rewriter.left_out is not None:
        # there may be values, and none that could be written out
        raise emitter.rewriter.left_out
    shortest = check_inhabited(root, found)
    if shortest.length > MAX_SHORTEST:
        raise too_large("", "bytes of the shortest value", shortest.length, MAX_SHORTEST)
    kept = {name: prune(node, found) for name, node in emitter.definitions.items() if name in found.values}
    completion = shortest.text
    if compact and completion is not None:
        completion = json.dumps(json.loads(completion), ensure_ascii=False, separators=separators(compact=True))
    return PlainSchema(_assembled(root, kept), completion, jump(kept, found), emitter.is_plain)


class IrregularSchema(Exception):
    """A schema whose texts have no form; `pointer`: the place of the first thing that has none."""

    def __init__(self, pointer: str, why: str) -> None:
        super().__init__(f"schema {pointer or '#'}: {why}")
        self.pointer = pointer


def regular_form(text: str, most: int | None = None, *, compact: bool = False) -> Form:
    """The form of a schema's texts: those that llguidance takes of the schema that `rewrite_schema` gives.

    most: where only a small form is wanted, how many schemas it may be made of; other signs that it gets large are seen
    as soon then

    Raises IrregularSchema, and InvalidRequest as `rewrite_schema` does but for schemas that have no value.
    """
    emitter, root = emitted(text)
    try:
        return schema_form(emitter.definitions, root, most, compact=compact)
    except IrregularError as error:
        at, _ = keyword_place(emitter.rewriter.document, emitter.terms[error.name], error.keyword)
        raise IrregularSchema(at, str(error)) from error


@lru_cache(maxsize=1)  # asked again for a schema that is not regular, and for one that llguidance refuses
def emitted(text: str) -> tuple[Emitter, str]:
    """The definitions to which a schema is rewritten, and the name of its own. Raises InvalidRequest."""
    document = Document(parse(text))
    emitter = Emitter(Rewriter(document))
    return emitter, emitter.emit(document.root)


_DEEPEST = 16  # definitions written within each other: llguidance reads 128 levels of JSON


def _assembled(root: str, definitions: dict[str, Node | bool]) -> str:
    """One schema: definitions that are used once are put where they are used, unless they lead back to themselves, or
    too many would lie within each other.
    """
    uses: dict[str, int] = {root: 2}
    for node in definitions.values():
        for name in _references(node):
            uses[name] = uses.get(name, 0) + 1
    once = _shallow({name for name, count in uses.items() if count == 1}, definitions)
    body = {name: node for name, node in definitions.items() if name in uses and name not in once}
    written: dict[str, Any] = {name: _inlined(node, definitions, once) for name, node in body.items()}
    if not any(root in _references(node) for node in written.values()):
        found = written.pop(root)
        top: Node = {} if found is True else found
        return json.dumps({**top, "$defs": written} if written else top, ensure_ascii=False)
    return json.dumps({"$ref": f"#/$defs/{root}", "$defs": written}, ensure_ascii=False)


def _shallow(once: set[str], definitions: dict[str, Node | bool]) -> set[str]:
    """Those of `once` that are put where they are used; every so many of a chain of them start anew."""
    kept = set(once)
    waiting = [(name, 0) for name in definitions if name not in once]
    while waiting:
        name, depth = waiting.pop()
        for inner in _references(definitions.get(name, False)):
            if inner in once:
                below = (depth + 1) % _DEEPEST
                kept -= set() if below else {inner}
                waiting.append((inner, below))
    return kept


def _references(node: Any) -> list[str]:
    found: list[str] = []
    pending: list[Any] = [node]
    while pending:
        here = pending.pop()
        if isinstance(here, list):
            pending += cast("list[Any]", here)
        elif isinstance(here, dict):
            named = cast("dict[str, Any]", here)
            if isinstance(named.get("$ref"), str):
                found.append(str(named["$ref"]).rpartition("/")[2])
            else:
                pending += named.values()
    return found


def _inlined(node: Any, definitions: dict[str, Node | bool], once: set[str]) -> Any:
    if isinstance(node, list):
        return [_inlined(part, definitions, once) for part in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    named = cast("dict[str, Any]", node)
    if isinstance(named.get("$ref"), str):
        name = str(named["$ref"]).rpartition("/")[2]
        return _inlined(definitions[name], definitions, once) if name in once else named
    return {key: _inlined(part, definitions, once) for key, part in named.items()}
