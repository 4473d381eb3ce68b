"""From the text of an answer to what it means: thoughts apart from the answer, the form checked, the value read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .conformance import problem
from .errors import BackendError, BackendProtocolError
from .forms import Form
from .info import Info
from .ir import Gen
from .reasoning import Splitter, split
from .types import Delta, SamplingParams
from .variables import Variable

SHOWN = 500  # characters of an answer in an error
_SPACES = " \n"


class Listener:
    """Hands the increments of an answer on as they are heard: thoughts to `thoughts`, the answer to `variable`."""

    def __init__(self, node: Gen[Any], variable: Variable, thoughts: Variable | None) -> None:
        self._variable = variable
        self._thoughts = thoughts
        self._trims = node.form is not None and node.form.trims
        self._splitter = None if node.marks is None else Splitter(node.marks, must=_has_constraint(node))

    def hear(self, delta: Delta) -> None:
        text = delta.text
        if self._splitter is not None:
            thought, text = self._splitter.feed(text)
            if delta.finish is not None:
                more, rest = self._splitter.finish()
                thought, text = thought + more, text + rest
            if thought and self._thoughts is not None:
                self._thoughts.feed(Delta(thought))
        if self._trims:
            text = text.rstrip(_SPACES)  # white space can only be the end
        self._variable.feed(delta if text == delta.text else replace(delta, text=text))


def understood(info: Info, node: Gen[Any], params: SamplingParams, *, checks: bool) -> Info:
    """`info` with the answer alone as its text, and its value.

    checks: whether the text has to be held against its form
    Raises BackendError for an answer that is not whole, BackendProtocolError for one that has not its form.
    """
    if node.marks is not None:
        must = _has_constraint(node)
        thoughts, text, ended = split(info.text, node.marks, must=must)
        if must and not ended:
            raise BackendError(
                f"the answer has no {node.marks.end!r}, after which it was to have its form; raise max_tokens "
                f"({params.max_tokens}); it is {_shown(info.text)}"
            )
        info = replace(info, text=text, reasoning=thoughts)
    return info if node.form is None else _read(info, node.form, params, checks=checks)


def _has_constraint(node: Gen[Any]) -> bool:
    return node.form is not None and node.form.constraint is not None


def _read(info: Info, form: Form, params: SamplingParams, *, checks: bool) -> Info:
    if form.trims:
        info = replace(info, text=info.text.rstrip(_SPACES))
    if checks and form.constraint is not None and not _is_stopped(info, params):
        wrong = problem(form.constraint, info.text)
        if wrong is not None:
            raise (
                _incomplete(info, form, params)
                if info.finish == "length"
                else BackendProtocolError(
                    f"the answer has not the form {form.shown}: {wrong}; it is {_shown(info.text)}"
                )
            )
    try:
        return replace(info, value=form.read(info.text))
    except ValueError as error:
        if info.finish == "length":
            raise _incomplete(info, form, params) from error
        raise BackendProtocolError(f"the answer is no {form.shown}: {error}; it is {_shown(info.text)}") from error


def _is_stopped(info: Info, params: SamplingParams) -> bool:
    """Whether a stop of the program's own ended the answer, which is then what the program asked for."""
    if isinstance(info.matched, str):
        return info.matched in params.stop or bool(params.stop_regex)
    return info.matched in params.stop_token_ids  # the model's own end is told as a token, too


def _incomplete(info: Info, form: Form, params: SamplingParams) -> BackendError:
    return BackendError(
        f"max_tokens={params.max_tokens} ended the answer before it was a whole {form.shown}; raise it; "
        f"the answer so far is {_shown(info.text)}"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")
