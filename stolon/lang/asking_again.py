"""A form on a backend that cannot hold an answer to it: ask without, check, and ask again with the error."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from .backend import Backend, GenerateRequest
from .conformance import check_of
from .constraint import Constraint
from .errors import BackendError, BackendProtocolError, InvalidRequest
from .info import NO_USAGE, Info, whole
from .ir import Gen
from .options import derived_seed
from .prompt import Generated, Prompt, RoleClose, RoleOpen, Text
from .schema_check import UncheckableError
from .types import Delta
from .understanding import understood
from .variables import Variable

ATTEMPTS = 3


async def ask_again(backend: Backend, node: Gen[Any], variable: Variable, request: GenerateRequest) -> Info:
    """The first answer of at most ATTEMPTS that has its form; only that one is heard. Usage is that of all of them.

    In a chat the model is shown its wrong answer and what is wrong with it; without roles it just tries again.
    Raises BackendProtocolError, which tells all the attempts.
    """
    constraint = request.constraint
    assert constraint is not None
    try:
        check_of(constraint)
    except UncheckableError as error:
        raise InvalidRequest(f"fallback='retry' cannot check this form: {error}", param="fallback") from error
    started = time.perf_counter()
    asked = replace(request, constraint=None)
    usage = NO_USAGE
    wrong: list[str] = []
    for attempt in range(ATTEMPTS):
        info = await _asked(backend, asked)
        usage += info.usage
        try:
            found = understood(_without_fence(info, constraint), node, request.params, checks=True)
        except BackendError as error:
            wrong.append(str(error))
            asked = _corrected(asked, request, info.text, wrong[-1], constraint, attempt)
            continue
        found = replace(found, usage=usage, seconds=time.perf_counter() - started)
        variable.feed(Delta(found.text, list(found.tokens), finish=found.finish))
        return found
    told = "; ".join(f"attempt {number}: {one}" for number, one in enumerate(wrong, 1))
    raise BackendProtocolError(f"no answer in {ATTEMPTS} attempts had its form; {told}")


async def _asked(backend: Backend, request: GenerateRequest) -> Info:
    started = time.perf_counter()
    stream = backend.stream(request)
    try:
        deltas = [delta async for delta in stream]
    except BaseException:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
        raise
    return whole(deltas, 1, time.perf_counter() - started, text_in_logprobs=False)


def _without_fence(info: Info, constraint: Constraint) -> Info:
    """Models that are not held to JSON like to put it between Markdown's marks of code."""
    text = info.text.strip()
    if constraint.kind in ("json_schema", "json_object") and text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    # without what ended it: an answer that a stop cut has to have its form, too
    return replace(info, text=text, tokens=info.tokens if text == info.text else (), matched=None)


def _corrected(
    before: GenerateRequest, first: GenerateRequest, said: str, wrong: str, constraint: Constraint, attempt: int
) -> GenerateRequest:
    params = before.params
    if first.params.seed is not None:
        params = replace(params, seed=derived_seed(first.params.seed, attempt + 1))
    if first.prompt.open_role != "assistant":
        return replace(before, params=params)
    return replace(before, params=params, prompt=_told(first.prompt, said, f"{wrong}\n{_asked_for(constraint)}"))


def _told(prompt: Prompt, said: str, what: str) -> Prompt:
    """`prompt` with the wrong answer, a turn of the user that says so, and a new turn of the assistant."""
    for piece in (Generated(said), RoleClose(), RoleOpen("user"), Text(what), RoleClose(), RoleOpen("assistant")):
        prompt = prompt.append(piece)
    return prompt


def _asked_for(constraint: Constraint) -> str:
    match constraint.kind:
        case "regex":
            return f"Answer again, with nothing but a text that matches this regular expression: {constraint.text}"
        case "choices":
            return f"Answer again, with nothing but one of these: {', '.join(constraint.choices)}"
        case "json_schema":
            return f"Answer again, with nothing but JSON that has this schema: {constraint.text}"
        case _:
            return "Answer again, with nothing but a JSON object."
