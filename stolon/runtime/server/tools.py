"""`tools` and `tool_choice`: what a model may call, must call, and in which form."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ...lang.constraint import Constraint
from ..limits import LENGTHS
from .body import JsonObject
from .constraints import Asked, schema_text
from .errors import clip, invalid
from .fields import Field, boolean, describe, list_of, mapping, object_of, one_of, string
from .formats.choose import ToolFormat

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_NO_PARAMETERS: JsonObject = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """path: of its parameters, in the request"""

    name: str
    description: str | None
    parameters: JsonObject | None
    strict: bool
    path: str

    def for_template(self) -> JsonObject:
        """As chat templates expect it, in the order in which models were trained on it."""
        function: JsonObject = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = _NO_PARAMETERS if self.parameters is None else self.parameters
        return {"type": "function", "function": function}

    def schema(self) -> JsonObject:
        """Of its arguments, which are an object also where their schema does not say so."""
        if self.parameters is None:
            return {**_NO_PARAMETERS, "additionalProperties": False}
        return {"type": "object", **self.parameters}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The tools of one request, at least one: the model is shown all of them.

    must: the answer is calls and nothing else; only: the names that may be called, at least one; None: all
    parallel: an answer may have more than one call
    """

    tools: tuple[Tool, ...]
    must: bool = False
    only: frozenset[str] | None = None
    parallel: bool = True

    @property
    def allowed(self) -> list[Tool]:
        return [tool for tool in self.tools if self.only is None or tool.name in self.only]

    @property
    def names(self) -> frozenset[str]:
        """Of those that may be called."""
        return frozenset(tool.name for tool in self.allowed)

    def for_template(self) -> list[JsonObject]:
        return [tool.for_template() for tool in self.tools]

    def constraint(self, format: ToolFormat | None, asked: Asked | None = None) -> Asked | None:
        """What makes calls come out right: always where there must be calls, for strict tools where there may be, where
        an answer without calls must have a form, and where a call that may not be can be told by its mark.

        format: of the calls where the model chooses; others are of the form that `forced` names
        asked: the form of an answer without calls, a JSON schema or object; where there must be calls there is none
        """
        tools = self.allowed
        if self.must or asked is not None:
            most = LENGTHS["tool_calls"].high if self.parallel else 1
            answer = None if self.must else asked
            return _tags(tools, _WRITTEN[forced(format)], free=False, most=most, answer=answer)
        # of the other forms each call has a mark of its own, so that text may still spell one that may not be
        is_narrowed = format == "hermes" and len(tools) < len(self.tools)
        if not is_narrowed and not any(tool.strict for tool in tools):
            return None
        if format not in _WRITTEN:
            tool = next(tool for tool in tools if tool.strict)
            raise invalid(
                f"{tool.path}: this model's calls are not written as JSON, so that they cannot be kept to a schema; "
                "leave strict out, or ask for a call with tool_choice: required",
                tool.path.replace(".parameters", ".strict"),
                "unsupported_parameter",
            )
        # behind a mark that all calls share, those to the other tools must be possible too
        return _tags(tools, _WRITTEN[format], free=True, most=None if self.parallel else 1)


def forced(format: ToolFormat | None) -> ToolFormat:
    """How a call is written that the model must make: its own form where that is JSON between marks that are text."""
    return "hermes" if format == "hermes" else "llama3"


@dataclass(frozen=True, slots=True)
class _Written:
    """How a call to NAME begins and ends, and what stands between two."""

    begin: str
    end: str
    separator: str


_WRITTEN: dict[ToolFormat | None, _Written] = {
    "hermes": _Written('<tool_call>\n{"name": NAME, "arguments": ', "}\n</tool_call>", "\n"),
    "llama3": _Written('{"name": NAME, "parameters": ', "}", "; "),
    "mistral": _Written('{"name": NAME, "arguments": ', "}", ""),
}


def _tags(tools: list[Tool], written: _Written, *, free: bool, most: int | None, answer: Asked | None = None) -> Asked:
    tags: list[JsonObject] = [
        {
            "begin": written.begin.replace("NAME", json.dumps(tool.name)),
            "schema": {"type": "object"} if free and not tool.strict else tool.schema(),
            "end": written.end,
        }
        for tool in tools
    ]
    paths = tuple(tool.path for tool in tools)
    if answer is not None:
        schema: JsonObject = json.loads(answer.constraint.text or '{"type": "object"}')
        tags.append({"begin": "", "schema": schema, "end": "", "alone": True})
        paths += (answer.path,)
    least, separator = (0, "") if free else (1, written.separator)
    text = {"tags": tags, "free": free, "least": least, "most": most, "separator": separator}
    return Asked(Constraint("tags", json.dumps(text, ensure_ascii=False)), paths[0], paths)


def _parameters(path: str, value: object) -> JsonObject:
    schema_text(path, value)
    found = cast(JsonObject, value)
    if found.get("type", "object") != "object":
        message = f"{path}.type must be 'object', since arguments have names, got {describe(found['type'])}"
        raise invalid(message, path, "invalid_schema")
    return found


def tool_name(path: str, value: object) -> str:
    name = string(LENGTHS["tool_name"])(path, value)
    if not _NAME.fullmatch(name):
        message = f"{path} may have letters, digits, '_', '-' and '.', got '{clip(name)}'"
        raise invalid(message, path)
    return name


