"""Looking into JSON whose shape someone else promised."""

from __future__ import annotations

from typing import Any, cast

Json = dict[str, Any]


def as_object(value: object) -> Json | None:
    return cast("Json", value) if isinstance(value, dict) else None


def as_list(value: object) -> list[Any] | None:
    return cast("list[Any]", value) if isinstance(value, list) else None


def unpaired_surrogate(value: object, place: str = "") -> str | None:
    """Where in `value` a text holds half a character, which no encoding has: a dotted path; None if nowhere."""
    if isinstance(value, str):
        return place if any("\ud800" <= character <= "\udfff" for character in value) else None
    items: list[tuple[str, object]] = []
    if isinstance(value, dict):
        named = cast("dict[str, object]", value)
        items = [(f"{place}.{name}" if place else name, item) for name, item in named.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{place}[{index}]", item) for index, item in enumerate(cast("list[object]", value))]
    return next((found for path, item in items if (found := unpaired_surrogate(item, path)) is not None), None)
