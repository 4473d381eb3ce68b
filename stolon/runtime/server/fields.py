"""What a field may say: small checks from which each route's table of fields is put together.

A field takes its dotted path and a JSON value and returns the value in our types, or raises HttpError 400. It also
knows its JSON schema, from which the server's OpenAPI document is made: both come from the same bounds.
JSON null means that the field was not given. An integer may be written 16.0; a boolean is never a number.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from .. import limits
from ..limits import Length, Range
from .body import JsonObject
from .errors import HttpError, clip, invalid

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Field(Generic[T_co]):
    """One field.

    schema: what JSON it takes; never narrower than `check`, and wider only where JSON Schema cannot say it
    check: path and value to a value of ours
    """

    schema: JsonObject
    check: Callable[[str, object], T_co]

    def __call__(self, path: str, value: object) -> T_co:
        return self.check(path, value)


# of a field that was read only its check knows the type: this is the edge where JSON becomes ours
Check = Field[Any]
Values = Mapping[str, Any]


def read(
    found: JsonObject, table: Mapping[str, Check], *, unsupported: Mapping[str, str], prefix: str = ""
) -> dict[str, Any]:
    """The fields of `found` that `table` knows, checked; those that are null are left out.

    unsupported: fields that others know, and why they are refused here
    """
    values: dict[str, Any] = {}
    for name, value in found.items():
        check = table.get(name)
        if check is None:
            _refuse(name, value, table, unsupported, prefix)
        elif value is not None:
            values[name] = check(prefix + name, value)
    return values


def _refuse(name: str, value: object, table: Mapping[str, Check], unsupported: Mapping[str, str], prefix: str) -> None:
    path = prefix + name
    if name in unsupported:
        if value is None:
            return
        raise invalid(f"{path}: {unsupported[name]}", path, "unsupported_parameter")
    close = difflib.get_close_matches(name[:64], [*table, *unsupported], n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise invalid(f"unknown field '{clip(path)}'{hint}", path, "unknown_parameter")


def object_of(
    table: Mapping[str, Check], *, required: Sequence[str] = (), unsupported: Mapping[str, str] | None = None
) -> Field[dict[str, Any]]:
    """An object with the fields of `table`, read as `read` does; those in `required` must be there."""
    refused = unsupported or {}

    def check(path: str, value: object) -> dict[str, Any]:
        prefix = f"{path}." if path else ""
        values = read(mapping(path, value), table, unsupported=refused, prefix=prefix)
        for name in required:
            if name not in values:
                raise missing(prefix + name)
        return values

    return Field(object_schema(table, required, refused), check)


def object_schema(table: Mapping[str, Check], required: Sequence[str], unsupported: Mapping[str, str]) -> JsonObject:
    """What `read` takes; a field that is not required may be null, and so may one that is refused."""
    properties: JsonObject = {
        name: field.schema if name in required else nullable(field.schema) for name, field in table.items()
    }
    refused = {name: why for name, why in unsupported.items() if name not in table}
    properties |= {name: {"type": "null", "description": f"Refused: {why}."} for name, why in refused.items()}
    found: JsonObject = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": list(required)} if required else found


def nullable(schema: JsonObject) -> JsonObject:
    return {"anyOf": [schema, {"type": "null"}]} if schema else schema


def missing(path: str) -> HttpError:
    return invalid(f"{path} is missing", path, "missing_parameter")


def wrong_type(path: str, wanted: str, value: object) -> HttpError:
    return invalid(f"{path} must be {wanted}, got {describe(value)}", path, "invalid_type")


def describe(value: object) -> str:
    """A JSON value for a message: short, and never a whole body."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f"'{clip(value)}'"
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return clip(str(value))


