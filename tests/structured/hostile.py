"""Regexes, schemas and grammars that are out to do harm, and what each has to end in.

Each is a constraint and the code of its error; OK stands for a grammar that works. Where a machine's speed decides
whether a limit is passed there are two.
"""

from __future__ import annotations

import json
from typing import Any

from stolon.lang.constraint import Constraint

OK = "ok"


def _regex(pattern: str, *codes: str) -> tuple[Constraint, tuple[str, ...]]:
    return Constraint("regex", pattern), codes


def _schema(schema: Any, *codes: str) -> tuple[Constraint, tuple[str, ...]]:
    return Constraint("json_schema", schema if isinstance(schema, str) else json.dumps(schema)), codes


def _grammar(text: str, *codes: str) -> tuple[Constraint, tuple[str, ...]]:
    return Constraint("grammar", text), codes


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _laughs(levels: int, width: int) -> dict[str, Any]:
    defs: dict[str, Any] = {"l0": {"type": "string"}}
    for level in range(1, levels):
        below = {"$ref": f"#/$defs/l{level - 1}"}
        defs[f"l{level}"] = {"type": "object", "properties": {f"p{i}": below for i in range(width)}}
    return {"$defs": defs, "$ref": f"#/$defs/l{levels - 1}"}


def _product(factors: int, width: int) -> dict[str, Any]:
    return {
        "allOf": [{"anyOf": [{"required": [f"p{factor}_{way}"]} for way in range(width)]} for factor in range(factors)],
        "type": "object",
    }


