"""The form of an answer under the names that each kind of server has for it."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from typing import Any

from ..lang.conformance import check_of
from ..lang.constraint import KINDS, Constraint
from ..lang.errors import UnsupportedError
from ..lang.schema_check import UncheckableError
from .jsonvalue import Json
from .strict_schema import StrictForm, strict_form

# what servers with an engine for it hold an answer to; `tags` is no word of programs
SERVED = KINDS - {"tags"}
STRICT = frozenset({"choices", "regex", "json_schema", "json_object"})


def check_answerable(constraint: Constraint) -> None:
    """Raises UnsupportedError for a form that the answer of a server could not be held against."""
    try:
        check_of(constraint)
    except UncheckableError as error:
        raise UnsupportedError(str(error)) from error


@functools.lru_cache(256)
def strict(constraint: Constraint) -> StrictForm | None:
    """What OpenAI's strict mode is sent, and how to undo it; None for what needs no undoing."""
    return None if constraint.kind == "json_object" else strict_form(constraint)


def openai_fields(constraint: Constraint, dialect: str) -> Json:
    """Fields of a request on the OpenAI routes. Raises UnsupportedError for what the dialect cannot say."""
    if constraint.after:
        raise UnsupportedError(
            "this server cannot be asked for a form that begins after the reasoning; leave reasoning to its own parser"
        )
    match dialect:
        case "openai":
            form = strict(constraint)
            return {"response_format": {"type": "json_object"} if form is None else form.response_format()}
        case "sglang":
            return _sglang_fields(constraint)
        case _:
            return {"structured_outputs": _structured(constraint)}


def native_fields(constraint: Constraint) -> Json:
    """Fields of the `sampling_params` of `/generate`; only stolon's server knows the form that holds from a text on."""
    if constraint.after:
        return native_fields(replace(constraint, after="")) | {"constrain_after": constraint.after}
    match constraint.kind:
        case "regex":
            return {"regex": constraint.text}
        case "choices":
            return {"regex": _alternatives(constraint.choices)}
        case "json_schema":
            return {"json_schema": json.dumps(_schema(constraint.text), ensure_ascii=False)}
        case "json_object":
            return {"json_schema": '{"type": "object"}'}
        case "grammar":
            return {"ebnf": constraint.text}
        case "tags":
            raise UnsupportedError("/generate has no field for tagged pieces")


def _sglang_fields(constraint: Constraint) -> Json:
    match constraint.kind:
        case "json_schema":
            schema = {"name": "answer", "strict": True, "schema": _schema(constraint.text)}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case _:
            return native_fields(constraint)


def _structured(constraint: Constraint) -> Json:
    match constraint.kind:
        case "regex":
            return {"regex": constraint.text}
        case "choices":
            return {"choice": list(constraint.choices)}
        case "json_schema":
            return {"json": _schema(constraint.text)}
        case "json_object":
            return {"json_object": True}
        case "grammar":
            return {"grammar": constraint.text}
        case "tags":
            raise UnsupportedError("structured_outputs has no field for tagged pieces")


def _schema(text: str) -> Any:
    """A schema as an object: servers take none of the two that are words."""
    found: Any = json.loads(text)
    if isinstance(found, bool):
        return {} if found else {"not": {}}
    return found


def _alternatives(choices: tuple[str, ...]) -> str:
    # longest first, for engines that take the first way that matches
    return "|".join(f"(?:{re.escape(choice)})" for choice in sorted(choices, key=len, reverse=True))
