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
from ...lang.errors import InvalidRequest, UnsupportedError
from .dfa import Dfa, choices_dfa, regex_dfa
from .form_dfa import MAX_STATES, TooLargeError, form_dfa
from .linter import refuse
from .llg_blame import is_placed
from .llg_compile import choices_source, json_object_source, lark_source, pieces_source, regex_source, schema_source
from .llg_source import Reach, Source
from .outlines import TokenTable, token_table
from .schema import IrregularSchema, regular_form

Backend = Literal["auto", "automaton", "llguidance", "outlines"]
Prepared = Dfa | Source | TokenTable

# Of the two engines that say a schema alike, the automaton has the one whose form stays as small as this. Measured by
# `python -m benchmarks.forms` on 150k tokens: it is compiled in 4 ms at the median, 7 at most (llguidance: 2 and 14), a
# state's first mask takes 0.6 ms at most and any other 10 µs (20 to 80), and the way to an end is the shortest. More
# states take 30 µs and 19 kB each; and where most letters are legal, as in a free string, most tokens are walked: 14 ms
# for a first mask and 75 to 180 to compile, for which llguidance needs 0.3 and 3 to 12.
SMALL_STATES = 128
SMALL_WIDTH = 32  # bytes that are legal in one state


def prepare(
    constraint: Constraint, backend: Backend, texts: Sequence[bytes] = (), *, compact: bool = False
) -> Prepared:
    """texts: of the tokens by id, empty for what is no text; only outlines-core's own index asks for them
    compact: whether JSON is written without white space

    Raises InvalidRequest for what is wrong or too large, and UnsupportedError for what `backend` does not take."""
    if backend == "llguidance":
        return _source(constraint, compact)
    if backend == "outlines":
        return token_table(constraint, texts)
    match constraint.kind:
        case "regex":
            return regex_dfa(constraint.text)
        case "choices":
            return choices_dfa(constraint.choices)
        case "json_schema" if backend == "automaton":
            return _schema_dfa(constraint.text, compact)
        case "json_schema":
            return _small(constraint.text, compact) or _source(constraint, compact)
        case _ if backend == "auto":
            return _source(constraint, compact)
        case _:
            raise _not_taken(f"constraints of the kind {constraint.kind}", constraint.kind)


def _small(schema: str, compact: bool) -> Dfa | None:
    """The automaton of a schema that is small. Raises InvalidRequest for one that is wrong, if it is known where;
    else llguidance's side finds the place, of a schema without a value too.
    """
    try:
        dfa = form_dfa(regular_form(schema, SMALL_STATES, compact=compact), SMALL_STATES, SMALL_WIDTH)
    except (IrregularSchema, TooLargeError):
        return None
    except InvalidRequest as error:
        if is_placed(error):
            raise
        return None
    return dfa if dfa.start else None


def _schema_dfa(schema: str, compact: bool) -> Dfa:
    try:
        dfa = form_dfa(regular_form(schema, compact=compact))
    except InvalidRequest:
        schema_source(schema)  # which finds the place that is to blame
        raise
    except IrregularSchema as error:
        raise _not_taken(f"this schema: {error}", error.pointer or "#") from error
    except TooLargeError as error:
        raise _not_taken(f"this schema: its automaton has more than {MAX_STATES} states", "#") from error
    if not dfa.start:
        schema_source(schema)
        raise refuse("", "no value is valid under it: its rules contradict each other", "unsatisfiable_schema")
    return dfa


def _not_taken(what: str, param: str) -> UnsupportedError:
    return UnsupportedError(
        f"the grammar backend automaton does not take {what}; use auto or llguidance",
        param=param,
        code="unsupported_constraint",
    )


def _source(constraint: Constraint, compact: bool) -> Source:
    match constraint.kind:
        case "regex":
            return regex_source(constraint.text)
        case "choices":
            return choices_source(constraint.choices)
        case "json_schema":
            return schema_source(constraint.text, compact=compact)
        case "json_object":
            return json_object_source(compact=compact)
        case "grammar":
            return lark_source(constraint.text)
        case "tags":
            return pieces_source(constraint.text, compact=compact)


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
