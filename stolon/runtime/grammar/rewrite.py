"""From schemas to unions of shapes: every keyword that a union can hold exactly, each rewritten by its meaning.

allOf           the shapes that all have in common
anyOf           the shapes that any has; where evaluation is asked about, also those that several have
oneOf           each, and none of the others that it is not disjoint from
not             for each shape the ways to differ from it (rewrite_negation.py)
if/then/else    (if and then) or (not if, and else)
dependent*      the property is absent, or it is there and what depends on it holds
$ref            what it names, together with what stands beside it (alone, up to draft 7)
unevaluated*    a restriction of what the shape at hand has not evaluated
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ...lang.errors import InvalidRequest
from .linter import refuse
from .rewrite_keywords import plain_shapes
from .rewrite_negation import Negation, negated
from .rewrite_shapes import ANYTHING, EVERYTHING, All, Array, Object, Raw, Term, Union, Unsupported, meet
from .schema_document import Document
from .schema_places import unsupported_in

MAX_SHAPES = 400
_PROPERTIES = frozenset({"properties", "patternProperties", "required"})
_NO_OBJECT = tuple(shape for shape in ANYTHING if not isinstance(shape, Object))
# `anyOf` this wide is looked at in all its combinations where evaluation is asked about
_COMBINED = 4
_LOGIC = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "dependentRequired", "dependentSchemas", "dependencies"})


class Rewriter:
    """Unions of the terms of one document, each worked out once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._known: dict[Term, Union] = {}
        self._open: set[Term] = set()
        self._negations: dict[Term, Term] = {}
        # terms whose unions leave out values that are valid: answers may have them, their negations could be wrong
        self._narrowed: set[Term] = set()
        self._denials: set[Term] = set()
        self.left_out: InvalidRequest | None = None

    def union(self, term: Term) -> Union:
        """Raises InvalidRequest where the schema cannot be expressed, with the pointer of the keyword."""
        if isinstance(term, bool):
            return ANYTHING if term else ()
        if term in self._known:
            if term in self._narrowed:
                self._narrowed |= self._open
            return self._known[term]
        if term in self._open:
            pointer = self.document.place(term)[1] if isinstance(term, Raw) else ""
            raise refuse(pointer, "its $ref leads back to itself before any value is met", "unresolvable_ref")
        self._open.add(term)
        try:
            found = self._all(term.parts) if isinstance(term, All) else self._raw(term)
        except InvalidRequest as error:
            if not self.leave_out(term, error):
                raise
            found = ()
        finally:
            self._open.discard(term)
        self._known[term] = found
        return found

    def leave_out(self, term: Term, error: InvalidRequest) -> bool:
        """Whether `term`, which cannot be expressed, may go without a value: it is one way to differ of several."""
        parts = term.parts if isinstance(term, All) else (term,)
        if error.code != "unsupported_schema_keyword" or self._denials.isdisjoint(parts):
            return False
        self.left_out = self.left_out or error
        self._narrowed |= self._open
        return True

    def meet(self, left: Union, right: Union, pointer: str = "") -> Union:
        if left is ANYTHING or right is ANYTHING:
            return right if left is ANYTHING else left
        found = tuple(dict.fromkeys(m for a in left for b in right if (m := meet(a, b)) is not None))
        if len(found) > MAX_SHAPES:
            raise refuse(
                pointer, f"its combinations are {len(found):,} shapes, the limit is {MAX_SHAPES}", "schema_too_large"
            )
        return found

    def join(self, unions: Iterable[Union], pointer: str = "") -> Union:
        found = tuple(dict.fromkeys(shape for union in unions for shape in union))
        if len(found) > MAX_SHAPES:
            raise refuse(
                pointer, f"its choices are {len(found):,} shapes, the limit is {MAX_SHAPES}", "schema_too_large"
            )
        return found

    def is_empty(self, term: Term) -> bool:
        """Whether no value is valid, as far as one level tells; in doubt not."""
        if isinstance(term, bool) or term in self._open:
            return term is False
        return not self.union(term) and term not in self._narrowed

    def _whole(self, term: Term, keyword: str) -> Union:
        """The union of a term that is to be denied."""
        found = self.union(term)
        if term in self._narrowed:
            raise Unsupported(keyword, "what it denies cannot be written out in full")
        return found

    def _all(self, parts: tuple[Raw, ...]) -> Union:
        found = ANYTHING
        for part in parts:
            if not self._is_negation(part):
                found = self.meet(found, self.union(part), self.document.place(part)[1])
        return self._negations_of(parts, found, ANYTHING)

    def _is_negation(self, term: Term) -> bool:
        return isinstance(term, Raw) and self.document.node(term).keys() == {"not"}

    def _negations_of(self, terms: Iterable[Term], found: Union, plain: Union) -> Union:
        """`found` without what the terms deny that are negations: last, because less of them has to be said then."""
        for term in terms:
            if isinstance(term, Raw) and self._is_negation(term):
                try:
                    denied = self._whole(self._inside(term, self.document.node(term)["not"], "not"), "not")
                    found = self._without(self.meet(found, plain), denied, "not")
                except Unsupported as error:
                    raise unsupported_in(self.document, term, error) from error
        return found

    def _raw(self, raw: Raw) -> Union:
        node = self.document.node(raw)
        pointer = self.document.place(raw)[1]
        keyword = ""
        try:
            if "$ref" in node and self.document.draft <= 7:
                keyword = "$ref"
                return self.union(self.document.resolve(raw, node["$ref"]))
            plain = plain_shapes(self.document, raw)
            found: Union = ANYTHING
            said_plain = False
            for keyword in node:
                # properties come in the order in which the keywords that name them stand
                if not said_plain and keyword in _PROPERTIES:
                    found, said_plain = self.meet(found, plain, pointer), True
                step = self._logic(raw, node, keyword, plain)
                if step is not None:
                    found = self.meet(found, step, pointer)
            found = found if said_plain else self.meet(found, plain, pointer)
            return self._unevaluated(raw, node, found)
        except Unsupported as error:
            raise unsupported_in(self.document, raw, error, keyword) from error
        except RecursionError as error:
            raise refuse(
                pointer, "it is nested too deeply when its references are followed", "schema_too_large"
            ) from error

    def _logic(self, raw: Raw, node: dict[str, Any], keyword: str, plain: Union) -> Union | None:
        """What a keyword says that speaks of whole schemas; None for all other keywords."""
        value = node[keyword]
        if keyword == "$ref":
            return self.union(self.document.resolve(raw, value))
        if keyword == "$dynamicRef":
            target = self.document.dynamic_target(raw, value)
            if target is None:
                raise Unsupported(keyword, "several schemas have that $dynamicAnchor")
            return self.union(target)
        if keyword not in _LOGIC:
            return None
        rule: Callable[[Raw, Any, Union], Union] = getattr(self, "_condition" if keyword == "if" else f"_{keyword}")
        return rule(raw, node if keyword == "if" else value, plain)

    def _of(self, raw: Raw, node: Any) -> Union:
        return self.union(self.document.written(raw, node))

    def _allOf(self, raw: Raw, parts: list[Any], plain: Union) -> Union:  # noqa: N802 - named by its keyword
        terms = [self._inside(raw, part, f"allOf/{index}") for index, part in enumerate(parts)]
        found = ANYTHING
        for term in terms:
            if not self._is_negation(term):
                found = self.meet(found, self.union(term), self.document.place(raw)[1])
        return self._negations_of(terms, found, plain)

    def _anyOf(self, raw: Raw, parts: list[Any], plain: Union) -> Union:  # noqa: N802 - named by its keyword
        pointer = self.document.place(raw)[1]
        unions = [self.union(self._inside(raw, part, f"anyOf/{i}")) for i, part in enumerate(parts)]
        if self.document.has_unevaluated and len(unions) <= _COMBINED:
            # under two branches at once, what either evaluates is evaluated
            for union in list(unions[1:]):
                unions += [self.meet(other, union, pointer) for other in list(unions) if other is not union]
        return self.join(unions, pointer)

    def _oneOf(self, raw: Raw, parts: list[Any], plain: Union) -> Union:  # noqa: N802 - named by its keyword
        pointer = self.document.place(raw)[1]
        branches = [self._whole(self._inside(raw, part, f"oneOf/{i}"), "oneOf") for i, part in enumerate(parts)]
        found: list[Union] = []
        for index, branch in enumerate(branches):
            only = self.meet(branch, plain, pointer)
            for place, other in enumerate(branches):
                if place != index:
                    only = self._without(only, other, "oneOf")
            found.append(only)
        return self.join(found, pointer)

    def _not(self, raw: Raw, part: Any, plain: Union) -> Union:
        return self._without(plain, self._whole(self._inside(raw, part, "not"), "not"), "not")

    def _condition(self, raw: Raw, node: dict[str, Any], plain: Union) -> Union:
        if "then" not in node and "else" not in node and not self.document.has_unevaluated:
            return ANYTHING
        pointer = self.document.place(raw)[1]
        condition = self._whole(self._inside(raw, node["if"], "if"), "if")
        met = self.meet(condition, self.union(self._inside(raw, node.get("then", True), "then")), pointer)
        otherwise = self.union(self._inside(raw, node.get("else", True), "else"))
        missed = self._without(self.meet(otherwise, plain, pointer), condition, "if")
        return self.join([met, missed], pointer)

    def _dependentRequired(self, raw: Raw, value: dict[str, Any], plain: Union) -> Union:  # noqa: N802
        return self._dependent(raw, {name: {"required": needed} for name, needed in value.items()})

    def _dependentSchemas(self, raw: Raw, value: dict[str, Any], plain: Union) -> Union:  # noqa: N802
        return self._dependent(raw, value)

    def _dependencies(self, raw: Raw, value: dict[str, Any], plain: Union) -> Union:
        # up to draft 7 the two above were one
        schemas: dict[str, Any] = {n: {"required": v} if isinstance(v, list) else v for n, v in value.items()}
        return self._dependent(raw, schemas)

    def _dependent(self, raw: Raw, value: dict[str, Any]) -> Union:
        pointer = self.document.place(raw)[1]
        found = ANYTHING
        for name, node in value.items():
            absent = (*_NO_OBJECT, Object(properties=((name, False),)))
            needed = self.union(self.document.written(raw, node))
            present = self.meet((Object(required=(name,)),), needed, pointer)
            found = self.meet(found, self.join([absent, present]), pointer)
        return found

    def _inside(self, raw: Raw, node: Any, path: str) -> Term:
        base, pointer = self.document.place(raw)
        return self.document.term(node, base, f"{pointer}/{path}")

    def _without(self, context: Union, others: Union, keyword: str) -> Union:
        """What is of `context` and of none of `others`; less, where not all of that can be said."""
        negation = Negation(keyword, self.negated_term, self.is_empty)
        found = context
        for other in others:
            left: list[Union] = []
            for shape in found:
                if self._are_disjoint((shape,), (other,)):
                    left.append((shape,))
                else:
                    left.append(self.meet((shape,), negated(other, shape, negation)))
            found = self.join(left)
        if negation.left_out:
            if not found:
                raise Unsupported(keyword, negation.left_out[0])
            self._narrowed |= self._open
        return found

    def negated_term(self, term: Term) -> Term:
        if isinstance(term, bool):
            return not term
        parts = term.parts if isinstance(term, All) else (term,)
        nodes = [self.document.node(part) for part in parts]
        # written once for each term, so that equal terms stay equal
        if term not in self._negations:
            node = {"not": nodes[0]} if len(nodes) == 1 else {"anyOf": [{"not": one} for one in nodes]}
            self._negations[term] = self.document.written(parts[0], node)
            self._denials.add(self._negations[term])
        return self._negations[term]

    def _are_disjoint(self, left: Union, right: Union) -> bool:
        return all((m := meet(a, b)) is None or self._is_hollow(m) for a in left for b in right)

    def _is_hollow(self, shape: Any) -> bool:
        """Whether nothing has this shape because something in it that must be cannot."""
        if isinstance(shape, Object):
            return any(self.is_empty(shape.of(name)) for name in shape.required)
        if isinstance(shape, Array):
            return any(self.is_empty(shape.item(i)) for i in range(min(shape.min_items, len(shape.prefix) + 1)))
        return False

    def _unevaluated(self, raw: Raw, node: dict[str, Any], union: Union) -> Union:
        if "unevaluatedProperties" not in node and "unevaluatedItems" not in node:
            return union
        found: list[Any] = []
        for shape in union:
            if isinstance(shape, Object) and "unevaluatedProperties" in node:
                rest = self._inside(raw, node["unevaluatedProperties"], "unevaluatedProperties")
                found.append(_close_object(shape, rest))
            elif isinstance(shape, Array) and "unevaluatedItems" in node:
                rest = self._inside(raw, node["unevaluatedItems"], "unevaluatedItems")
                found.append(_close_array(shape, rest))
            else:
                found.append(shape)
        return tuple(shape for shape in found if shape is not None)


def _close_object(shape: Object, rest: Term) -> Object | None:
    """Hold the properties that nothing evaluated to `rest`."""
    if isinstance(shape.evaluated, str):
        return shape
    known = tuple((name, True) for name in sorted(shape.evaluated))
    patterns = tuple((pattern, True) for pattern in sorted(shape.evaluated_patterns))
    found = meet(shape, Object(properties=known, patterns=patterns, additional=rest, evaluated=EVERYTHING))
    return found if isinstance(found, Object) else None


def _close_array(shape: Array, rest: Term) -> Array | None:
    """Hold the items that nothing evaluated to `rest`."""
    if isinstance(shape.evaluated, str):
        return shape
    if shape.contains:
        raise Unsupported("unevaluatedItems", "beside `contains` the evaluated items are no fixed number")
    found = meet(shape, Array(prefix=(True,) * shape.evaluated, items=rest, evaluated=EVERYTHING))
    return found if isinstance(found, Array) else None