HOSTILE: dict[str, tuple[Constraint, tuple[str, ...]]] = {
    # table 1.1 and its like: repeats of repeats
    "repeats of repeats": _regex(r"(a{1,200}){1,200}", "grammar_too_complex"),
    "three levels of repeats": _regex(r"((a{1,100}){1,100}){1,100}", "grammar_too_complex"),
    "any text of a length": _regex(r".{0,100000}", "grammar_too_complex"),
    "letters of a length": _regex(r"[a-z]{1,1000000}", "grammar_too_complex"),
    "a million": _regex(r"a{1000000}", "grammar_too_complex"),
    "a number of repeats without end": _regex("a{" + "9" * 5_000 + "}", "grammar_too_complex"),
    "the twentieth from the end": _regex(r"(a|b)*a(a|b){20}", "grammar_too_complex"),
    "the thirteenth from the end": _regex(r"[ab]*a[ab]{13}", "grammar_too_complex"),
    "letters of all scripts": _regex(r"\p{L}{1,500}", "invalid_regex"),
    "words of words": _regex(r"(\w{1,30}){1,30}", "grammar_too_complex"),
    "a thousand of a thousand": _regex(r"(.{0,1000}){0,1000}", "grammar_too_complex"),
    "fifty nested stars": _regex("(" * 50 + "a" + "*)" * 50, OK),
    "stars of alternatives": _regex(r"((a|b|ab|ba)*(aa|bb|abab)*)*c", OK),
    "ten thousand alternatives": _regex("|".join(f"word{i:05}" for i in range(9_000)), "grammar_too_complex"),
    "overlapping alternatives": _regex("|".join(f".{{{i}}}{chr(97 + i % 26)}" for i in range(60)), OK),
    "many sets": _regex(r"[\w\W\d\D\s\S]" * 2_000, "grammar_too_complex"),
    "look-ahead": _regex(r"(?=a)b", "invalid_regex"),
    "look-behind": _regex(r"(?<!a)b", "invalid_regex"),
    "a back-reference": _regex(r"(a+)\1", "invalid_regex"),
    "open groups": _regex("(((", "invalid_regex"),
    "two hundred thousand parentheses": _regex("(" * 200_000, "grammar_too_complex"),
    "closed parentheses": _regex("(" * 30_000 + ")" * 30_000, "grammar_too_complex"),
    "half a surrogate pair": _regex("\ud800", "grammar_empty"),
    "NUL": _regex("a\x00b", OK),
    "nothing at all": _regex(r"[^\s\S]", "grammar_empty"),
    "two megabytes of letters": _regex("a" * 2_000_000, "grammar_too_complex"),
    "anchors inside": _regex("a^b", "invalid_regex"),
    # schemas
    "nested a hundred deep": _schema(_nested(100), "schema_too_large"),
    "nested a thousand deep": _schema("[" * 100_000, "schema_too_large"),
    "a billion items": _schema({"type": "array", "maxItems": 10**9}, OK),
    "a billion items asked for": _schema({"type": "array", "minItems": 10**9}, "schema_too_large"),
    "ten million items of items": _schema(
        {"type": "array", "minItems": 10_000, "items": {"type": "array", "minItems": 10_000}}, "schema_too_large"
    ),
    "a string of a length": _schema({"type": "string", "maxLength": 10**8}, OK),
    "a string of a length asked for": _schema({"type": "string", "minLength": 10**8}, "schema_too_large"),
    "two thousand optional properties": _schema(
        {"type": "object", "properties": {f"p{i}": {} for i in range(2_000)}}, "schema_too_large"
    ),
    "a thousand optional properties": _schema(
        {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(1_000)}}, OK, "grammar_too_complex"
    ),
    "twenty thousand required names": _schema(
        {"type": "object", "required": [f"p{i}" for i in range(20_000)]}, "schema_too_large"
    ),
    "a large divisor": _schema({"type": "integer", "multipleOf": 9_999_991}, "schema_too_large"),
    "a small divisor": _schema({"type": "number", "multipleOf": 1e-9}, OK),
    "laughs": _schema(_laughs(30, 10), OK),
    "a product of choices": _schema(_product(12, 5), "schema_too_large"),
    "oneOf of many": _schema({"oneOf": [{"required": [f"p{i}"]} for i in range(40)]}, OK, "grammar_too_complex"),
    "a reference to itself": _schema({"$ref": "#"}, "unresolvable_ref"),
    "references in a ring": _schema(
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "unresolvable_ref"
    ),
    "a value that needs itself": _schema(
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "unsatisfiable_schema"
    ),
    "a reference to the network": _schema({"$ref": "http://127.0.0.1:9/x"}, "unresolvable_ref"),
    "no values": _schema({"enum": []}, "unsatisfiable_schema"),
    "bounds that cross": _schema({"type": "integer", "minimum": 5, "maximum": 1}, "unsatisfiable_schema"),
    "types that exclude each other": _schema(
        {"allOf": [{"type": "string"}, {"type": "integer"}]}, "unsatisfiable_schema"
    ),
    "false": _schema("false", "unsatisfiable_schema"),
    "a negative length": _schema({"minLength": -1}, "invalid_schema"),
    "a broken length": _schema({"maxLength": 1.5}, "invalid_schema"),
    "a hundred thousand values": _schema({"enum": list(range(100_000))}, "schema_too_large"),
    "a pattern of repeats": _schema(
        {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"}, OK
    ),
    "a pattern that backtracks": _schema(
        {"properties": {"x" * 60 + "!": {}}, "patternProperties": {"^(x+x+)+$": {"type": "integer"}}},
        "grammar_too_complex",
    ),
    "not JSON": _schema("{", "invalid_schema"),
    "numbers beyond all bounds": _schema('{"minimum": ' + "9" * 6_000 + "}", "invalid_schema"),
    # grammars
    "left recursion that is ambiguous": _grammar('start: start start | "a"', OK),
    "recursion without an end": _grammar("start: start start", "grammar_too_complex"),
    "a rule that is not there": _grammar("start: nothing", "invalid_grammar"),
    "terminals of repeats": _grammar(r"start: /((a{1,100}){1,100}){1,100}/", OK),
    "a grammar of a megabyte": _grammar('start: "' + "a" * 1_000_000 + '"', "grammar_too_complex"),
    "ten thousand rules": _grammar(
        "start: r0\n" + "\n".join(f'r{i}: "a" r{i + 1} | "b"' for i in range(8_000)) + '\nr8000: "c"',
        "grammar_too_complex",
    ),
    "parentheses without end": _grammar("start: " + "(" * 100_000, "invalid_grammar"),
    "special tokens": _grammar("start: <|im_end|>", "invalid_grammar"),
    "an import": _grammar("%import python.NAME\nstart: NAME", "invalid_grammar"),
    "rubbish": _grammar("\x00\x01\x02 ::=", "invalid_grammar"),
    # choices
    "no choices": (Constraint("choices"), ("invalid_choices",)),
    "a choice of half a surrogate pair": (Constraint("choices", choices=("\ud800",)), ("invalid_choices",)),
    "choices without end": (
        Constraint("choices", choices=tuple(f"{i:09}" for i in range(500_000))), ("grammar_too_complex",)
    ),
    "a choice of a megabyte": (Constraint("choices", choices=("a" * 1_000_000,)), ("grammar_too_complex",)),
    # tags
    "tags of rubbish": (Constraint("tags", '{"tags": 5}'), ("invalid_grammar",)),
    "tags nested without end": (Constraint("tags", "[" * 100_000), ("invalid_grammar",)),
}  # fmt: skip
