"""From unions of shapes to the plain schema that llguidance is given.

What is written uses only: `type` with its own keywords, `anyOf`, `allOf` of strings, `const` of scalars, `false`, and
references without siblings. Everything that llguidance reads otherwise than JSON Schema does is spelled out here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations, permutations
from math import comb
from typing import Any, cast

from .linter import MAX_NODES, too_large
from .rewrite import Rewriter
from .rewrite_scalars import number_nodes, spelled, string_nodes
from .rewrite_shapes import (
    ANYTHING,
    All,
    Array,
    Boolean,
    Contains,
    Null,
    Number,
    Object,
    Shape,
    String,
    Term,
    Unsupported,
    both,
    searches,
)
from .schema_places import unsupported_in

Node = dict[str, Any]
# how many ways to choose properties, or places of items, are written out
_MAX_WAYS = 256
# the last place where an item asked for by `contains` is put
_CONTAINS_WITHIN = 8
_MAX_UNIQUE = 5


class Emitter:
    """Writes the definitions of all terms that are reached from one."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self.definitions: dict[str, Node | bool] = {}
        self._names: dict[Term, str] = {}
        self._waiting: list[tuple[str, Term]] = []

    def emit(self, root: Term) -> str:
        """The name of the root's definition; `definitions` holds it and all that it needs."""
        name = self._name(root)
        while self._waiting:
            here, term = self._waiting.pop()
            self.definitions[here] = self._write(term)
            if len(self._names) > MAX_NODES:
                raise too_large("", "schemas that it is rewritten to", len(self._names), MAX_NODES)
        return name

    @property
    def terms(self) -> dict[str, Term]:
        """What each definition was written for."""
        return {name: term for term, name in self._names.items()}

    @property
    def patterns(self) -> list[str]:
        """All patterns of strings that were written."""
        found: dict[str, None] = {}
        pending: list[Any] = list(self.definitions.values())
        while pending:
            node = pending.pop()
            if isinstance(node, dict) and "anyOf" in node:
                pending += cast("list[Any]", node["anyOf"])
            elif isinstance(node, dict) and "pattern" in node:
                found[str(cast("Node", node)["pattern"])] = None
        return list(found)

    @property
    def is_plain(self) -> bool:
        """Whether nothing that was written asks for a pattern, of a string or of a name."""
        marks = ('"pattern"', '"format"', '"patternProperties"')
        return not any(
            mark in text for node in self.definitions.values() for text in [json.dumps(node)] for mark in marks
        )

    def _name(self, term: Term) -> str:
        if term not in self._names:
            self._names[term] = f"d{len(self._names)}"
            self._waiting.append((self._names[term], term))
        return self._names[term]

    def _ref(self, term: Term) -> Node | bool:
        if isinstance(term, bool):
            return term
        return {"$ref": f"#/$defs/{self._name(term)}"}

    def _write(self, term: Term) -> Node | bool:
        union = self.rewriter.union(term)
        if union == ANYTHING:
            return True
        # what a string is not is left out beside other shapes: less can be said then, and nothing wrong
        said = tuple(shape for shape in union if not (isinstance(shape, String) and shape.not_patterns)) or union
        try:
            return any_of([node for shape in said for node in self._shape(shape)])
        except Unsupported as error:
            refusal = unsupported_in(self.rewriter.document, term, error)
            if self.rewriter.leave_out(term, refusal):
                return False
            raise refusal from error

    def _shape(self, shape: Shape) -> list[Node | bool]:
        match shape:
            case Null():
                return [{"type": "null"}]
            case Boolean(values):
                return [{"type": "boolean"}] if len(values) == 2 else [{"const": value} for value in values]
            case Number():
                return [*number_nodes(shape)]
            case String():
                return [*string_nodes(shape)]
            case Array():
                return self._array(shape)
            case Object():
                return self._object(shape)

    def _array(self, shape: Array) -> list[Node | bool]:
        found: list[Node | bool] = []
        for one in self._unique(shape):
            for prefix, items, least in self._containing(one):
                part = Array(prefix=prefix, items=items, min_items=max(one.min_items, least), max_items=one.max_items)
                if part.is_empty:
                    continue
                node: Node = {"type": "array"}
                if part.prefix:
                    node["prefixItems"] = [self._ref(term) for term in part.prefix]
                node["items"] = self._ref(part.items)
                if part.min_items:
                    node["minItems"] = part.min_items
                if part.longest is not None:
                    node["maxItems"] = part.longest
                found.append(node)
        return found

    def _unique(self, shape: Array) -> list[Array]:
        """Arrays without doubles, written out where the items come from a short list."""
        if not shape.unique or (shape.longest is not None and shape.longest <= 1):
            return [shape]
        if shape.prefix or shape.contains:
            raise Unsupported("uniqueItems", "beside `prefixItems` or `contains` the arrays are too many to write out")
        values = [part for one in self.rewriter.union(shape.items) for part in _singles(one)]
        if None in values or len(values) > _MAX_UNIQUE:
            raise Unsupported(
                "uniqueItems", f"only items from a list of at most {_MAX_UNIQUE} values can be kept apart"
            )
        longest = min(len(values), shape.longest if shape.longest is not None else len(values))
        found: list[Array] = []
        for length in range(shape.min_items, longest + 1):
            for chosen in permutations(values, length):
                terms = tuple(self._literal(shape, json.loads(text)) for text in chosen if text is not None)
                found.append(Array(prefix=terms, items=False, min_items=length, max_items=length))
        return found

    def _literal(self, shape: Array, value: Any) -> Term:
        assert not isinstance(shape.items, bool)
        at = shape.items.parts[0] if isinstance(shape.items, All) else shape.items
        return self.rewriter.document.written(at, {"const": value})

    def _containing(self, shape: Array) -> list[tuple[tuple[Term, ...], Term, int]]:
        """Prefix, items and least length of arrays that hold to `contains`, by where its items are."""
        if not shape.contains:
            return [(shape.prefix, shape.items, 0)]
        wanted, *more = shape.contains
        if more:
            raise Unsupported("contains", "several of them would have to be held at once")
        other = True if wanted.most is None else self.rewriter.negated_term(wanted.term)
        most = wanted.least if wanted.most is None else wanted.most
        found: list[tuple[tuple[Term, ...], Term, int]] = []
        for count in range(wanted.least, most + 1):
            for places in _placings(count, wanted, shape.longest):
                length = places[-1] + 1 if places else 0
                marks = [wanted.term if i in places else other for i in range(max(length, len(shape.prefix)))]
                prefix = tuple(both(shape.item(i), mark) for i, mark in enumerate(marks))
                found.append((prefix, both(shape.items, other), length))
                if len(found) > _MAX_WAYS:
                    raise Unsupported("contains", f"its items can be in more than {_MAX_WAYS} ways")
        return found

    def _object(self, shape: Object) -> list[Node | bool]:
        shape = self._with_names(shape)
        return [self._plain_object(one) for one in self._counted(shape) if not one.is_empty]

    def _plain_object(self, shape: Object) -> Node:
        node: Node = {"type": "object"}
        # a required name that is not listed would come after all that are: this says the same, and names its schema
        listed = dict(shape.properties)
        listed.update({name: shape.of(name) for name in shape.required if name not in listed})
        if listed:
            node["properties"] = {name: self._ref(term) for name, term in listed.items()}
        if shape.required:
            node["required"] = list(shape.required)
        patterns = {spelled(pattern): self._ref(term) for pattern, term in shape.patterns}
        if patterns:
            node["patternProperties"] = patterns
        node["additionalProperties"] = self._ref(shape.additional)
        if shape.min_properties > len(shape.required):
            node["minProperties"] = shape.min_properties
        if shape.max_properties is not None:
            node["maxProperties"] = shape.max_properties
        return node

    def _with_names(self, shape: Object) -> Object:
        """`propertyNames` as the properties and patterns that it leaves."""
        if shape.names is True:
            return shape
        texts = [one for one in self.rewriter.union(shape.names) if isinstance(one, String)]
        if not texts:
            return _restricted(shape, lambda _: False, (), additional=False)
        if len(texts) > 1 or shape.patterns or texts[0].formats:
            raise Unsupported("propertyNames", "only names from a list, of a length, or of one pattern can be held")
        names = texts[0]
        if names.values is not None:
            extra = tuple((name, shape.of(name)) for name in names.values if name not in dict(shape.properties))
            kept = set(names.values)
            return _restricted(shape, lambda name: name in kept, extra, additional=False)
        pattern = _name_pattern(names)
        found = _restricted(shape, lambda name: searches(pattern, name), (), additional=False)
        if shape.additional is False:
            return found
        patterns = ((pattern, shape.additional),)
        return Object(found.properties, patterns, False, found.required, found.min_properties, found.max_properties)

    def _counted(self, shape: Object) -> list[Object]:
        """`minProperties` and `maxProperties` as choices of what is required and what is absent."""
        names = [name for name, term in shape.properties if not self.rewriter.is_empty(term)]
        optional = [name for name in names if name not in shape.required]
        is_open = not self.rewriter.is_empty(shape.additional) or bool(shape.patterns)
        least = max(0, shape.min_properties - len(shape.required))
        most = None if shape.max_properties is None else shape.max_properties - len(shape.required)
        if most is not None and not is_open and most >= len(optional):
            most = None
        if not least and most is None:
            return [_recount(shape, (), (), 0, None)]
        if not optional:
            return [_by_additional(shape, least, most, is_open)]
        found: list[Object] = []
        for count in range(least if most is None else min(least, len(optional)), len(optional) + 1):
            if most is None and count > least:
                break
            found += [] if most is not None and count > most else self._chosen(shape, optional, count, least, most)
            _check_ways(len(found), 1)
        return found + self._with_additional(shape, optional, least, most, is_open)

    def _chosen(self, shape: Object, optional: list[str], count: int, least: int, most: int | None) -> list[Object]:
        """Objects that have `count` of the optional properties; others too, where there is no most."""
        found: list[Object] = []
        _check_ways(len(optional), count)
        for chosen in combinations(optional, count):
            absent = () if most is None else tuple(name for name in optional if name not in chosen)
            extra = None if most is None else most - count
            if count >= least:
                found.append(_recount(shape, chosen, absent, 0, extra))
        return found

    def _with_additional(
        self, shape: Object, optional: list[str], least: int, most: int | None, is_open: bool
    ) -> list[Object]:
        """Objects that come to the least number only with a property that is not named."""
        if not least or not is_open:
            return []
        found: list[Object] = []
        _check_ways(len(optional), least - 1)
        for chosen in combinations(optional, least - 1):
            absent = tuple(name for name in optional if name not in chosen)
            found.append(_recount(shape, chosen, absent, 1, None if most is None else most - least + 1))
        return found


