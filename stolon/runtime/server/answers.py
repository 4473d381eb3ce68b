"""From the engine's deltas to complete answers; several prompts of one request run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ...lang.types import Delta, FinishReason, SamplingParams, TokenLogprob, Usage
from .constraints import Asked, located
from .service import Engine

Placed = tuple[int, Delta]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One prompt as it goes to the engine. rid: the name by which it may be ended"""

    prompt: list[int]
    params: SamplingParams
    salt: str = ""
    priority: int = 0
    timeout_s: float | None = None
    asked: Asked | None = None
    rid: str = ""

    def ask(self, engine: Engine) -> AsyncGenerator[Delta, None]:
        deltas = engine.generate(
            self.prompt,
            self.params,
            constraint=None if self.asked is None else self.asked.constraint,
            salt=self.salt,
            priority=self.priority,
            timeout_s=self.timeout_s,
            rid=self.rid,
        )
        return deltas if self.asked is None else located(deltas, self.asked)


class Answer:
    """One complete answer."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self.finish: FinishReason | None = None
        self.matched: str | int | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def add(self, delta: Delta) -> None:
        self.parts.append(delta.text)
        self.tokens.extend(delta.tokens)
        if delta.logprobs:
            self.logprobs.extend(delta.logprobs)
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = delta.prompt_logprobs
        if delta.finish is not None:
            self.finish, self.matched = delta.finish, delta.matched

    def mean_logprob(self) -> float:
        return sum(entry.logprob for entry in self.logprobs) / max(len(self.logprobs), 1)


@dataclass(slots=True)
class Reply:
    """All answers to one prompt."""

    answers: list[Answer]
    usage: Usage = field(default_factory=Usage)

    @classmethod
    def to(cls, question: Question) -> Reply:
        """Nothing has been answered yet."""
        return cls([Answer() for _ in range(question.params.n)])

    def add(self, delta: Delta) -> None:
        self.answers[delta.index].add(delta)
        if delta.usage is not None:
            self.usage = delta.usage


async def collect(engine: Engine, questions: Sequence[Question]) -> list[Reply]:
    """The complete answers, in the order of the questions."""
    replies = [Reply.to(question) for question in questions]
    async with aclosing(ask_all(engine, questions)) as deltas:
        async for place, delta in deltas:
            replies[place].add(delta)
    return replies


async def ask_all(engine: Engine, questions: Sequence[Question]) -> AsyncGenerator[Placed, None]:
    """Deltas of all questions as they come, each with the place of its question.

    The first error ends all of them; so does closing the iterator.
    """
    if len(questions) == 1:
        async with aclosing(questions[0].ask(engine)) as deltas:
            async for delta in deltas:
                yield 0, delta
        return
    arrived: asyncio.Queue[Placed | Exception | None] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_forward(place, question, engine, arrived)) for place, question in enumerate(questions)
    ]
    try:
        running = len(tasks)
        while running:
            event = await arrived.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                running -= 1
            else:
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(
    place: int, question: Question, engine: Engine, arrived: asyncio.Queue[Placed | Exception | None]
) -> None:
    try:
        async with aclosing(question.ask(engine)) as deltas:
            async for delta in deltas:
                arrived.put_nowait((place, delta))
    except Exception as error:
        arrived.put_nowait(error)
    else:
        arrived.put_nowait(None)


def joined(first: Delta, second: Delta) -> Delta:
    """Two increments of one answer as one."""
    return Delta(
        first.text + second.text,
        first.tokens + second.tokens,
        first.index,
        logprobs=None if first.logprobs is None and second.logprobs is None else _both(first, second),
        prompt_logprobs=first.prompt_logprobs or second.prompt_logprobs,
        finish=second.finish,
        matched=second.matched,
        usage=second.usage,
    )


def _both(first: Delta, second: Delta) -> list[TokenLogprob]:
    return [*(first.logprobs or ()), *(second.logprobs or ())]
