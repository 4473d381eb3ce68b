"""From a Python type to the form of an answer: scalars are written bare, everything else as JSON by its schema.

Schemas and the reading of JSON are pydantic's; it is loaded when a type needs it.
"""

from __future__ import annotations

import functools
import json
import sys
import typing
from typing import Annotated, Any, get_args, get_origin

import typing_extensions

from .constraint import Constraint
from .errors import InvalidRequest
from .forms import Form
from .scalars import scalar_form

KEPT = 512  # types whose forms are kept


def type_form(kind: object) -> Form:
    """The form of a type's values. Raises InvalidRequest, naming the type, where it has none."""
    try:
        return _kept_form(kind)
    except TypeError:  # what is not hashable, such as a type annotated with a pydantic Field, is made anew
        return _form(kind)


def schema_text(kind: object) -> str:
    """The JSON schema of a type's values, also where `type_form` would write them bare."""
    _check_is_type(kind)
    return _json_form(kind).constraint.text  # pyright: ignore[reportOptionalMemberAccess]


def shown(kind: object) -> str:
    return kind.__qualname__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


@functools.lru_cache(KEPT)
def _kept_form(kind: object) -> Form:
    return _form(kind)


def _form(kind: object) -> Form:
    _check_is_type(kind)
    bare, metadata = _stripped(kind)
    try:
        return scalar_form(bare, metadata, shown(kind)) or _json_form(kind)
    except ValueError as error:
        if isinstance(error, InvalidRequest):
            raise
        raise _refused(kind, str(error)) from error


def _check_is_type(kind: object) -> None:
    if isinstance(kind, (str, int, float, bytes, dict, list, set)) or kind is None:
        raise InvalidRequest(
            f"the second argument of gen is max_tokens or a type, got {kind!r}; for a JSON schema use json_schema=",
            param="type",
        )


def _stripped(kind: Any) -> tuple[Any, tuple[object, ...]]:
    """A type without its names and notes, and the notes."""
    metadata: tuple[object, ...] = ()
    while True:
        if get_origin(kind) is Annotated:
            kind, *notes = get_args(kind)
            metadata = (*notes, *metadata)
        elif hasattr(kind, "__supertype__"):  # NewType
            kind = kind.__supertype__
        elif isinstance(kind, typing_extensions.TypeAliasType):
            kind = kind.__value__
        else:
            return kind, metadata


def _refused(kind: object, why: str) -> InvalidRequest:
    return InvalidRequest(f"{shown(kind)} cannot be the form of an answer: {why}", param="type")


def _json_form(kind: object) -> Form:
    try:
        import pydantic  # lazily: it takes a tenth of a second to load
        import pydantic_core

        from .schemas import schema_of
    except ModuleNotFoundError as error:
        raise _refused(kind, f"it needs the package {error.name}; pip install pydantic") from error
    unknown = (pydantic.PydanticUserError, pydantic_core.SchemaError, TypeError, NameError, AttributeError)
    try:
        adapter: Any = pydantic.TypeAdapter(_known_to_pydantic(kind))
        schema = schema_of(adapter)
    except unknown as error:
        reason = str(getattr(error, "message", error)).partition("\n")[0].partition(". ")[0]
        raise _refused(kind, reason or type(error).__name__) from error
    except RecursionError as error:
        raise _refused(kind, "it contains itself without an end") from error
    return Form(
        Constraint("json_schema", json.dumps(schema, ensure_ascii=False)),
        shown(kind),
        functools.partial(_read, adapter),
    )


def _read(adapter: Any, text: str) -> object:
    return adapter.validate_json(text)  # its ValidationError is a ValueError


def _known_to_pydantic(kind: Any) -> Any:
    """Before Python 3.12 pydantic knows the TypedDict of typing_extensions only; the same is made of typing's."""
    if sys.version_info >= (3, 12):
        return kind
    if typing.is_typeddict(kind) and type(kind).__module__ == "typing":
        hints = typing_extensions.get_type_hints(kind, include_extras=True)
        fields = {
            name: (_known_to_pydantic(hint) if name in kind.__required_keys__ else typing_extensions.NotRequired[hint])
            for name, hint in hints.items()
        }
        return typing_extensions.TypedDict(kind.__name__, fields)  # pyright: ignore[reportArgumentType]
    arguments = get_args(kind)
    if not arguments or get_origin(kind) in (typing.Literal, Annotated):
        return kind
    changed = tuple(_known_to_pydantic(one) for one in arguments)
    if changed == arguments:
        return kind
    origin = get_origin(kind)
    if hasattr(kind, "copy_with"):
        return kind.copy_with(changed)
    return typing.Union[changed] if origin is _UNION else origin[changed]  # noqa: UP007


_UNION = type(int | str)
