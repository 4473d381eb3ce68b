"""One generation or selection, asked of a backend."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, replace
from typing import Any

from .backend import Backend, GenerateRequest
from .choices import best_index, softmax, token_length_normalized
from .errors import BackendError, BackendRequestError, EngineClosedError, OverloadedError
from .info import Answers, Info
from .ir import Gen, Select
from .options import Resolved
from .types import Delta, Score, Usage
from .variables import Variable

FIRST_PAUSE_S = 0.1  # before the first retry; doubles from then on


@dataclass(slots=True, kw_only=True)
class Asked:
    """All that a generation needs; `variable` hears the increments of the first answer."""

    backend: Backend
    node: Gen[Any] | Select[Any]
    resolved: Resolved
    request: GenerateRequest
    variable: Variable


async def answer(asked: Asked) -> Info:
    """Ask, and ask again after failures that had delivered nothing, as often as the program allows."""
    attempt = 0
    while True:
        try:
            return await (_generate(asked) if isinstance(asked.node, Gen) else _select(asked, asked.node))
        except BackendError as error:
            final = isinstance(error, (BackendRequestError, EngineClosedError))
            if final or attempt >= asked.resolved.retries or asked.variable.log:
                raise
            asked_to_wait = error.retry_after_s if isinstance(error, OverloadedError) else None
            await asyncio.sleep(FIRST_PAUSE_S * 2**attempt if asked_to_wait is None else asked_to_wait)
            attempt += 1


async def _generate(asked: Asked) -> Info:
    started = time.perf_counter()
    answers = Answers(asked.request.params.n)
    stream = asked.backend.stream(asked.request)
    try:
        async for delta in stream:
            answers.add(delta)
            if delta.index == 0:
                asked.variable.feed(delta)
    finally:
        # a backend may answer with any asynchronous iterator; what can be closed is, so that leaving it aborts
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
    return answers.finish(time.perf_counter() - started, text_in_logprobs=asked.resolved.text_in_logprobs)


async def _select(asked: Asked, node: Select[Any]) -> Info:
    started = time.perf_counter()
    backend = asked.backend
    if backend.capabilities.score:
        info = await _scored(asked, node)
    else:
        params = replace(asked.request.params, temperature=node.temperature)
        text, usage = await backend.choose(replace(asked.request, params=params), node.choices)
        info = Info(text=text, usage=usage, finish="stop")
    asked.variable.feed(Delta(info.text, finish="stop"))
    return replace(info, seconds=time.perf_counter() - started)


async def _scored(asked: Asked, node: Select[Any]) -> Info:
    method = node.method or token_length_normalized
    unconditional = method.requires_unconditional_logprobs
    scores = await asked.backend.score(asked.request.prompt, node.choices, unconditional=unconditional)
    if len(scores) != len(node.choices):
        raise BackendError(f"the backend scored {len(scores)} of {len(node.choices)} choices")
    decision = method(node.choices, scores)
    text = decision.decision
    if node.temperature > 0:
        text = node.choices[_drawn(decision.scores, node.temperature, asked.request.params.seed)]
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
