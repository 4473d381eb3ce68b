"""A backend around a `Runtime` that notes what each request was and how long it took."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from stolon import Runtime
from stolon.lang.backend import Backend, Capabilities, GenerateRequest
from stolon.lang.prompt import Prompt, Text
from stolon.lang.types import Delta, Score


@dataclass(frozen=True)
class Timing:
    """first_s: until the first token; each_s: mean time between tokens after it, None for a single token."""

    first_s: float
    each_s: float | None


@dataclass
class Record:
    """requests: (prompt ids, output ids) in the order in which they ended."""

    requests: list[tuple[Sequence[int], Sequence[int]]] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)


class Metered(Backend):
    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.record = Record()

    @property
    def capabilities(self) -> Capabilities:
        return self.runtime.capabilities

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        prompt = self.runtime.encode(request.prompt)
        tokens: list[int] = []
        began = time.perf_counter()
        first = last = began
        async with aclosing(self.runtime.stream(request)) as deltas:
            async for delta in deltas:
                if delta.tokens:
                    last = time.perf_counter()
                    first = last if not tokens else first
                    tokens.extend(delta.tokens)
                yield delta
        each = (last - first) / (len(tokens) - 1) if len(tokens) > 1 else None
        self.record.timings.append(Timing(first - began, each))
        self.record.requests.append((prompt, tuple(tokens)))

    async def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> list[Score]:
        began = time.perf_counter()
        scores = await self.runtime.score(prompt, options, unconditional=unconditional)
        self.record.timings.append(Timing(time.perf_counter() - began, None))
        for option in options:
            self.record.requests.append((self.runtime.encode(prompt.append(Text(option))), ()))
        return scores

    def render(self, prompt: Prompt) -> str:
        return self.runtime.render(prompt)
