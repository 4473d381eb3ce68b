"""The part of compiling that runs in a child: from a constraint's text to something that a vocabulary is added to.

It knows no vocabulary but the 256 bytes. What it hands back is data: an automaton's tables, or a grammar in
llguidance's own words together with a completion that was walked on bytes and what else a budget needs.
"""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any, Literal

from llguidance import LLMatcher
from numpy.typing import NDArray

from ...lang.constraint import Constraint
from ...lang.errors import UnsupportedError
from .dfa import Dfa, choices_dfa, regex_dfa
from .llg_closing import allowed_tokens
from .llg_compile import choices_source, json_object_source, lark_source, pieces_source, regex_source, schema_source
from .llg_source import BYTES, LIMITS, Reach, Source, refusal

Backend = Literal["auto", "automaton", "llguidance", "outlines"]
Prepared = Dfa | Source

# steps walked by chance after those of the completion
_CHANCE_STEPS = 32
_WALKED = 256


def prepare(constraint: Constraint, backend: Backend) -> Prepared:
    """Raises InvalidRequest for what is wrong or too large, and UnsupportedError for what `backend` does not take."""
    if backend == "llguidance":
        return probed(_source(constraint))
    match constraint.kind:
        case "regex":
            return regex_dfa(constraint.text)
        case "choices":
            return choices_dfa(constraint.choices)
        case _ if backend == "auto":
            return probed(_source(constraint))
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


def probed(source: Source) -> Source:
    """`source`, after a walk along its completion and some steps by chance. Raises InvalidRequest if they fail.

    llguidance finds some faults of a grammar, and passes some of its limits, at the first masks only.
    """
    first = LLMatcher(BYTES.tokenizer, source.text, log_level=0, limits=LIMITS)
    along = first.deep_copy()
    for byte in (source.reach.completion or "").encode()[:_WALKED]:
        along.compute_bitmask()
        along.consume_token(byte)
    _check(along)
    chance = random.Random(0)
    for _ in range(_CHANCE_STEPS):
        ids = allowed_tokens(first.compute_bitmask())
        inside = ids[ids < 256]
        if not len(inside) or not first.consume_token(int(inside[chance.randrange(len(inside))])):
            break
    _check(first)
    return source


def _check(state: LLMatcher) -> None:
    if state.is_error():
        raise refusal(state)


def to_wire(prepared: Prepared) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    if isinstance(prepared, Dfa):
        return {"start": prepared.start}, [prepared.table, prepared.byte_class, prepared.accepting]
    return {"source": prepared.text, "reach": asdict(prepared.reach)}, []


def from_wire(head: dict[str, Any], arrays: list[NDArray[Any]]) -> Prepared:
    if "start" in head:
        table, byte_class, accepting = arrays
        return Dfa(table, byte_class, accepting, head["start"])
    reach: dict[str, Any] = {**head["reach"]}
    reach.update({name: tuple(reach[name]) for name in ("examples", "marks")})
    return Source(head["source"], Reach(**reach))
