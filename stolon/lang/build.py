"""The words of a program: gen, select and the roles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, overload

from typing_extensions import TypedDict, TypeForm, TypeVar, Unpack

from .asked import FORMS, form_of, named, select_of
from .choices import ChoicesMethod
from .errors import InvalidRequest
from .forms import Form, checked_choices
from .ir import Expression, Gen, Origin, RoleBegin, RoleEnd, Select, Seq, caller, parts_of
from .options import frozen
from .prompt import Role
from .reasoning import marks_of

T = TypeVar("T")


class Drawing(TypedDict, total=False):
    """How a `gen` draws its tokens; the same names as in the form of `gen` without a type."""

    min_tokens: int | None
    n: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: int | Sequence[int] | None
    stop_regex: str | Sequence[str] | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    ignore_eos: bool | None
    return_logprob: bool | None
    logprob_start_len: int | None
    top_logprobs_num: int | None
    return_text_in_logprobs: bool | None
    reasoning: bool | str
    fallback: Literal["retry"] | None
    seed: int | None
    timeout: float | None
    retries: int | None


class GenOptions(Drawing, total=False):
    max_tokens: int | None


_OPTIONS = frozenset(Drawing.__annotations__) - {"reasoning", "fallback"} | {"max_tokens"}
_NO_OBJECT = {"json_object": False}  # of the other arguments that name a form, False is a value


@overload
def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: int | Sequence[int] | None = None,
    stop_regex: str | Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
    dtype: type | None = None,
    choices: None = None,
    choices_method: None = None,
    regex: str | None = None,
    json_schema: str | dict[str, Any] | bool | type | None = None,
    *,
    json_object: bool = False,
    grammar: str | None = None,
    ebnf: str | None = None,
    reasoning: bool | str = False,
    fallback: Literal["retry"] | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    timeout: float | None = None,
    retries: int | None = None,
) -> Gen[str]: ...
@overload
def gen(
    name: str | None = None,
    *,
    choices: Sequence[str],
    choices_method: ChoicesMethod | None = None,
    **options: Unpack[GenOptions],
) -> Gen[str] | Select[str]: ...
@overload
def gen(name: str | None, type: TypeForm[T], **options: Unpack[GenOptions]) -> Gen[T]: ...
@overload
def gen(name: TypeForm[T], **options: Unpack[GenOptions]) -> Gen[T]: ...
def gen(  # pyright: ignore[reportInconsistentOverload]  (the second position is max_tokens or a type)
    name: Any = None,
    type: Any = None,
    min_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: int | Sequence[int] | None = None,
    stop_regex: str | Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
    dtype: Any = None,
    choices: Sequence[str] | None = None,
    choices_method: ChoicesMethod | None = None,
    regex: str | None = None,
    json_schema: Any = None,
    *,
    max_tokens: int | None = None,
    json_object: bool = False,
    grammar: str | None = None,
    ebnf: str | None = None,
    reasoning: bool | str = False,
    fallback: Literal["retry"] | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    timeout: float | None = None,
    retries: int | None = None,
) -> Gen[Any] | Select[Any]:
    """Text that the model continues with; it becomes `s[name]`. None is the option of `run`, or its default.

    type: what the text shall be; `s[name]` is then a value of it. A number in this place is `max_tokens`, and a type
        may also come first: `age = gen(int)`
    n: more than one gives a list; the text goes on with the first
    regex, json_schema, json_object, grammar (or `ebnf`), dtype: forms of which the value stays text. `json_schema` may
        be a dictionary, text, or a type; `dtype` is int, float, bool or str as SGLang writes them, or another type
    choices: one of these, as `select` picks it; with options that a `select` does not have, drawn token by token
    reasoning: the model thinks between `<think>` and `</think>` first (or the marks of the named family of models),
        and has the form from there on; `s.info(name).reasoning` is what it thought
    fallback: "retry" for backends that cannot hold an answer to its form: ask without, check, ask again with the error
    timeout: seconds until the whole text must be there; retries: after a failure that had not delivered text yet
    Raises InvalidRequest for more than one form, and for a form that no answer can have.
    """
    name, max_tokens, type = _places(name, type, max_tokens)
    given = {key: value for key, value in locals().items() if value is not None}
    options = {key: value for key, value in given.items() if key in _OPTIONS}
    forms = {key: given[key] for key in FORMS if key in given and given[key] is not _NO_OBJECT.get(key)}
    origin = caller(1)
    if not forms and choices_method is None and reasoning is False and fallback is None:
        return Gen(name, frozen(options), origin)
    with named(f"gen({'' if name is None else repr(name)})"):
        if choices is not None:
            forms["choices"] = checked_choices(choices)
        if choices is not None or choices_method is not None:
            chosen = select_of(name, forms, options, choices_method, origin)
            if chosen is not None:
                return chosen
            options["temperature"] = temperature or 0.0
        form = form_of(forms)
        marks = None if reasoning is False else marks_of(reasoning)
        return Gen(name, frozen(options), origin, form, marks, _checked_fallback(fallback, form, n))


def gen_int(name: str | None = None, max_tokens: int | None = None, **options: Unpack[Drawing]) -> Gen[str]:
    """A whole number, as text: `gen(name, dtype=int)`. `gen(name, int)` gives a number."""
    return _located(gen(name, max_tokens, dtype=int, **options), caller(1))


def gen_string(name: str | None = None, max_tokens: int | None = None, **options: Unpack[Drawing]) -> Gen[str]:
    """Text in double quotes, the quotes included: `gen(name, dtype=str)`."""
    return _located(gen(name, max_tokens, dtype=str, **options), caller(1))


def select(
    name: str | None = None,
    choices: Sequence[str] | None = None,
    temperature: float = 0.0,
    choices_method: ChoicesMethod | None = None,
    *,
    seed: int | None = None,
    timeout: float | None = None,
) -> Select[str]:
    """One of `choices`, the one that the model finds most likely; it becomes `s[name]`.

    temperature: above 0 draws among the choices, by the softmax of their scores / temperature
    choices_method: None is `token_length_normalized`; a backend that can choose but not score decides by itself
    Raises InvalidRequest for choices that are missing, empty, doubled or no text.
    """
    _check_name(name, "select")
    label = f"select({name!r})"
    with named(label):
        checked = checked_choices(choices)
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not temperature >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(
            f"{label}: temperature must be a number of at least 0, got {temperature!r}", param="temperature"
        )
    options = frozen({"seed": seed, "timeout": timeout})
    return Select(name, checked, temperature, choices_method, options, caller(1))


def system(expr: Expression | Sequence[Expression] | None = None) -> Seq:
    """A whole system turn; empty without `expr`."""
    return turn("system", expr, caller(1))


def user(expr: Expression | Sequence[Expression] | None = None) -> Seq:
    """A whole turn of the user; empty without `expr`."""
    return turn("user", expr, caller(1))


def assistant(expr: Expression | Sequence[Expression] | None = None) -> Seq:
    """A whole turn of the model: what it shall generate, and text put into its mouth."""
    return turn("assistant", expr, caller(1))


def tool(expr: Expression | Sequence[Expression] | None = None) -> Seq:
    """A turn that tells the model what a tool gave back; for models whose chat template knows tools."""
    return turn("tool", expr, caller(1))


def separate_reasoning(expr: Expression | Sequence[Expression] | None = None, model_type: str | None = None) -> Seq:
    """`expr`, whose generations think first: `s[name]` is the answer, `s[name + "_reasoning_content"]` the thoughts.

    model_type: the family of models, by SGLang's names; None where the marks are `<think>` and `</think>`
    """
    marks = marks_of(model_type)
    parts = () if expr is None else parts_of(expr)
    return Seq(tuple(replace(part, marks=marks) if isinstance(part, Gen) else part for part in parts))


def system_begin() -> RoleBegin:
    return RoleBegin("system", caller(1))


def system_end() -> RoleEnd:
    return RoleEnd("system", caller(1))


def user_begin() -> RoleBegin:
    return RoleBegin("user", caller(1))


def user_end() -> RoleEnd:
    return RoleEnd("user", caller(1))


def assistant_begin() -> RoleBegin:
    return RoleBegin("assistant", caller(1))


def assistant_end() -> RoleEnd:
    return RoleEnd("assistant", caller(1))


def turn(role: Role, expr: Expression | Sequence[Expression] | None, origin: Origin) -> Seq:
    inside = () if expr is None else parts_of(expr)
    return Seq((RoleBegin(role, origin), *inside, RoleEnd(role, origin)))


def _places(name: Any, kind: Any, max_tokens: int | None) -> tuple[str | None, int | None, Any]:
    """Name, max_tokens and type: the second position is either, and a type may come first."""
    if name is not None and not isinstance(name, str):
        if kind is not None or isinstance(name, (int, float)):
            raise TypeError(f"gen: the name must be text or None, got {name!r}")
        name, kind = None, name
    if isinstance(kind, int) and not isinstance(kind, bool):
        if max_tokens is not None:
            raise TypeError(f"gen got max_tokens twice: {kind} and {max_tokens}")
        return name, kind, None
    return name, max_tokens, kind


def _checked_fallback(fallback: object, form: Form | None, n: int | None) -> bool:
    if fallback is None:
        return False
    if fallback != "retry":
        raise InvalidRequest(f"fallback is 'retry' or None, got {fallback!r}", param="fallback")
    if form is None or form.constraint is None:
        raise InvalidRequest("fallback='retry' checks a form, and none was asked for; leave it out", param="fallback")
    if form.constraint.kind == "grammar":
        raise InvalidRequest("fallback='retry' cannot check a grammar; use regex or json_schema", param="fallback")
    if n is not None and n > 1:
        raise InvalidRequest(f"fallback='retry' asks for one answer at a time, got n={n}; use fork", param="fallback")
    return True


def _located(node: Gen[Any], origin: Origin) -> Gen[Any]:
    return replace(node, origin=origin)


def _check_name(name: object, word: str) -> None:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"{word}: the name must be text or None, got {name!r}")
