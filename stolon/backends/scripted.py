"""Says what it is told: a real backend without a model, for tests, examples and documentation."""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import cast

from ..lang.backend import Backend, Capabilities, GenerateRequest
from ..lang.constraint import KINDS
from ..lang.prompt import Prompt
from ..lang.types import Delta, FinishReason, SamplingParams, Score, TokenLogprob, Usage

Answer = str | BaseException
Script = Answer | Sequence[Answer] | Mapping[str, Answer] | Callable[[GenerateRequest], Answer]
Scorer = Callable[[str, str], float]  # (text of the prompt, option) -> log-probability per token

EVERYTHING = Capabilities(
    params=frozenset(field.name for field in fields(SamplingParams)),
    score=True,
    choose=True,
    constraints=KINDS,
    constrains_after=True,
)


@dataclass(frozen=True, slots=True)
class _Worded:
    """An answer as it is sent: its tokens, and what ended it."""

    tokens: tuple[str, ...]
    finish: FinishReason
    matched: str | None


class Scripted(Backend):
    """Answers from a script; everything else about it is like a model behind a server.

    script: one answer for all; a list, in the order asked; a mapping from a regular expression to an answer (the
        first that is found in the prompt's text); or a function of the request. An answer is text, cut at stop
        strings and `max_tokens`; an exception as an answer is raised.
    latency_s: before the first text; delta_s: before each further step
    tokens_per_delta: how many tokens a step brings, 0 is all at once; a token is a word with the space before it
    scores: log-probability of an option's tokens after a prompt; without it, made up from a hash of both
    record: whether `requests` keeps what was asked
    capabilities: less than everything, to stand for a poorer backend
    """

    def __init__(
        self,
        script: Script = "",
        *,
        latency_s: float = 0.0,
        delta_s: float = 0.0,
        tokens_per_delta: int = 0,
        scores: Scorer | None = None,
        record: bool = True,
        capabilities: Capabilities = EVERYTHING,
    ) -> None:
        self._script = script
        self._latency_s = latency_s
        self._delta_s = delta_s
        self._tokens_per_delta = tokens_per_delta
        self._scores = scores or _made_up
        self._record = record
        self._capabilities = capabilities
        self._answered = 0
        self.asked = 0
        self.requests: list[GenerateRequest] = []
        self.scored: list[tuple[Prompt, tuple[str, ...]]] = []
        self.active = 0  # streams that have begun and not ended
        self.most_active = 0
        self.aborts = 0  # streams left before their end
        self.flushes = 0
        self.closed = False

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        self._begin(request)
        try:
            if self._latency_s:
                await asyncio.sleep(self._latency_s)
            answers = [_worded(self._answer(request), request.params) for _ in range(request.params.n)]
            usage = Usage(
                prompt_tokens=len(request.prompt.text().split()),
                completion_tokens=sum(len(answer.tokens) for answer in answers),
                requests=1,
            )
            for index, answer in enumerate(answers):
                steps = _steps(answer, index, self._tokens_per_delta, request.params)
                if index == len(answers) - 1:
                    steps[-1].usage = usage
                for number, step in enumerate(steps):
                    if number and self._delta_s:
                        await asyncio.sleep(self._delta_s)
                    yield step
        except (GeneratorExit, asyncio.CancelledError):
            self.aborts += 1
            raise
        finally:
            self.active -= 1

    async def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> list[Score]:
        self.scored.append((prompt, tuple(options)))
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        return [self._score(prompt.text(), option, unconditional) for option in options]

    async def choose(self, request: GenerateRequest, options: Sequence[str]) -> tuple[str, Usage]:
        """The next answer of the script if it is one of `options`, else the option that scores best."""
        self._begin(request)
        try:
            if self._latency_s:
                await asyncio.sleep(self._latency_s)
            answer = self._answer(request)
        except asyncio.CancelledError:
            self.aborts += 1
            raise
        finally:
            self.active -= 1
        if answer not in options:
            answer = max(options, key=lambda option: self._scores(request.prompt.text(), option))
        words = len(request.prompt.text().split())
        return answer, Usage(prompt_tokens=words, completion_tokens=len(_words(answer)), requests=1)

    def info(self) -> dict[str, object]:
        return {"model": "scripted"}

    async def flush_cache(self) -> bool:
        self.flushes += 1
        return True

    async def close(self) -> None:
        self.closed = True

    def _begin(self, request: GenerateRequest) -> None:
        self.asked += 1
        if self._record:
            self.requests.append(request)
        self.active += 1
        self.most_active = max(self.most_active, self.active)

    def _answer(self, request: GenerateRequest) -> str:
        answer = self._look_up(request)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _look_up(self, request: GenerateRequest) -> Answer:
        script = self._script
        if isinstance(script, (str, BaseException)):
            return script
        if isinstance(script, Mapping):
            return _first_found(cast("Mapping[str, Answer]", script), request.prompt.text())
        if callable(script):
            return script(request)
        number, self._answered = self._answered, self._answered + 1
        if number >= len(script):
            raise AssertionError(f"the script has {len(script)} answers, and one more was asked for")
        return script[number]

    def _score(self, prompt: str, option: str, unconditional: bool) -> Score:
        words = _words(option)
        tokens = tuple(map(_token, words))
        alone = (self._scores("", option),) * len(words) if unconditional else None
        return Score(tokens, (self._scores(prompt, option),) * len(words), alone)


def _first_found(answers: Mapping[str, Answer], text: str) -> Answer:
    for pattern, answer in answers.items():
        if re.search(pattern, text):
            return answer
    raise AssertionError(f"no pattern of the script is found in the prompt {text!r}")


@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[str, ...]:
    """`text` in pieces of a word and the white space before it; nothing is lost."""
    return tuple(re.findall(r"\s*\S+|\s+$", text))


def _token(word: str) -> int:
    return zlib.crc32(word.encode()) % 50_000


def _made_up(prompt: str, option: str) -> float:
    digest = hashlib.blake2b(f"{prompt}\0{option}".encode(), digest_size=4).digest()
    return -0.01 - int.from_bytes(digest, "big") / 2**31


def _worded(answer: str, params: SamplingParams) -> _Worded:
    text, matched = answer, None
    stops = [(text.find(stop), stop, "" if not params.include_stop else stop) for stop in params.stop]
    for pattern in params.stop_regex:
        found = re.search(pattern, text)
        if found is not None:
            stops.append((found.start(), found[0], found[0] if params.include_stop else ""))
    hits = [stop for stop in stops if stop[0] >= 0]
    if hits:
        at, matched, kept = min(hits)
        text = text[:at] + kept
    words = _words(text)
    if len(words) > params.max_tokens:
        return _Worded(words[: params.max_tokens], "length", None)
    return _Worded(words, "stop", matched)


def _steps(answer: _Worded, index: int, size: int, params: SamplingParams) -> list[Delta]:
    words = answer.tokens
    size = size or max(len(words), 1)
    steps: list[Delta] = []
    for start in range(0, len(words), size):
        chunk = words[start : start + size]
        tokens = list(map(_token, chunk))
        logprobs = None
        if params.logprobs is not None:
            top = params.logprobs
            logprobs = [
                TokenLogprob(token, -0.5, word, tuple((token + k, -0.5 - k) for k in range(top)))
                for token, word in zip(tokens, chunk, strict=True)
            ]
        steps.append(Delta("".join(chunk), tokens, index, logprobs))
    if not steps:
        steps.append(Delta("", index=index))
    steps[-1].finish, steps[-1].matched = answer.finish, answer.matched
    return steps