def _boolean(path: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(path, "true or false", value)
    return value


boolean = Field({"type": "boolean"}, _boolean)
# a field of OpenAI's that changes nothing here
ignored: Field[object] = Field({}, lambda _path, value: value)


def number(bounds: Range) -> Field[Any]:
    """A number within `bounds`; int if the bounds are whole, else float."""

    def check(path: str, value: object) -> int | float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong_type(path, "a whole number" if bounds.whole else "a number", value)
        if bounds.whole and isinstance(value, float):
            if not value.is_integer():
                raise wrong_type(path, "a whole number", value)
            value = int(value)
        if not bounds.holds(value):
            raise invalid(f"{path} must be {bounds}, got {describe(value)}", path)
        return value if bounds.whole else float(value)

    return Field(bounds.schema(), check)


def top_k(bounds: Range) -> Field[Any]:
    """-1 (all tokens) or a count; 0 asks for nothing that can be."""
    within = number(bounds)

    def check(path: str, value: object) -> object:
        if value == 0 and not isinstance(value, bool):
            raise invalid(f"{path} must be -1 (all tokens) or at least 1, got 0", path)
        return within(path, value)

    return Field({**within.schema, "not": {"const": 0}}, check)


def string(length: Length | None = None) -> Field[str]:
    def check(path: str, value: object) -> str:
        if not isinstance(value, str):
            raise wrong_type(path, "a string", value)
        if length is not None:
            measure(path, len(value), length)
        return value

    bounds = {} if length is None else length.schema("minLength", "maxLength")
    return Field({"type": "string", **bounds}, check)


def one_of(*allowed: str) -> Field[str]:
    def check(path: str, value: object) -> str:
        if value not in allowed:
            raise invalid(f"{path} must be one of {', '.join(allowed)}, got {describe(value)}", path)
        return cast(str, value)

    return Field({"type": "string", "enum": list(allowed)}, check)


def list_of(each: Field[T], length: Length) -> Field[list[T]]:
    """A list of allowed length; a refusal names the place in it."""

    def check(path: str, value: object) -> list[T]:
        found = entries(path, value, length)
        return [each(f"{path}[{index}]", entry) for index, entry in enumerate(found)]

    return Field({"type": "array", "items": each.schema, **length.schema("minItems", "maxItems")}, check)


def entries(path: str, value: object, length: Length) -> list[object]:
    """`value`, if it is a list of allowed length."""
    if not isinstance(value, list):
        raise wrong_type(path, "a list", value)
    found = cast("list[object]", value)
    measure(path, len(found), length)
    return found


def mapping(path: str, value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    return cast(JsonObject, value)


def strings(count: Length, length: Length) -> Field[tuple[str, ...]]:
    """A string, or a list of strings, as a tuple. Empty strings are refused."""
    one = string(length)
    several = list_of(one, count)

    def check(path: str, value: object) -> tuple[str, ...]:
        return (one(path, value),) if isinstance(value, str) else tuple(several(path, value))

    return Field({"anyOf": [one.schema, several.schema]}, check)


def token_id(vocab_size: int) -> Field[int]:
    def check(path: str, value: object) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not 0 <= value < vocab_size:
            message = f"{path} must be a token id, a whole number from 0 to {vocab_size - 1}, got {describe(value)}"
            raise invalid(message, path, "token_id_out_of_range")
        return value

    return Field({"type": "integer", "minimum": 0, "maximum": vocab_size - 1}, check)


def token_ids(vocab_size: int, count: Length) -> Field[tuple[int, ...]]:
    """A list of token ids, as a tuple."""

    def check(path: str, value: object) -> tuple[int, ...]:
        return tuple(ids(path, entries(path, value, count), vocab_size))

    return Field(list_of(token_id(vocab_size), count).schema, check)


def ids(path: str, found: list[object], vocab_size: int) -> list[int]:
    """`found` as token ids. Raises HttpError naming the first that is none."""
    # the common case without a check for each entry: a prompt may have 100,000
    if all(type(entry) is int and 0 <= entry < vocab_size for entry in found):
        return cast("list[int]", found)
    one = token_id(vocab_size)
    return [one(f"{path}[{index}]", entry) for index, entry in enumerate(found)]


def logit_bias(vocab_size: int) -> Field[tuple[tuple[int, float], ...]]:
    """{"token id": bias}, as pairs sorted by id."""
    bias, count = number(limits.LOGIT_BIAS), limits.LENGTHS["logit_bias"]

    def check(path: str, value: object) -> tuple[tuple[int, float], ...]:
        found = mapping(path, value)
        measure(path, len(found), count)
        pairs: dict[int, float] = {}
        for key, amount in found.items():
            token = int(key) if key.isascii() and key.isdecimal() and len(key) < 20 else -1
            if not 0 <= token < vocab_size:
                message = f"{path} has the key '{clip(key)}'; keys are token ids from 0 to {vocab_size - 1}"
                raise invalid(message, path)
            try:
                pairs[token] = bias(path, amount)
            except HttpError as error:
                raise HttpError(error.status, error.code, f"{error.message} for token {token}", path) from None
        return tuple(sorted(pairs.items()))

    keys: JsonObject = {"pattern": "^[0-9]{1,19}$"}
    schema: JsonObject = {"type": "object", "propertyNames": keys, "additionalProperties": bias.schema}
    return Field({**schema, "maxProperties": count.high}, check)


def measure(path: str, count: int, length: Length) -> None:
    """Raises HttpError unless `count` things are as many as there may be."""
    if count < length.low:
        what = "must not be empty" if length.low == 1 else f"must have at least {length.low} {length.unit}"
        raise invalid(f"{path} {what}", path)
    if count > length.high:
        raise invalid(f"{path} may have at most {length.high} {length.unit}, got {count}", path)


def finite(value: float) -> float:
    """A log-probability that JSON can carry."""
    return value if math.isfinite(value) else -9999.0
