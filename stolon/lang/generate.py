"""One generation or selection, asked of a backend."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

from .asking_again import ask_again
from .backend import Backend, GenerateRequest
from .choices import best_index, softmax, token_length_normalized
from .constraint import Constraint
from .errors import BackendError, BackendRequestError, EngineClosedError, OverloadedError, UnsupportedError
from .info import Info, whole
from .ir import Gen, Select
from .options import Resolved
from .types import Delta, Score, Usage
from .understanding import Listener, understood
from .variables import Variable

FIRST_PAUSE_S = 0.1  # before the first retry; doubles from then on


@dataclass(slots=True, eq=False)
class Generation:
    """A `gen` or `select` to be carried out; `variable` hears the increments of its first answer.

    thoughts: becomes what the model thought, where that is told apart from the answer
    """

    node: Gen[Any] | Select[Any]
    variable: Variable
    resolved: Resolved
    thoughts: Variable | None = None


def constraint_of(node: Gen[Any] | Select[Any]) -> Constraint | None:
    """The form that the backend is to hold the answer to."""
    if isinstance(node, Select) or node.form is None or node.form.constraint is None or node.marks is None:
        return node.form.constraint if isinstance(node, Gen) and node.form is not None else None
    return replace(node.form.constraint, after=node.marks.end)


def answer(backend: Backend, op: Generation, request: GenerateRequest) -> Coroutine[Any, Any, Info]:
    """Ask, and ask again after failures that had delivered nothing, as often as the program allows."""
    # as few coroutines as can be: there may be ten thousand of them waiting
    return _retried(backend, op, request) if op.resolved.retries else _once(backend, op, request)


def _once(backend: Backend, op: Generation, request: GenerateRequest) -> Coroutine[Any, Any, Info]:
    if isinstance(op.node, Select):
        return _select(backend, op.node, op.variable, request)
    if op.node.asks_again and request.constraint is not None:
        return _held_or_asked_again(backend, op, op.node, request.constraint, request)
    return _generate(backend, op, op.node, request)


async def _retried(backend: Backend, op: Generation, request: GenerateRequest) -> Info:
    attempt = 0
    while True:
        try:
            return await _once(backend, op, request)
        except BackendError as error:
            final = isinstance(error, (BackendRequestError, EngineClosedError))
            if final or attempt >= op.resolved.retries or op.variable.log:
                raise
            asked_to_wait = error.retry_after_s if isinstance(error, OverloadedError) else None
            await asyncio.sleep(FIRST_PAUSE_S * 2**attempt if asked_to_wait is None else asked_to_wait)
            attempt += 1


async def _held_or_asked_again(
    backend: Backend, op: Generation, node: Gen[Any], constraint: Constraint, request: GenerateRequest
) -> Info:
    try:
        await backend.check(constraint)  # a server may have to be asked what it can
        is_held = constraint.kind in backend.capabilities.constraints
    except UnsupportedError:
        is_held = False
    if is_held:
        return await _generate(backend, op, node, request)
    return await ask_again(backend, node, op.variable, request)


async def _generate(backend: Backend, op: Generation, node: Gen[Any], request: GenerateRequest) -> Info:
    started = time.perf_counter()
    if request.constraint is not None:
        await backend.check(request.constraint)
    deltas: list[Delta] | None = None
    listener = Listener(node, op.variable, op.thoughts) if node.form is not None or node.marks is not None else None
    stream = backend.stream(request)
    try:
        async for delta in stream:
            if deltas is None:
                deltas = [delta]
            else:
                deltas.append(delta)
            if delta.index == 0:
                if listener is None:
                    op.variable.feed(delta)
                else:
                    listener.hear(delta)
    except BaseException:
        # a backend may answer with any asynchronous iterator; what can be closed is, so that leaving it aborts
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
        raise
    seconds = time.perf_counter() - started
    info = whole(deltas or (), request.params.n, seconds, text_in_logprobs=op.resolved.text_in_logprobs)
    if listener is None:
        return info
    checks = not backend.capabilities.keeps_forms
    if not info.alternatives:
        return understood(info, node, request.params, checks=checks)
    infos = tuple(understood(one, node, request.params, checks=checks) for one in info.alternatives)
    return replace(infos[0], alternatives=infos)


async def _select(backend: Backend, node: Select[Any], variable: Variable, request: GenerateRequest) -> Info:
    started = time.perf_counter()
    if backend.capabilities.score:
        info = await _scored(backend, node, request)
    else:
        params = replace(request.params, temperature=node.temperature)
        text, usage = await backend.choose(replace(request, params=params), node.choices)
        info = Info(text=text, usage=usage, finish="stop")
    variable.feed(Delta(info.text, finish="stop"))
    return replace(info, seconds=time.perf_counter() - started)


async def _scored(backend: Backend, node: Select[Any], request: GenerateRequest) -> Info:
    method = node.method or token_length_normalized
    unconditional = method.requires_unconditional_logprobs
    scores = await backend.score(request.prompt, node.choices, unconditional=unconditional)
    if len(scores) != len(node.choices):
        raise BackendError(f"the backend scored {len(scores)} of {len(node.choices)} choices")
    decision = method(node.choices, scores)
    text = decision.decision
    if node.temperature > 0:
        text = node.choices[_drawn(decision.scores, node.temperature, request.params.seed)]
    return Info(
        text=text,
        finish="stop",
        usage=Usage(requests=1),
        probs=dict(zip(node.choices, softmax(decision.scores), strict=True)),
        scores=dict[str, Score](zip(node.choices, scores, strict=True)),
        method_meta=decision.meta_info,
    )


def _drawn(scores: tuple[float, ...], temperature: float, seed: int | None) -> int:
    """Index drawn by the softmax of scores / temperature; the same for the same seed."""
    weights = softmax([score / temperature for score in scores])
    if not any(weights):
        return best_index(scores)
    return random.Random(seed).choices(range(len(weights)), weights)[0]
