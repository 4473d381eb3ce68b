"""Whether a text has the form that was asked for. Answers of servers are held against it; the engine's are made so."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

from .constraint import Constraint
from .schema_check import SchemaCheck, UncheckableError

Check = Callable[[str], "str | None"]
KEPT = 256  # checks that are kept


def problem(constraint: Constraint, text: str) -> str | None:
    """What keeps `text` from having the form; None if nothing does, or if it is a grammar, which only engines read.

    Raises UncheckableError for a form that cannot be checked here.
    """
    return check_of(constraint)(text)


def check_of(constraint: Constraint) -> Check:
    """The check of a form. Raises UncheckableError for one that cannot be checked here; a grammar has none."""
    return _check_of(constraint.kind, constraint.text, constraint.choices)


@functools.lru_cache(KEPT)
def _check_of(kind: str, text: str, choices: tuple[str, ...]) -> Check:
    match kind:
        case "regex":
            return _regex_check(text)
        case "choices":
            known = frozenset(choices)
            return lambda said: None if said in known else f"it is none of the {len(known)} choices"
        case "json_schema":
            checked = SchemaCheck(json.loads(text))
            return lambda said: _json_problem(said, checked.problem)
        case "json_object":
            return lambda said: _json_problem(
                said, lambda value: None if isinstance(value, dict) else "it is no JSON object"
            )
        case _:
            return lambda _: None


def _regex_check(pattern: str) -> Check:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UncheckableError(
            f"the regex {pattern!r} cannot be checked in the answer of a server: {error} (Python's `re` checks it)"
        ) from error
    return lambda said: None if compiled.fullmatch(said) else f"it does not match {pattern!r}"


def _json_problem(said: str, problem_of: Callable[[Any], str | None]) -> str | None:
    try:
        value: Any = json.loads(said, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON: {error}"
    return problem_of(value)


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is no JSON")