def any_of(nodes: list[Node | bool]) -> Node | bool:
    if not nodes:
        return False
    return nodes[0] if len(nodes) == 1 else {"anyOf": nodes}


def _check_ways(count: int, chosen: int) -> None:
    if comb(count, chosen) > _MAX_WAYS:
        raise Unsupported("minProperties", f"the properties can be chosen in more than {_MAX_WAYS} ways")


def _recount(shape: Object, chosen: tuple[str, ...], absent: tuple[str, ...], least: int, extra: int | None) -> Object:
    """`shape` with some properties required and some absent, and so many that are not named."""
    required = (*shape.required, *chosen)
    properties = tuple((name, False if name in absent else term) for name, term in shape.properties)
    most = None if extra is None else len(required) + extra
    return Object(properties, shape.patterns, shape.additional, required, least and least + len(required), most)


def _by_additional(shape: Object, least: int, most: int | None, is_open: bool) -> Object:
    if least > 1:
        # the engine does not keep names apart that are not listed, and a reader counts doubles once
        raise Unsupported("minProperties", "names that the schema does not list cannot be kept apart")
    if least and not is_open:
        return Object(max_properties=0, required=("",), additional=False)
    return _recount(shape, (), (), least, most)


def _restricted(
    shape: Object, keeps: Callable[[str], bool], extra: tuple[tuple[str, Term], ...], *, additional: Term
) -> Object:
    listed = (*((name, term if keeps(name) else False) for name, term in shape.properties), *extra)
    missing = tuple((name, False) for name in shape.required if not keeps(name) and name not in dict(listed))
    return Object((*listed, *missing), (), additional, shape.required, shape.min_properties, shape.max_properties)


def _name_pattern(names: String) -> str:
    if names.excluded or names.not_patterns or len(names.patterns) > 1:
        raise Unsupported("propertyNames", "names by what they are not cannot be held")
    if not names.patterns:
        most = "" if names.max_length is None else names.max_length
        return rf"^[\s\S]{{{names.min_length},{most}}}$"
    if names.min_length or names.max_length is not None:
        raise Unsupported("propertyNames", "a pattern and a length together cannot be held")
    return names.patterns[0]


def _singles(shape: Shape) -> list[str | None]:
    """The values of a shape as JSON, if they are listed; else a None."""
    match shape:
        case Null():
            return ["null"]
        case Boolean(values):
            return [json.dumps(value) for value in sorted(values)]
        case Number() if shape.point is not None and shape.point.denominator == 1:
            return [str(shape.point)]
        case String() if shape.values is not None and not shape.formats:
            return [json.dumps(value) for value in shape.values]
        case _:
            return [None]


def _placings(count: int, wanted: Contains, longest: int | None) -> list[tuple[int, ...]]:
    within = _CONTAINS_WITHIN if longest is None else min(longest, _CONTAINS_WITHIN)
    if count > within:
        return []
    return list(combinations(range(within), count))
