"""POST /v1/completions"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ...lang.types import Delta, TokenLogprob, Usage
from ..limits import NUMBERS
from . import wire
from .aborting import Name
from .answers import Answer, Question, Reply, ask_all, collect
from .body import JsonObject, read_object
from .constraints import asked_constraint
from .errors import HttpError, invalid
from .fields import Check, Field, Values, boolean, number, object_of
from .prompts import check_model, encode_text, fit, prompt_list
from .request import Request
from .sampling import UNSUPPORTED, StreamOptions, most_answers, openai_params, openai_table
from .service import Engine, Service
from .settings import ServerConfig
from .stream import send
from .truncation import TRUNCATION, Truncation, cut
from .watching import is_unlogged

_DEFAULT_TOKENS = 16  # OpenAI's


@functools.lru_cache(maxsize=4)
def request_body(vocab_size: int) -> Field[dict[str, Any]]:
    table: dict[str, Check] = {
        **openai_table(vocab_size),
        "max_tokens": number(NUMBERS["max_tokens_with_echo"]),
        "prompt": prompt_list(vocab_size),
        "logprobs": number(NUMBERS["logprobs"]),
        "echo": boolean,
        "best_of": number(NUMBERS["best_of"]),
        "add_special_tokens": boolean,
        **TRUNCATION,
    }
    return object_of(table, required=("model", "prompt"), unsupported=UNSUPPORTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """How the answers are to be written.

    prompts: as text, empty unless they are echoed
    prompt_logprobs: how many ranked tokens stand beside each of the prompt; None: it has no log-probabilities
    answers: wanted for each prompt; more may be drawn (best_of)
    """

    id: str
    created: int
    model: str
    prompts: Sequence[str]
    echo: bool
    logprobs: int | None
    prompt_logprobs: int | None
    with_ids: bool
    answers: int
    naming: wire.Naming

    def json(self) -> JsonObject:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}


async def answer(service: Service, request: Request) -> web.StreamResponse:
    settings = service.settings
    with service.admitted() as engine:
        found = await read_object(request, settings)
        check_model(found, engine)
        values = request_body(engine.vocab_size)("", found)
        is_unlogged.set(values.get("no_logs", False))
        name = Name.of(request, values, "cmpl")
        prompts: list[str | list[int]] = values["prompt"]
        drawn = _check(values, len(prompts))
        questions = await _questions(engine, values, prompts, drawn, settings, name)
        form = _form(engine, values, prompts, questions, settings, name)
        if values.get("stream", False):
            events = _Events(form, questions, values.get("stream_options", StreamOptions()))
            interval = values.get("stream_interval", 1)
            return await send(service, request, ask_all(engine, questions), events, interval)
        replies = await collect(engine, questions)
        for reply in replies:
            for each in reply.answers:
                # the prompt is the same for all answers, and only the first brings its log-probabilities
                each.prompt_logprobs = reply.answers[0].prompt_logprobs
        choices = [
            _choice(form, place, index, questions[place], done)
            for place, reply in enumerate(replies)
            for index, done in enumerate(_best(reply, form.answers))
        ]
        whole = {**form.json(), "choices": choices, "usage": wire.usage([reply.usage for reply in replies])}
        return web.Response(body=wire.dumps(whole), content_type="application/json")


def _check(values: Values, prompts: int) -> int:
    """What the fields say together; returns how many answers to draw for each prompt."""
    answers = values.get("n", 1)
    drawn = values.get("best_of", answers)
    if drawn < answers:
        raise invalid(f"best_of must be at least n ({answers}), got {drawn}", "best_of")
    if drawn > answers and values.get("stream", False):
        raise invalid("best_of cannot be streamed: the best is known at the end", "best_of")
    if values.get("max_tokens", None) == 0 and not values.get("echo", False):
        raise invalid("max_tokens must be at least 1, or 0 with echo, got 0", "max_tokens")
    most_answers(prompts * drawn, "best_of" if drawn > answers else "n")
    return drawn


async def _questions(
    engine: Engine, values: Values, prompts: Sequence[str | list[int]], drawn: int, settings: ServerConfig, name: Name
) -> list[Question]:
    wanted: int | None = values.get("max_tokens", None)
    logprobs: int | None = values.get("logprobs", None)
    of_prompt = [values.get("prompt_logprobs"), logprobs if values.get("echo", False) else None]
    drawing = {**values, "n": drawn}
    asked = asked_constraint(values)
    cuts = settings.allow_auto_truncate
    truncation = Truncation.of_request(engine, values, settings, _DEFAULT_TOKENS if wanted is None else wanted)
    questions: list[Question] = []
    for place, prompt in enumerate(prompts):
        path = "prompt" if len(prompts) == 1 else f"prompt[{place}]"
        if isinstance(prompt, str):
            ids = await encode_text(engine, prompt, path, truncation, bos=values.get("add_special_tokens", True))
        else:
            ids = cut(prompt, truncation)
        params = openai_params(
            drawing,
            engine.sampling_defaults,
            max_tokens=fit(engine, ids, wanted, _DEFAULT_TOKENS, "max_tokens", lowers=cuts),
            # the best of several is known by its log-probabilities
            logprobs=0 if logprobs is None and drawn > values.get("n", 1) else logprobs,
            prompt_logprobs=max((count for count in of_prompt if count is not None), default=None),
        )
        questions.append(
            Question(
                prompt=ids,
                params=params,
                salt=values.get("cache_salt", ""),
                priority=values.get("priority", 0),
                timeout_s=settings.request_timeout_s,
                asked=asked,
                rid=name.handle,
            )
        )
    return questions


def _echoed(engine: Engine, prompt: str | list[int], question: Question, *, is_whole: bool) -> str:
    """The prompt as text, as much of it as was read."""
    if isinstance(prompt, str) and is_whole:
        return prompt
    return engine.tokenizer.decode(question.prompt)


def _form(
    engine: Engine,
    values: Values,
    prompts: Sequence[str | list[int]],
    questions: Sequence[Question],
    settings: ServerConfig,
    name: Name,
) -> _Form:
    echo = values.get("echo", False)
    is_whole = not settings.allow_auto_truncate and "truncate_prompt_tokens" not in values
    pairs = zip(prompts, questions, strict=True) if echo else ()
    return _Form(
        id=name.id,
        created=int(time.time()),
        model=engine.model_name,
        prompts=[_echoed(engine, *pair, is_whole=is_whole) for pair in pairs],
        echo=echo,
        logprobs=values.get("logprobs", None),
        prompt_logprobs=values.get("prompt_logprobs"),
        with_ids=values.get("return_token_ids", False),
        answers=values.get("n", 1),
        naming=wire.Naming(engine.tokenizer, values.get("return_tokens_as_token_ids", False)),
    )


def _best(reply: Reply, wanted: int) -> list[Answer]:
    """The likeliest answers per token, if more were drawn than wanted."""
    if len(reply.answers) == wanted:
        return reply.answers
    return sorted(reply.answers, key=Answer.mean_logprob, reverse=True)[:wanted]


def _choice(form: _Form, place: int, index: int, question: Question, done: Answer) -> JsonObject:
    logprobs = None
    if form.logprobs is not None:
        echoed = done.prompt_logprobs if form.echo else None
        entries: list[TokenLogprob | None] = [*(echoed or ()), *done.logprobs]
        logprobs, _ = wire.completion_logprobs(entries, question.prompt[0], form.logprobs, 0, form.naming)
    more: JsonObject = {}
    if form.prompt_logprobs is not None:
        more["prompt_logprobs"] = form.naming.prompt_logprobs(done.prompt_logprobs or (), form.prompt_logprobs)
    ids = {"prompt_token_ids": question.prompt, "token_ids": done.tokens} if form.with_ids else {}
    return {
        **ids,
        **more,
        "index": place * form.answers + index,
        "text": form.prompts[place] + done.text if form.echo else done.text,
        "logprobs": logprobs,
        "finish_reason": done.finish,
        "matched_stop": done.matched,
    }


class _Events:
    """Chunks of the streamed answers. What is the same in all of them is encoded once."""

    def __init__(self, form: _Form, questions: Sequence[Question], options: StreamOptions) -> None:
        self._form = form
        self._questions = questions
        self._options = options
        self._usage: list[Usage] = []
        self._offsets = [0] * (len(questions) * form.answers)
        self._begun: set[int] = set()
        self._named: set[int] = set()  # whose prompt's ids are out
        # log-probabilities of each echoed prompt; they come with its first answer, and the others wait for them
        self._echoed: dict[int, list[TokenLogprob | None]] = {}
        self._waiting: dict[int, list[Delta]] = {}
        self._made = 0
        frame = wire.encode(form.json())[:-1]
        self._head = f'data: {frame},"choices":[{{"index":'
        self._tail = ',"logprobs":null,"finish_reason":null}]' + (',"usage":null' if options.usage else "") + "}\n\n"

    def start(self) -> bytes:
        return b""

    def delta(self, place: int, delta: Delta) -> bytes:
        if self._form.echo and self._form.logprobs is not None and place not in self._echoed:
            if delta.prompt_logprobs is None:
                self._waiting.setdefault(place, []).append(delta)
                return b""
            self._echoed[place] = delta.prompt_logprobs
            return b"".join(self._chunk(place, each) for each in (delta, *self._waiting.pop(place, ())))
        return self._chunk(place, delta)

    def _chunk(self, place: int, delta: Delta) -> bytes:
        if delta.usage is not None:
            self._usage.append(delta.usage)
        index = place * self._form.answers + delta.index
        text, entries = self._with_echo(place, index, delta)
        self._made += len(delta.tokens)
        if delta.finish is None and not (entries or self._options.continuous or self._form.with_ids):
            return f'{self._head}{index},"text":{wire.encode(text)}{self._tail}'.encode() if text else b""
        logprobs = None
        if self._form.logprobs is not None:
            logprobs, self._offsets[index] = wire.completion_logprobs(
                entries,
                self._questions[place].prompt[0],
                self._form.logprobs,
                self._offsets[index],
                self._form.naming,
            )
        choice: JsonObject = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish}
        if self._form.with_ids:
            if index not in self._named:
                self._named.add(index)
                choice["prompt_token_ids"] = self._questions[place].prompt
            choice["token_ids"] = delta.tokens
        if delta.finish is not None:
            choice["matched_stop"] = delta.matched
        chunk = {**self._form.json(), "choices": [choice]}
        if self._options.usage:
            chunk["usage"] = self._so_far()
        return wire.event(chunk)

    def _so_far(self) -> JsonObject | None:
        if not self._options.continuous:
            return None
        prompts = sum(len(question.prompt) for question in self._questions)
        return wire.usage([Usage(prompt_tokens=prompts, completion_tokens=self._made)])

    def _with_echo(self, place: int, index: int, delta: Delta) -> tuple[str, list[TokenLogprob | None]]:
        """The increment; the first of an echoed answer brings the prompt."""
        entries: list[TokenLogprob | None] = [*(delta.logprobs or ())]
        if not self._form.echo or index in self._begun:
            return delta.text, entries
        self._begun.add(index)
        return self._form.prompts[place] + delta.text, [*self._echoed.get(place, ()), *entries]

    def end(self) -> bytes:
        if not self._options.usage:
            return wire.DONE
        chunk: JsonObject = {**self._form.json(), "choices": [], "usage": wire.usage(self._usage)}
        return wire.event(chunk) + wire.DONE

    def error(self, error: HttpError) -> bytes:
        return wire.failure(error)
