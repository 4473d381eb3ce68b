"""JSON schemas of Python types, by pydantic. Imported where a type needs it only: pydantic takes a while to load."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from .scalars import DATE, UUID

LARGEST = 1e300
_COUNT = r"[0-9]{1,4}"
_SECONDS = rf"{_COUNT}(?:\.[0-9]{{1,6}})?S"
_TIME_OF_DURATION = rf"{_COUNT}H(?:{_COUNT}M)?(?:{_SECONDS})?|{_COUNT}M(?:{_SECONDS})?|{_SECONDS}"
_DURATION = rf"-?P(?:[0-9]{{1,6}}D|(?:[0-9]{{1,6}}D)?T(?:{_TIME_OF_DURATION}))"
_KEY_PATTERNS = {"integer": r"^-?(?:0|[1-9][0-9]{0,18})$", "number": r"^-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,17})?$"}
_KEY_FORMATS = {"uuid": f"^{UUID}$", "date": f"^{DATE}$"}


class ExactSchema(GenerateJsonSchema):
    """Pydantic's schema, tightened where it admits JSON that the type does not, loosened where both mean the same."""

    def float_schema(self, schema: Any) -> Any:
        return _bounded(super().float_schema(schema))

    def decimal_schema(self, schema: Any) -> Any:
        ways = super().decimal_schema(schema)
        return _bounded(next((way for way in ways.get("anyOf", ()) if way.get("type") == "number"), ways))

    def timedelta_schema(self, schema: Any) -> Any:
        found = super().timedelta_schema(schema)
        if found.pop("format", None) == "duration":  # whose numbers may be larger than any duration of Python's
            found["pattern"] = f"^{_DURATION}$"
        return found

    def bytes_schema(self, schema: Any) -> Any:
        found = super().bytes_schema(schema)
        found.pop("format", None)  # `binary`, which says nothing of text
        return found

    def set_schema(self, schema: Any) -> Any:
        return _with_doubles(super().set_schema(schema))

    def frozenset_schema(self, schema: Any) -> Any:
        return _with_doubles(super().frozenset_schema(schema))

    def complex_schema(self, schema: Any) -> Any:
        return self.handle_invalid_for_json_schema(schema, "complex numbers")

    def model_schema(self, schema: Any) -> Any:
        return _closed(super().model_schema(schema))

    def dataclass_schema(self, schema: Any) -> Any:
        return _closed(super().dataclass_schema(schema))

    def typed_dict_schema(self, schema: Any) -> Any:
        return _closed(super().typed_dict_schema(schema))

    def dict_schema(self, schema: Any) -> Any:
        """Keys are text in JSON: those of numbers, dates and the like get the pattern of their text."""
        found = super().dict_schema(schema)
        keys: Any = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
        if keys.get("type") == "boolean":
            found["propertyNames"] = {"enum": ["true", "false"]}
        pattern = _KEY_PATTERNS.get(keys.get("type")) or _KEY_FORMATS.get(keys.get("format"))
        if pattern is not None:
            found["propertyNames"] = {"pattern": pattern}
        return found


def _bounded(schema: Any) -> Any:
    """Larger numbers are JSON, but no float."""
    if "exclusiveMinimum" not in schema:
        schema.setdefault("minimum", -LARGEST)
    if "exclusiveMaximum" not in schema:
        schema.setdefault("maximum", LARGEST)
    return schema


def _closed(schema: Any) -> Any:
    """Fields that a type does not have would be dropped on reading, so no answer need say them."""
    if "properties" in schema or schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema


def _with_doubles(schema: Any) -> Any:
    # a list with doubles is read as the same set, so no answer need be held to having none
    schema.pop("uniqueItems", None)
    return schema


def schema_of(adapter: Any) -> dict[str, Any]:
    """The JSON schema of what a `TypeAdapter` reads. Raises PydanticUserError where there is none."""
    return adapter.json_schema(schema_generator=ExactSchema, mode="validation")