NAME: Field[str] = Field({**string(LENGTHS["tool_name"]).schema, "pattern": f"^{_NAME.pattern}$"}, tool_name)
PARAMETERS: Field[JsonObject] = Field({"type": "object"}, _parameters)
FUNCTION: dict[str, Field[Any]] = {
    "name": NAME,
    "description": string(),
    "parameters": PARAMETERS,
    "strict": boolean,
}
_FUNCTION = object_of(FUNCTION, required=("name",))
_TOOL = object_of({"type": one_of("function"), "function": _FUNCTION}, required=("type", "function"))


def _tool(path: str, value: object) -> Tool:
    check_type(path, value)
    return made(_TOOL(path, value)["function"], f"{path}.function.parameters")


def made(function: JsonObject, path: str) -> Tool:
    """From the checked fields of a function."""
    found = cast("dict[str, Any]", function)
    return Tool(
        name=found["name"],
        description=found.get("description"),
        parameters=found.get("parameters"),
        strict=found.get("strict", False),
        path=path,
    )


def check_type(path: str, value: object) -> None:
    """Raises HttpError for tools that run on the server of whoever invented them."""
    kind = mapping(path, value).get("type")
    if isinstance(kind, str) and kind != "function":
        message = f"{path}.type: only tools of type 'function' are understood, got {describe(kind)}"
        raise invalid(message, f"{path}.type", "unsupported_parameter")


TOOLS: Field[list[Tool]] = list_of(Field(_TOOL.schema, _tool), LENGTHS["tools"])

# OpenAI's first form of tools: of an answer there is then one call at most
FUNCTIONS: Field[list[Tool]] = list_of(
    Field(_FUNCTION.schema, lambda path, value: made(_FUNCTION(path, value), f"{path}.parameters")), LENGTHS["tools"]
)

MODES = one_of("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class Choice:
    """only: names of the tools that may be called, each with its place in the request; empty: all
    once: it asks for one call; path: of the mode
    """

    mode: str
    only: Mapping[str, str] = field(default_factory=dict[str, str])
    once: bool = False
    path: str = "tool_choice"

    @classmethod
    def named(cls, name: str, path: str) -> Choice:
        """A call to the tool of that name."""
        return cls("required", {name: path}, once=True)


_SOME = dataclasses.replace(LENGTHS["tools"], low=1)


def allowed_among(named: Field[dict[str, Any]], **others: Field[Any]) -> Field[dict[str, Any]]:
    """OpenAI's way to allow some tools where all are shown. named: how one is written; others: further fields"""

    def name(path: str, value: object) -> dict[str, Any]:
        check_type(path, value)
        return named(path, value)

    names = list_of(Field(named.schema, name), _SOME)
    table = {**others, "mode": one_of("auto", "required"), "tools": names}
    return object_of(table, required=tuple(table))


_NAMED = object_of(
    {"type": one_of("function"), "function": object_of({"name": NAME}, required=("name",))},
    required=("type", "function"),
)
_ALLOWED = object_of(
    {"type": one_of("allowed_tools"), "allowed_tools": allowed_among(_NAMED)}, required=("type", "allowed_tools")
)


def _choice(path: str, value: object) -> Choice:
    if isinstance(value, str):
        return Choice(MODES(path, value), path=path)
    if mapping(path, value).get("type") == "allowed_tools":
        found = _ALLOWED(path, value)["allowed_tools"]
        at = f"{path}.allowed_tools"
        only = {each["function"]["name"]: f"{at}.tools[{i}].function.name" for i, each in enumerate(found["tools"])}
        return Choice(found["mode"], only, path=f"{at}.mode")
    check_type(path, value)
    return Choice.named(_NAMED(path, value)["function"]["name"], f"{path}.function.name")


TOOL_CHOICE: Field[Choice] = Field({"anyOf": [MODES.schema, _NAMED.schema, _ALLOWED.schema]}, _choice)


_FUNCTION_MODES = one_of("none", "auto")
_FUNCTION_NAMED = object_of({"name": NAME}, required=("name",))


def _function_call(path: str, value: object) -> Choice:
    if isinstance(value, str):
        return Choice(_FUNCTION_MODES(path, value), path=path)
    return Choice.named(_FUNCTION_NAMED(path, value)["name"], f"{path}.name")


FUNCTION_CALL: Field[Choice] = Field({"anyOf": [_FUNCTION_MODES.schema, _FUNCTION_NAMED.schema]}, _function_call)


def offer(tools: list[Tool], choice: Choice | None, *, parallel: bool) -> Offer | None:
    """What a request offers; None: no tool may be called. Raises HttpError where its fields contradict each other."""
    if not tools and choice is None:
        return None
    choice = choice or Choice("auto")
    if not tools and choice.mode == "required":
        raise invalid(f"{choice.path} asks for a call, but there are no tools", choice.path)
    names = [tool.name for tool in tools]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise invalid(f"two tools are called '{twice}'", "tools")
    for name, path in choice.only.items():
        if name not in names:
            raise invalid(f"{path}: no tool is called '{name}'", path)
    if not tools or choice.mode == "none":
        return None
    return Offer(
        tools=tuple(tools),
        must=choice.mode == "required",
        only=frozenset(choice.only) or None,
        parallel=parallel and not choice.once,
    )
