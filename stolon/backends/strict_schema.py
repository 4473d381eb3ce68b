"""OpenAI's strict JSON schemas: which schema to send for a form, and how to undo on the answer what that changed.

Strict mode takes less than JSON Schema: the root is an object, every property is required, no others may come. So
anything that is no object is wrapped in one, an optional property may be null, a dictionary is a list of pairs, and a
tuple an object of numbered items. What has no such form is refused with its JSON pointer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

from ..lang.constraint import Constraint
from ..lang.errors import UnsupportedError
from .jsonvalue import Json, as_list, as_object

WRAPPER = "answer"
KEY, VALUE = "key", "value"  # of the pairs that stand for a dictionary

_KEPT = frozenset("description type enum pattern minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split())
_COUNTED = frozenset({"minItems", "maxItems"})
_FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid".split())
_REFUSED = frozenset(
    "not if then else dependentRequired dependentSchemas dependencies contains minContains maxContains uniqueItems "
    "unevaluatedProperties unevaluatedItems additionalItems $dynamicRef $recursiveRef".split()
)
_NOTES = frozenset("title description default examples deprecated readOnly writeOnly discriminator $defs".split())


@dataclass(slots=True, eq=False)
class Fields:
    """An object whose answer has all properties; `optional` ones that are null were left out."""

    shapes: dict[str, Shape] = field(default_factory=dict[str, "Shape"])
    optional: set[str] = field(default_factory=set[str])


@dataclass(slots=True, eq=False)
class Items:
    shape: Shape


@dataclass(slots=True, eq=False)
class Numbered:
    """An object of numbered items that stands for a list of them."""

    shapes: list[Shape]


@dataclass(slots=True, eq=False)
class Pairs:
    """A list of pairs that stands for an object."""

    shape: Shape


Node = Fields | Items | Numbered | Pairs


@dataclass(slots=True, eq=False)
class Shape:
    """What a value of the answer may stand for: nodes, and further shapes that are found by reference.

    Texts, numbers and words stand for themselves and are not listed.
    """

    nodes: list[Node] = field(default_factory=list[Node])
    more: list[Shape] = field(default_factory=list["Shape"])

    def all_nodes(self) -> list[Node]:
        found: list[Node] = []
        seen: set[int] = set()
        left = [self]
        while left:
            shape = left.pop()
            if id(shape) not in seen:
                seen.add(id(shape))
                found += shape.nodes
                left += shape.more
        return found

    def of_object(self) -> list[Fields | Numbered]:
        return [node for node in self.all_nodes() if isinstance(node, (Fields, Numbered))]

    def of_list(self) -> list[Items | Pairs]:
        return [node for node in self.all_nodes() if isinstance(node, (Items, Pairs))]


@dataclass(frozen=True, slots=True)
class StrictForm:
    """schema: to be sent; shape: of the answer; wrapped: the answer is the only property of an object
    is_text: what was asked for is the content of a text, not JSON
    """

    schema: Json
    shape: Shape
    wrapped: bool
    is_text: bool = False

    def response_format(self) -> Json:
        return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": self.schema}}


def strict_form(constraint: Constraint) -> StrictForm:
    """Raises UnsupportedError, with the JSON pointer, for what strict mode cannot say."""
    match constraint.kind:
        case "choices":
            return _wrapped({"type": "string", "enum": list(constraint.choices)}, Shape(), is_text=True)
        case "regex":
            return _wrapped({"type": "string", "pattern": f"^(?:{constraint.text})$"}, Shape(), is_text=True)
        case "json_schema":
            return _Converter(json.loads(constraint.text)).form()
        case kind:
            raise UnsupportedError(f"a strict schema cannot say a {kind}", param=kind)


def _wrapped(schema: Json, shape: Shape, *, is_text: bool = False, definitions: Json | None = None) -> StrictForm:
    whole = _closed({WRAPPER: schema}) | ({"$defs": definitions} if definitions else {})
    return StrictForm(whole, shape, wrapped=True, is_text=is_text)


def _closed(properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _refused(pointer: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"schema {pointer}: {what} cannot be said in OpenAI's strict mode; fallback='retry' checks and asks again",
        param=pointer,
    )


class _Converter:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._definitions: Json = {}
        self._shapes: dict[str, tuple[str, Shape]] = {}  # by pointer: name of the definition, and shape

    def form(self) -> StrictForm:
        schema, shape = self._converted(self._root, "#")
        while "$ref" in schema:  # the root of a strict schema may be no reference
            schema = self._definitions[schema["$ref"].removeprefix("#/$defs/")]
        _check_told_apart(shape)
        if schema.get("type") == "object" and "anyOf" not in schema:
            definitions = {"$defs": self._definitions} if self._definitions else {}
            return StrictForm({**schema, **definitions}, shape, wrapped=False)
        return _wrapped(schema, shape, definitions=self._definitions)

    def _converted(self, schema: Any, pointer: str) -> tuple[Json, Shape]:
        found = as_object(schema)
        if found is None:
            raise _refused(pointer, f"the schema {schema!r}")
        for keyword in found:
            if keyword in _REFUSED and found[keyword] is not False:
                raise _refused(f"{pointer}/{keyword}", f"{keyword!r}")
        ways = [(key, as_list(found[key]) or []) for key in ("anyOf", "oneOf", "allOf") if key in found]
        if "$ref" in found or ways:
            return self._combined(found, ways, pointer)
        if found.get("type") == "object" or ("type" not in found and "properties" in found):
            return self._object(found, pointer)
        if found.get("type") == "array":
            return self._array(found, pointer)
        return self._simple(found, pointer), Shape()

    def _combined(self, schema: Json, ways: Sequence[tuple[str, list[Any]]], pointer: str) -> tuple[Json, Shape]:
        others = [key for key in schema if key not in _NOTES and key not in ("$ref", "anyOf", "oneOf", "allOf")]
        if others or len(ways) + ("$ref" in schema) > 1:
            both = [*others, *(key for key, _ in ways)]
            raise _refused(f"{pointer}/{both[-1]}", f"{both[-1]!r} beside another keyword")
        if "$ref" in schema:
            return self._reference(str(schema["$ref"]), pointer)
        ((key, schemas),) = ways
        if key == "allOf" and len(schemas) == 1:
            return self._converted(schemas[0], f"{pointer}/allOf/0")
        if key == "allOf":
            raise _refused(f"{pointer}/allOf", "'allOf'")
        # of `oneOf`, that only one of them holds is for the check of the answer
        parts = [self._converted(one, f"{pointer}/{key}/{index}") for index, one in enumerate(schemas)]
        return {"anyOf": [one for one, _ in parts]}, Shape(more=[shape for _, shape in parts])

    def _reference(self, reference: str, pointer: str) -> tuple[Json, Shape]:
        if reference not in self._shapes:
            name = re.sub(r"\W", "_", reference.rsplit("/", 1)[-1]) or "root"
            while any(name == used for used, _ in self._shapes.values()):
                name += "_"
            shape = Shape()
            self._shapes[reference] = name, shape
            schema, inner = self._converted(self._resolved(reference, pointer), reference)
            self._definitions[name] = schema
            shape.more.append(inner)
        name, shape = self._shapes[reference]
        return {"$ref": f"#/$defs/{name}"}, shape

    def _resolved(self, reference: str, pointer: str) -> Any:
        found: Any = self._root
        try:
            if not reference.startswith("#"):
                raise KeyError
            for step in unquote(reference[1:]).split("/")[1:]:
                step = step.replace("~1", "/").replace("~0", "~")
                found = cast("Any", found[int(step)] if isinstance(found, list) else found[step])
        except (KeyError, IndexError, ValueError, TypeError):
            raise _refused(f"{pointer}/$ref", f"the reference {reference!r}") from None
        return found

    def _object(self, schema: Json, pointer: str) -> tuple[Json, Shape]:
        properties = as_object(schema.get("properties")) or {}
        rest = schema.get("additionalProperties", None if properties else True)
        patterns = as_object(schema.get("patternProperties")) or {}
        if not properties and (patterns or rest is not False):
            return self._dictionary(schema, patterns, rest, pointer)
        if patterns or as_object(rest):
            raise _refused(pointer, "an object with properties of given and of other names")
        for keyword in ("minProperties", "maxProperties", "propertyNames"):
            if keyword in schema:
                raise _refused(f"{pointer}/{keyword}", f"{keyword!r}")
        required = as_list(schema.get("required")) or []
        unknown = [name for name in required if name not in properties]
        if unknown:
            raise _refused(f"{pointer}/required", f"the property {unknown[0]!r}, which has no schema,")
        node, written = Fields(), Json()
        for name, inner in properties.items():
            made, node.shapes[name] = self._converted(inner, f"{pointer}/properties/{name}")
            written[name] = made
            if name not in required and not self._may_be_null(inner, pointer):
                node.optional.add(name)
                written[name] = {"anyOf": [made, {"type": "null"}]}
        notes = {"description": schema["description"]} if "description" in schema else {}
        return notes | _closed(written), Shape([node])

    def _may_be_null(self, schema: Any, pointer: str, seen: tuple[str, ...] = ()) -> bool:
        """Whether null is a value of `schema`; then it says so itself, and null is kept."""
        found = as_object(schema) or {}
        reference = found.get("$ref")
        if isinstance(reference, str) and reference not in seen:
            return self._may_be_null(self._resolved(reference, pointer), pointer, (*seen, reference))
        ways = [*(as_list(found.get("anyOf")) or []), *(as_list(found.get("oneOf")) or [])]
        kind = found.get("type")
        return (
            kind == "null"
            or (isinstance(kind, list) and "null" in kind)
            or None in (as_list(found.get("enum")) or [])
            or ("const" in found and found["const"] is None)
            or any(self._may_be_null(way, pointer, seen) for way in ways)
        )

    def _dictionary(self, schema: Json, patterns: Json, rest: Any, pointer: str) -> tuple[Json, Shape]:
        if as_list(schema.get("required")) or len(patterns) > 1 or (patterns and rest is not False):
            raise _refused(pointer, "an object with properties of given and of other names")
        names = as_object(schema.get("propertyNames")) or {}
        names = names if "$ref" in names else {**names, "type": "string"}
        key, _ = self._converted(names, f"{pointer}/propertyNames")
        inner, where = rest, "additionalProperties"
        for pattern, one in patterns.items():
            key, inner, where = {"type": "string", "pattern": pattern}, one, f"patternProperties/{pattern}"
        value, shape = self._converted(inner, f"{pointer}/{where}")
        counts = {"minItems": "minProperties", "maxItems": "maxProperties"}
        written = {"type": "array", "items": _closed({KEY: key, VALUE: value})}
        written |= {ours: schema[theirs] for ours, theirs in counts.items() if theirs in schema}
        return written, Shape([Pairs(shape)])

    def _array(self, schema: Json, pointer: str) -> tuple[Json, Shape]:
        first = as_list(schema.get("prefixItems"))
        counts = {key: schema[key] for key in _COUNTED if key in schema}
        if first is not None:
            if schema.get("minItems") != len(first) or (schema.get("maxItems") != len(first)):
                raise _refused(f"{pointer}/prefixItems", "a tuple that may be shorter or longer")
            parts = [self._converted(one, f"{pointer}/prefixItems/{index}") for index, one in enumerate(first)]
            numbered = {f"item_{index}": made for index, (made, _) in enumerate(parts, 1)}
            return _closed(numbered), Shape([Numbered([shape for _, shape in parts])])
        items, shape = self._converted(schema.get("items", True), f"{pointer}/items")
        return {"type": "array", "items": items} | counts, Shape([Items(shape)])

    def _simple(self, schema: Json, pointer: str) -> Json:
        written = {key: value for key, value in schema.items() if key in _KEPT and not _is_no_bound(value)}
        if "const" in schema:
            written["enum"] = [schema["const"]]
        if schema.get("format") in _FORMATS:
            written["format"] = schema["format"]
        if "minLength" in schema or "maxLength" in schema:
            if "pattern" in schema:
                raise _refused(f"{pointer}/pattern", "a pattern beside a length")
            written["pattern"] = rf"^[\s\S]{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}$"
        if "type" not in written and "enum" not in written:
            raise _refused(pointer, "a value of any type")
        kinds = as_list(written.get("type")) or []
        if "object" in kinds or "array" in kinds:
            raise _refused(f"{pointer}/type", "a list of types with 'object' or 'array' in it")
        return written


def _is_no_bound(value: object) -> bool:
    """Whether it is a bound that says no more than that a number is one."""
    return isinstance(value, float) and abs(value) >= 1e300


def _check_told_apart(shape: Shape) -> None:
    """Refuse ways that the answer does not tell apart and that are undone differently."""
    seen: set[frozenset[int]] = set()

    def check(shapes: Sequence[Shape]) -> None:
        objects = {id(node): node for shape in shapes for node in shape.of_object()}
        lists = {id(node): node for shape in shapes for node in shape.of_list()}
        together = frozenset([*objects, *lists])
        if together in seen:
            return
        seen.add(together)
        for nodes in (list(objects.values()), list(lists.values())):
            if len({type(node) for node in nodes}) > 1:
                raise _refused("#", "a choice between a list or dictionary and one that is written the same")
        for inner in _inner_shapes([*objects.values(), *lists.values()]):
            check(inner)

    check([shape])


def _inner_shapes(nodes: Sequence[Node]) -> Iterator[list[Shape]]:
    """The shapes that stand at the same place of an answer, place by place."""
    places: dict[object, list[Shape]] = {}
    optional: dict[str, bool] = {}
    for node in nodes:
        match node:
            case Fields(shapes, left_out):
                for name, shape in shapes.items():
                    if optional.setdefault(name, name in left_out) != (name in left_out):
                        raise _refused("#", f"a choice of objects whose {name!r} may be left out in one only")
                    places.setdefault(name, []).append(shape)
            case Items(shape) | Pairs(shape):
                places.setdefault(0, []).append(shape)
            case Numbered(shapes):
                for index, shape in enumerate(shapes, 1):
                    places.setdefault(f"item_{index}", []).append(shape)
    yield from places.values()
