"""The form that an answer must have, under the names that OpenAI, SGLang and vLLM have for it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, cast

from ...lang.constraint import Constraint
from ...lang.errors import InvalidRequest
from ...lang.types import Delta
from ..limits import LENGTHS
from .body import JsonObject, is_deep
from .errors import HttpError, invalid
from .fields import (
    Check,
    Field,
    Values,
    boolean,
    describe,
    list_of,
    mapping,
    missing,
    object_of,
    one_of,
    string,
)

_TAG = "structural tags are not available; tools with strict: true ask for the same"
_WHITE_SPACE = "the white space of JSON is that of Python's json module"
_NO_OPTION = "what holds answers to their form here has no such option"

# what others know about constraints and is refused by name
UNSUPPORTED_CONSTRAINTS: dict[str, str] = {
    "grammar": "name it ebnf, or guided_grammar, or structured_outputs.grammar",
    "structural_tag": _TAG,
    "guided_decoding_backend": "it is chosen for the whole server, with --grammar-backend",
    "guided_whitespace_pattern": _WHITE_SPACE,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A constraint and the field it was asked for in.

    paths: of the schemas in a constraint of kind "tags", one for each tag
    """

    constraint: Constraint
    path: str
    paths: tuple[str, ...] = ()

    @classmethod
    def schema(cls, text: str, path: str) -> Asked:
        return cls(Constraint("json_schema", text), path)

    @classmethod
    def json_object(cls, path: str) -> Asked:
        return cls(Constraint("json_object"), path)


def _of(kind: Any, read: Field[str]) -> Field[Asked]:
    def check(path: str, value: object) -> Asked:
        return Asked(Constraint(kind, read(path, value)), path)

    return Field(read.schema, check)


def _bad_schema(path: str, message: str) -> HttpError:
    return invalid(f"{path} {message}", path, "invalid_schema")


def schema_text(path: str, value: object) -> str:
    """A JSON schema that is an object, as JSON; what stands in it is for the engine to judge."""
    if not isinstance(value, dict):
        raise _bad_schema(path, f"must be a JSON schema that is an object, got {describe(value)}")
    return json.dumps(value, ensure_ascii=False)


def _schema_or_text(path: str, value: object) -> str:
    """A schema, or a string that holds one."""
    if not isinstance(value, str):
        return schema_text(path, value)
    try:
        found: Any = json.loads(value)
    except ValueError as error:
        raise _bad_schema(path, f"must hold a JSON schema: {error}") from None
    except RecursionError:
        raise _too_deep(path) from None
    if is_deep(value, found):
        raise _too_deep(path)
    return schema_text(path, found)


def _too_deep(path: str) -> HttpError:
    return invalid(f"{path} is nested too deeply", path, "schema_too_large")


_SCHEMA: Field[str] = Field({"type": "object"}, schema_text)
_SCHEMA_OR_TEXT: Field[str] = Field({"anyOf": [{"type": "object"}, {"type": "string"}]}, _schema_or_text)
_PATTERN = string(LENGTHS["pattern"])
_GRAMMAR = string(LENGTHS["grammar"])


def _true(path: str, value: object) -> Asked:
    if value is not True:
        raise _bad_schema(path, f"must be true where it is given, got {describe(value)}")
    return Asked.json_object(path)


_JSON_OBJECT: Field[Asked] = Field({"const": True}, _true)
_OPTIONS = list_of(string(LENGTHS["option_characters"]), LENGTHS["options"])


def _choices(path: str, value: object) -> Asked:
    return Asked(Constraint("choices", choices=tuple(dict.fromkeys(_OPTIONS(path, value)))), path)


_CHOICES = Field(_OPTIONS.schema, _choices)

_STRUCTURED: dict[str, Check] = {
    "json": _of("json_schema", _SCHEMA_OR_TEXT),
    "regex": _of("regex", _PATTERN),
    "choice": _CHOICES,
    "grammar": _of("grammar", _GRAMMAR),
    "json_object": _JSON_OBJECT,
}
_STRUCTURED_OBJECT = object_of(
    _STRUCTURED,
    unsupported={
        "structural_tag": _TAG,
        "whitespace_pattern": _WHITE_SPACE,
        **dict.fromkeys(["disable_any_whitespace", "disable_fallback", "disable_additional_properties"], _NO_OPTION),
    },
)


def _structured_outputs(path: str, value: object) -> Asked:
    found = _STRUCTURED_OBJECT(path, value)
    if len(found) != 1:
        got = " and ".join(found) or "none"
        raise invalid(f"{path} must have exactly one of {', '.join(_STRUCTURED)}, got {got}", path)
    return cast(Asked, next(iter(found.values())))


