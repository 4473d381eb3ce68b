"""Which form a `gen` asks for, from the arguments that name one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from .choices import ChoicesMethod
from .constraint import Constraint
from .errors import InvalidRequest
from .forms import Form, choices_form, grammar_form, object_form, regex_form, schema_form
from .ir import Origin, Select
from .options import frozen
from .typed import schema_text, shown, type_form

# how SGLang writes what it calls a dtype; a number may be followed by one white space, which is cut off
_DTYPES: Mapping[Any, Form] = {
    int: Form(Constraint("regex", r"[-+]?[0-9]{1,19}[ \n]?"), "dtype=int", trims=True),
    float: Form(Constraint("regex", r"[-+]?[0-9]{0,19}\.?[0-9]{1,19}[ \n]?"), "dtype=float", trims=True),
    bool: Form(Constraint("choices", choices=("True", "False")), "dtype=bool"),
    str: Form(Constraint("regex", r'"[^"\\\x00-\x1f]*"'), "dtype=str"),
}
_OF_SELECT = frozenset({"temperature", "seed", "timeout", "retries"})


def _of_dtype(kind: object) -> Form:
    known = _DTYPES.get(kind) if isinstance(kind, type) else None
    return known or Form(Constraint("json_schema", schema_text(kind)), f"dtype={shown(kind)}")


FORMS: Mapping[str, Callable[[Any], Form]] = {
    "type": type_form,
    "dtype": _of_dtype,
    "choices": choices_form,
    "regex": regex_form,
    "json_schema": lambda schema: schema_form(schema, schema_text),
    "json_object": lambda _: object_form(),
    "grammar": grammar_form,
    "ebnf": grammar_form,
}


def form_of(forms: Mapping[str, object]) -> Form | None:
    """The form that is asked for by one of the names of `FORMS`; None where any text will do.

    Raises InvalidRequest for more than one, and for one that no answer can have.
    """
    if len(forms) > 1:
        raise InvalidRequest(f"an answer has one form, got {' and '.join(forms)}; leave all but one out")
    return next((FORMS[name](value) for name, value in forms.items()), None)


def select_of(
    name: str | None,
    forms: Mapping[str, object],
    options: Mapping[str, Any],
    method: ChoicesMethod | None,
    origin: Origin,
) -> Select[str] | None:
    """The `select` that `gen(choices=...)` is, as in SGLang; None where an option asks for drawn tokens."""
    form = form_of(forms)
    if form is None or forms.get("choices") is None or form.constraint is None:
        raise InvalidRequest("choices_method belongs to choices, and none were given", param="choices_method")
    others = [option for option in options if option not in _OF_SELECT]
    if others and method is None:
        return None
    if others:
        raise InvalidRequest(
            f"choices_method scores whole choices and takes no {', '.join(others)}; leave one of them out",
            param=others[0],
        )
    kept = {option: options[option] for option in ("seed", "timeout", "retries") if option in options}
    return Select(name, form.constraint.choices, options.get("temperature", 0.0), method, frozen(kept), origin)


@contextmanager
def named(label: str) -> Generator[None]:
    """Has errors of a form say whose it is."""
    try:
        yield
    except InvalidRequest as error:
        raise type(error)(f"{label}: {error}", param=error.param, code=error.code) from error.__cause__
