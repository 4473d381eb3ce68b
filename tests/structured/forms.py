"""Forms that answers are asked for: schemas in the shapes that are in use, and regexes by chance."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from stolon.lang.constraint import Constraint

_LABELS = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 8}}

SCHEMAS: dict[str, Any] = {
    "a record": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "email": {"type": "string", "format": "email"},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "an event": {  # as trackers have them: short strings, bounded numbers, much that may be null
        "type": "object",
        "properties": {
            "event_id": {"type": "string", "format": "uuid"},
            "at": {"type": "string", "format": "date-time"},
            "page": {"type": ["string", "null"], "maxLength": 64},
            "duration_ms": {"type": ["integer", "null"], "minimum": 0, "maximum": 2147483647},
            "kind": {"enum": ["view", "click", "submit", None]},
            "ratio": {"type": "number", "minimum": 0, "maximum": 1},
        },
        "required": ["event_id", "at", "kind"],
        "additionalProperties": False,
    },
    "a manifest": {  # as cluster resources have them: nested, with open maps of labels
        "type": "object",
        "properties": {
            "apiVersion": {"const": "v1"},
            "kind": {"enum": ["Pod", "Service"]},
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,20}$"}, "labels": _LABELS},
                "required": ["name"],
            },
            "spec": {
                "type": "object",
                "properties": {
                    "containers": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "properties": {
                                "image": {"type": "string", "minLength": 1},
                                "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                            },
                            "required": ["image"],
                            "additionalProperties": False,
                        },
                    }
                },
                "required": ["containers"],
            },
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
    },
    "a tool call": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"tool": {"const": "weather"}, "city": {"type": "string"}},
                "required": ["tool", "city"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"tool": {"const": "sum"}, "of": {"type": "array", "items": {"type": "number"}}},
                "required": ["tool", "of"],
                "additionalProperties": False,
            },
        ]
    },
    "a tree": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["value", "children"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "a pair": {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "boolean"}],
        "items": False,
        "minItems": 2,
    },
    "formats": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "clock": {"type": "string", "format": "time"},
            "address": {"type": "string", "format": "ipv4"},
        },
        "required": ["day", "clock", "address"],
        "additionalProperties": False,
    },
    "a setting": {  # of values from short lists: an automaton has it
        "type": "object",
        "properties": {
            "level": {"type": "integer", "minimum": 0, "maximum": 10},
            "is_on": {"type": "boolean"},
            "colour": {"enum": ["red", "dark green", None]},
            "since": {"type": "string", "format": "date"},
        },
        "required": ["level", "is_on", "colour"],
        "additionalProperties": False,
    },
    "lengths": {"type": "string", "minLength": 3, "maxLength": 9},
    "a code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "steps": {"type": "integer", "multipleOf": 5, "minimum": 10, "maximum": 40},
    "a number": {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 1},
    "mixed": {"enum": [1, "two", None, True, {"three": [3]}]},
    "any of": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}, {"type": "null"}]},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "string", "maxLength": 5}}, "required": ["b"]},
        ]
    },
    "a map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "anything": {},
}

CHOICES = (
    ("yes", "no"),
    ("yes", "yesterday", "yes, and"),
    ("", "a"),
    ("positive", "negative", "neutral", "I cannot tell from this text alone."),
    ("naïve", "東京", "👍🏽", "<|im_end|>", " lead", "trail ", 'quo"te'),
    ("only this",),
)

REGEXES = (
    r"\d{4}-\d{2}-\d{2}",
    r"(yes|no|maybe)( and (yes|no))*",
    r"[A-Z][a-z]+ [A-Z][a-z]+",
    r'\{"name": "[^"\\]{1,20}", "age": \d{1,3}\}',
    r"(0|[1-9]\d*)(\.\d+)?",
    r"[一-鿿]{2,5}",
    r"a*|b+",
    r"(?i)stra(ss|ß)e",
    r"(.|\n){5,9}",
)


def schema(value: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(value))


_ATOMS = st.sampled_from(
    [
        *"abz059 .-",
        r"\.",
        r"\d",
        r"\w",
        r"\s",
        r"\W",
        "[a-f]",
        "[^a-f]",
        "[0-9a-f]",
        "é",
        "[а-я]",
        "東",
        "👍",
        "the ",
        ".",
    ]
)
_REPEATS = st.sampled_from(["?", "*", "+", "{2}", "{0,3}", "{1,}", "{4,6}", "*?", "+?"])


def _joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    chain = st.lists(parts, min_size=1, max_size=4).map("".join)
    choice = st.lists(parts, min_size=2, max_size=4).map(lambda options: f"({'|'.join(options)})")
    repeat = st.tuples(parts, _REPEATS).map(lambda pair: f"(?:{pair[0]}){pair[1]}")
    return chain | choice | repeat


regexes = st.recursive(_ATOMS, _joined, max_leaves=10)
