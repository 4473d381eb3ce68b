"""What a `gen` asks for: the form of its text, and the value that such a text means."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from .constraint import Constraint
from .errors import InvalidRequest


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """constraint: None where any text will do
    shown: the type or the argument, as messages name it
    read: from a text that has the form to its value. Raises ValueError for a text that has none
    trims: white space at the end is no part of the answer; numbers take it as their end
    """

    constraint: Constraint | None
    shown: str
    read: Callable[[str], object] = str
    trims: bool = False


def choices_form(choices: object) -> Form:
    """One of some texts. Raises InvalidRequest for choices that are missing, empty, doubled or no text."""
    return Form(Constraint("choices", choices=checked_choices(choices)), "choices=")


def checked_choices(choices: Any) -> tuple[str, ...]:
    listed = (
        () if isinstance(choices, str) or not isinstance(choices, Iterable) else tuple(cast("Iterable[Any]", choices))
    )
    if not listed:
        raise InvalidRequest(f"a list of choices is needed, got {choices!r}", param="choices")
    for choice in listed:
        if not isinstance(choice, str) or not choice:
            raise InvalidRequest(f"every choice must be non-empty text, got {choice!r}", param="choices")
    if len(set(listed)) < len(listed):
        raise InvalidRequest(f"the choices must differ, got {list(listed)!r}", param="choices")
    return listed


def regex_form(pattern: object) -> Form:
    return Form(Constraint("regex", _text("regex", pattern)), "regex=")


def grammar_form(grammar: object) -> Form:
    return Form(Constraint("grammar", _text("grammar", grammar)), "grammar=")


def object_form() -> Form:
    return Form(Constraint("json_object"), "json_object=")


def schema_form(schema: object, of_type: Callable[[object], str]) -> Form:
    """A JSON schema as a dictionary, as text, or as a type that `of_type` makes one of; the value stays text."""
    if isinstance(schema, str):
        text = _parsed(schema)
    elif isinstance(schema, (dict, bool)):
        text = _dumped(cast("object", schema))
    else:
        text = of_type(schema)
    return Form(Constraint("json_schema", text), "json_schema=")


def _parsed(schema: str) -> str:
    try:
        found: object = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"json_schema is no JSON: {error}", param="json_schema") from error
    if not isinstance(found, (dict, bool)):
        raise InvalidRequest(f"json_schema must be an object, got {schema[:80]!r}", param="json_schema")
    return schema


def _dumped(schema: object) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"json_schema cannot be written as JSON: {error}", param="json_schema") from error


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} must be non-empty text, got {value!r}", param=name)
    return value
