"""The part of compiling that runs in a child: from a constraint's text to something that a vocabulary is added to.

It knows no vocabulary but the 256 bytes. What it hands back is data: an automaton's tables, or a grammar in
llguidance's own words together with a completion that was walked on bytes and what else a budget needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from numpy.typing import NDArray

from ...lang.constraint import Constraint
from ...lang.errors import UnsupportedError
from .dfa import Dfa, choices_dfa, regex_dfa
from .llg_compile import choices_source, json_object_source, lark_source, pieces_source, regex_source, schema_source
from .llg_source import Reach, Source
from .outlines import TokenTable, token_table

Backend = Literal["auto", "automaton", "llguidance", "outlines"]
Prepared = Dfa | Source | TokenTable


def prepare(constraint: Constraint, backend: Backend, texts: Sequence[bytes] = ()) -> Prepared:
    """texts: of the tokens by id, empty for what is no text; only outlines-core's own index asks for them.

    Raises InvalidRequest for what is wrong or too large, and UnsupportedError for what `backend` does not take."""
    if backend == "llguidance":
        return _source(constraint)
    if backend == "outlines":
        return token_table(constraint, texts)
    match constraint.kind:
        case "regex":
            return regex_dfa(constraint.text)
        case "choices":
            return choices_dfa(constraint.choices)
        case _ if backend == "auto":
            return _source(constraint)
        case _:
            raise UnsupportedError(
                f"the grammar backend {backend!r} takes no {constraint.kind}; use auto or llguidance",
                param=constraint.kind,
                code="unsupported_constraint",
            )


def _source(constraint: Constraint) -> Source:
    match constraint.kind:
        case "regex":
            return regex_source(constraint.text)
        case "choices":
            return choices_source(constraint.choices)
        case "json_schema":
            return schema_source(constraint.text)
        case "json_object":
            return json_object_source()
        case "grammar":
            return lark_source(constraint.text)
        case "tags":
            return pieces_source(constraint.text)


def to_wire(prepared: Prepared) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    if isinstance(prepared, Dfa):
        return {"start": prepared.start}, [prepared.table, prepared.byte_class, prepared.accepting]
    if isinstance(prepared, TokenTable):
        return {"table": True}, prepared.arrays()
    return {"source": prepared.text, "reach": asdict(prepared.reach)}, []


def from_wire(head: dict[str, Any], arrays: list[NDArray[Any]]) -> Prepared:
    if "start" in head:
        table, byte_class, accepting = arrays
        return Dfa(table, byte_class, accepting, head["start"])
    if "table" in head:
        return TokenTable(*arrays)
    reach: dict[str, Any] = {**head["reach"]}
    reach.update({name: tuple(reach[name]) for name in ("examples", "marks")})
    return Source(head["source"], Reach(**reach))