JSON_SCHEMA_FORMAT = {
    "name": string(LENGTHS["format_name"]),
    "description": string(),
    "schema": _SCHEMA,
    "strict": boolean,  # the schema is kept either way
}
_JSON_SCHEMA = object_of(JSON_SCHEMA_FORMAT, required=("name", "schema"))
_FORMAT = object_of(
    {"type": one_of("text", "json_object", "json_schema"), "json_schema": _JSON_SCHEMA}, required=("type",)
)


def check_null_schema(path: str, found: JsonObject) -> None:
    """A schema that is there but null is a bad one, not one that is missing."""
    if "schema" in found and found["schema"] is None:
        raise _bad_schema(f"{path}.schema", "must be a JSON schema that is an object, got null")


def _response_format(path: str, value: object) -> Asked | None:
    found = mapping(path, value)
    if found.get("type") == "structural_tag":
        raise invalid(f"{path}.type: {_TAG}", f"{path}.type", "unsupported_parameter")
    inner = found.get("json_schema")
    if isinstance(inner, dict):
        check_null_schema(f"{path}.json_schema", cast(JsonObject, inner))
    read = _FORMAT(path, found)
    if read["type"] == "json_schema":
        if "json_schema" not in read:
            raise missing(f"{path}.json_schema")
        return Asked.schema(read["json_schema"]["schema"], f"{path}.json_schema.schema")
    if "json_schema" in read:
        raise invalid(f"{path}.json_schema is only for type 'json_schema'", f"{path}.json_schema")
    return Asked.json_object(path) if read["type"] == "json_object" else None


RESPONSE_FORMAT: Field[Asked | None] = Field(_FORMAT.schema, _response_format)

# of `sampling_params` on the native route
NATIVE_CONSTRAINTS: dict[str, Check] = {
    "regex": _of("regex", _PATTERN),
    "json_schema": _of("json_schema", _SCHEMA_OR_TEXT),
    "ebnf": _of("grammar", _GRAMMAR),
}

# of the OpenAI routes
CONSTRAINTS: dict[str, Check] = {
    "response_format": RESPONSE_FORMAT,
    **NATIVE_CONSTRAINTS,
    "structured_outputs": Field(_STRUCTURED_OBJECT.schema, _structured_outputs),
    "guided_json": _of("json_schema", _SCHEMA_OR_TEXT),
    "guided_regex": _of("regex", _PATTERN),
    "guided_choice": _CHOICES,
    "guided_grammar": _of("grammar", _GRAMMAR),
    "guided_json_object": _JSON_OBJECT,
}

_OWN_WORDS = frozenset({"regex", "choices", "grammar", "json_schema", "tags", "constraint"})
_IN_A_TAG = re.compile(r"tags/([0-9]+)/schema(.*)", re.DOTALL)


def asked_constraint(values: Values) -> Asked | None:
    """The one constraint of a request, if it has one. Raises HttpError if there are two."""
    if CONSTRAINTS.keys().isdisjoint(values):
        return None
    found = [(name, values[name]) for name in CONSTRAINTS if values.get(name) is not None]
    if len(found) > 1:
        names = " and ".join(name for name, _ in found)
        raise invalid(f"give one constraint; {names} are {len(found)}", cast(Asked, found[1][1]).path)
    return cast(Asked, found[0][1]) if found else None


async def located(deltas: AsyncGenerator[Delta, None], asked: Asked) -> AsyncGenerator[Delta, None]:
    """The same deltas; a refusal of the constraint names the field that brought it."""
    try:
        async for delta in deltas:
            yield delta
    except InvalidRequest as error:
        if (param := _param(error.param, asked)) is None:
            raise
        raise HttpError(400, error.code or "invalid_value", str(error), param) from error
    finally:
        await deltas.aclose()


def _param(param: str | None, asked: Asked) -> str | None:
    """The field that `param`, the engine's word, is about; None: not about the constraint."""
    if param is None or param in _OWN_WORDS:
        return asked.path
    if found := _IN_A_TAG.fullmatch(param):
        return _at(asked.paths[int(found[1])], found[2])
    return _at(asked.path, param) if param.startswith(("#", "/")) else None


def _at(path: str, pointer: str) -> str:
    """A place in the JSON of a field; the root is the field itself."""
    inside = pointer.removeprefix("#")
    return f"{path}#{inside}" if inside else path
