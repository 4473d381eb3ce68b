"""The words of a program: gen, select and the roles."""

from __future__ import annotations

from collections.abc import Sequence

from .choices import ChoicesMethod
from .errors import InvalidRequest
from .ir import Expression, Gen, Origin, RoleBegin, RoleEnd, Select, Seq, caller, parts_of
from .options import frozen
from .prompt import Role


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
    *,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    timeout: float | None = None,
    retries: int | None = None,
) -> Gen[str]:
    """Text that the model continues with; it becomes `s[name]`. None is the option of `run`, or its default.

    n: more than one gives a list; the text goes on with the first
    timeout: seconds until the whole text must be there; retries: after a failure that had not delivered text yet
    """
    options = locals()
    del options["name"]
    if name is not None:
        _check_name(name, "gen")
    return Gen(name, frozen(options), caller(1))


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
    if isinstance(choices, str) or not choices:
        raise InvalidRequest(f"{label} needs a list of choices, got {choices!r}", param="choices")
    for choice in choices:
        if not isinstance(choice, str) or not choice:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequest(f"{label}: every choice must be non-empty text, got {choice!r}", param="choices")
    if len(set(choices)) < len(choices):
        raise InvalidRequest(f"{label}: the choices must differ, got {list(choices)!r}", param="choices")
    if not temperature >= 0:
        raise InvalidRequest(f"{label}: temperature must be at least 0, got {temperature!r}", param="temperature")
    options = frozen({"seed": seed, "timeout": timeout})
    return Select(name, tuple(choices), temperature, choices_method, options, caller(1))


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


def _check_name(name: object, word: str) -> None:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"{word}: the name must be text or None, got {name!r}")
