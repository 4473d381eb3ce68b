"""Types whose values are written bare, as people write them: `42`, `true`, `2026-11-25`. No quotes, no JSON."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args, get_origin

from .constraint import Constraint
from .forms import Form
from .intervals import integers_between

# One white space may end a number, for a model that goes on writing prose knows no better end; it is cut off.
_END = r"[ \n]?"
_DIGITS = 19  # of an int, a float before its point; 64 bits need no more
_INT = r"-?(?:0|[1-9][0-9]{0,18})"
_FLOAT = r"-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,17})?(?:[eE][+-]?[0-9]{1,2})?"
_DECIMAL = r"-?(?:0|[1-9][0-9]{0,27})(?:\.[0-9]{1,18})?"
_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_ZONE = r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What `Annotated` asks of a value, by the names that `annotated_types` and pydantic use."""

    ge: Any = None
    gt: Any = None
    le: Any = None
    lt: Any = None
    multiple_of: Any = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None

    def only(self, *names: str) -> bool:
        """Whether nothing but `names` is asked for."""
        return all(getattr(self, name) is None for name in self.__slots__ if name not in names)


_NAMES = Bounds.__slots__


def bounds_of(metadata: Sequence[object]) -> Bounds | None:
    """None where there is something that is not understood here."""
    found: dict[str, Any] = {}
    for item in metadata:
        inner = getattr(item, "metadata", None)  # pydantic's Field holds what annotated_types would say
        if isinstance(inner, (list, tuple)):
            deeper = bounds_of(cast("Sequence[object]", inner))
            if deeper is None or getattr(item, "discriminator", None) is not None:
                return None
            found |= {name: value for name in _NAMES if (value := getattr(deeper, name)) is not None}
            continue
        here = {name: value for name in _NAMES if (value := getattr(item, name, None)) is not None}
        if not here and not isinstance(item, str):
            return None
        if any(getattr(item, name, None) for name in ("strip_whitespace", "to_upper", "to_lower", "strict")):
            return None
        if not isinstance(here.get("pattern", ""), str):
            return None
        found |= here
    return Bounds(**found)


def scalar_form(kind: Any, metadata: Sequence[object], shown: str) -> Form | None:
    """The form of a type that is written bare; None for all others."""
    options = _options(kind)
    if options is not None:
        return None if metadata else _choice_form(options, shown)
    bounds = bounds_of(metadata)
    if bounds is None:
        return None
    if kind is str:
        return _text_form(bounds, shown)
    if kind is int and bounds.only("ge", "gt", "le", "lt"):
        pattern = _INT if bounds.only() else _between(bounds)
        return None if pattern is None else _regex_form(pattern + _END, shown, int)
    if not bounds.only():
        return None
    if kind is bytes:
        return Form(None, shown, str.encode)
    plain = _PLAIN.get(kind)
    return None if plain is None else _regex_form(plain[0], shown, plain[1])


def _regex_form(pattern: str, shown: str, read: Callable[[str], object]) -> Form:
    return Form(Constraint("regex", pattern), shown, read, trims=True)


def _datetime(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 knows no Z


_PLAIN: dict[Any, tuple[str, Callable[[str], object]]] = {
    float: (_FLOAT + _END, float),
    decimal.Decimal: (_DECIMAL + _END, decimal.Decimal),
    datetime.date: (DATE, datetime.date.fromisoformat),
    datetime.time: (_TIME, datetime.time.fromisoformat),
    datetime.datetime: (rf"{DATE}T{_TIME}{_ZONE}?{_END}", _datetime),
    uuid.UUID: (UUID, uuid.UUID),
}


def _between(bounds: Bounds) -> str | None:
    """The regex of the whole numbers within `bounds`; None where a bound is no whole number."""
    limit = 10**_DIGITS - 1
    lows = [-limit, bounds.ge, None if bounds.gt is None else bounds.gt + 1]
    highs = [limit, bounds.le, None if bounds.lt is None else bounds.lt - 1]
    low, high = (pick(value for value in values if value is not None) for pick, values in ((max, lows), (min, highs)))
    if not isinstance(low, int) or not isinstance(high, int):
        return None
    if low > high:
        raise ValueError(f"no whole number is at least {low} and at most {high}")
    return integers_between(low, high)


def _text_form(bounds: Bounds, shown: str) -> Form | None:
    if bounds.only():
        return Form(None, shown)
    if bounds.only("min_length", "max_length"):
        low = bounds.min_length or 0
        if bounds.max_length is not None and low > bounds.max_length:
            raise ValueError(f"no text has at least {low} and at most {bounds.max_length} characters")
        high = "" if bounds.max_length is None else bounds.max_length
        return Form(Constraint("regex", rf"[\s\S]{{{low},{high}}}"), shown)
    if bounds.only("pattern") and bounds.pattern is not None:
        pattern = _as_whole(bounds.pattern)
        return None if pattern is None else Form(Constraint("regex", pattern), shown)
    return None


def _as_whole(pattern: str) -> str | None:
    """A pattern that is looked for, as one for the whole text; None where its anchors are not just at both ends."""
    inner = pattern.removeprefix("^").removesuffix("$")
    if "^" in inner.replace("[^", "") or "$" in inner or inner.endswith("\\"):
        return None
    begins, ends = pattern.startswith("^"), pattern.endswith("$")
    if "|" in inner and (begins or ends):
        return None  # an anchor may belong to the first or the last way alone
    return f"{'' if begins else _ANYTHING}(?:{inner}){'' if ends else _ANYTHING}"


_ANYTHING = r"[\s\S]*"


def _options(kind: Any) -> dict[str, object] | None:
    """What a type with a list of values may be, by its text; None for other types, and where two texts are the same."""
    if kind is bool:
        return {"true": True, "false": False}
    if get_origin(kind) is Literal:
        values = list(_literals(kind))
    elif isinstance(kind, type) and issubclass(kind, enum.Enum) and not issubclass(kind, enum.Flag):
        values = list(kind)
    else:
        return None
    texts = [_written(value) for value in values]
    known = [text for text in texts if text]
    if not values or len(set(known)) < len(values):
        return None
    return dict(zip(known, values, strict=True))


def _literals(kind: Any) -> list[object]:
    found: list[object] = []
    for value in get_args(kind):
        found.extend(_literals(value) if get_origin(value) is Literal else (value,))
    return found


def _written(value: object) -> str | None:
    if isinstance(value, enum.Enum):
        value = value.value
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case str():
            return value
        case int() | float():
            return repr(value)
        case _:
            return None


def _choice_form(options: dict[str, object], shown: str) -> Form:
    def read(text: str) -> object:
        if text not in options:
            raise ValueError(f"{text!r} is none of {', '.join(options)}")
        return options[text]

    return Form(Constraint("choices", choices=tuple(options)), shown, read)
