"""The engine as callers see it: asynchronous, usable from any thread and any event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import random
import time
import weakref
from array import array
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

from ..lang.constraint import Constraint
from ..lang.errors import ContextLengthError, EngineClosedError, EngineError, InvalidRequest
from ..lang.types import MAX_SEED, Delta, SamplingParams, Usage
from .accelerator import Accelerator
from .chat import ChatTemplate
from .config import EngineConfig
from .constrained import Form
from .core import EngineCore, Output, Request
from .directories import model_directory, path_as_given, served_names
from .endings import Endings
from .forms import Forms
from .grammar.spelling import is_compact
from .loop import EngineThread, Heartbeat
from .masks import AllowedTokens
from .metrics import SchedulerStats
from .ngram import NgramGuesser
from .runner import ModelRunner, resolve
from .sampling_defaults import OPENAI
from .scheduler import Scheduler
from .score import shared_length
from .step_log import StepLog
from .tokenizer_absent import tokenizer_of
from .view import View

SCORED_AT_ONCE = 256  # token lists, or as many as may wait; by default 1,024 requests of everybody may

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 2**64 - 1


def derive_seed(seed: int, index: int) -> int:
    """The seed of answer `index` of a request with `seed`; answer 0 keeps it.

    So `n=3, seed=s` gives the answers of three requests with the seeds derive_seed(s, 0), ... (s, 2).
    Source of the mixing: splitmix64 (Steele, Lea, Flood 2014).
    """
    if index == 0:
        return seed
    mixed = (seed + index * _GOLDEN) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
    return (mixed ^ (mixed >> 31)) & MAX_SEED


class Engine:
    """One model on one device, computing for all who ask. Construction loads the model and starts the thread.

    Requests may come from several event loops and threads at once. Raises CheckpointError if the files are wrong.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        sampling_defaults: Mapping[str, float] = OPENAI,
        accelerator: Accelerator | None = None,
    ) -> None:
        """sampling_defaults: for who reads requests, of what they leave out; `generate` is told everything
        accelerator: the device, instead of `config.device`
        """
        config = resolve(config)
        compact = is_compact(config.constrained_json_whitespace_pattern)
        folder = model_directory(config)
        template = None if config.chat_template is None else Path(config.chat_template)
        self.config = config
        self.model_name, *self.other_names = served_names(config)
        self.path = path_as_given(config)
        self.sampling_defaults = sampling_defaults
        self.tokenizer = tokenizer_of(config)
        self.chat = ChatTemplate.load(self.tokenizer, folder, template)
        runner = ModelRunner(config, end_token_ids=self.tokenizer.eos_ids, accelerator=accelerator)
        self.memory_report = runner.memory_report
        self.context_length = runner.context_length
        self.vocab_size = runner.vocab_size
        self.num_slots = runner.num_slots
        guesser = None if config.scheduler.speculative_algorithm == "none" else NgramGuesser(runner.eos_token_ids)
        self._scheduler = Scheduler(
            config.scheduler, runner.num_slots, runner.context_length, time.monotonic, runner.eos_token_ids, guesser
        )
        # what to guess next is known when a step has ended
        overlap = config.overlap and runner.is_asynchronous and guesser is None
        self._core = EngineCore(self._scheduler, runner, self.tokenizer, overlap=overlap)
        self._forms = Forms(
            self.tokenizer,
            runner.vocab_size,
            runner.eos_token_ids,
            backend=config.grammar_backend,
            compact=compact,
            jump=config.jump_forward,
        )
        every = config.decode_log_interval
        self._thread = EngineThread(self._core, StepLog(every, self._scheduler.stats) if every else None)
        # a thread that still computes while the interpreter winds up would abort the process
        self._at_exit = weakref.finalize(self, _end, self._thread, self._forms)
        self._ids = itertools.count()
        self._endings = Endings()
        seed = config.random_seed
        self._seeds = random.SystemRandom() if seed is None else random.Random(seed)
        self._process = os.getpid()

    @property
    def heartbeat(self) -> Heartbeat:
        return self._thread.heartbeat

    def room(self, prompt_length: int) -> int:
        """How many tokens can follow a prompt of this length; 0 or less: none."""
        return min(self.context_length, self.num_slots) - prompt_length

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        constraint: Constraint | None = None,
        salt: str = "",
        priority: int = 0,
        program: int = 0,
        width: int = 1,
        timeout_s: float | None = None,
        rid: str = "",
    ) -> AsyncGenerator[Delta, None]:
        """Answer a prompt step by step. Closing the iterator, or cancelling its task, ends the work within a step.

        constraint: the form of each answer, which it has when it is whole, whatever else is asked; see `Constrained`
        salt: prompts share computed prefixes only with those of the same salt
        program, width: as in `GenerateRequest`; hints for the scheduler
        rid: a name by which others may end it, see `abort`
        The token that ended an answer (an end token, a stop token) is in `tokens` and counted, but not in the text.
        Raises InvalidRequest, ContextLengthError, OverloadedError, BackendTimeout, EngineError, EngineClosedError.
        """
        self._check(prompt_ids, params)
        deadline_s = _deadline(timeout_s)
        allowed = AllowedTokens(params.allowed_token_ids, self.vocab_size) if params.allowed_token_ids else None
        if allowed is not None and constraint is not None:
            message = (
                "allowed_token_ids is for answers without a form, which says by itself what may come; leave one out"
            )
            raise InvalidRequest(message, param="allowed_token_ids")
        with self._endings.under(rid) as ending:
            form = None if constraint is None else await self._form(constraint)
            if form is not None:
                form.check_budget(params.max_tokens)
            seed = self._seeds.getrandbits(63) if params.seed is None else params.seed
            # the prompt's log-probabilities are the same for all answers: the first computes them
            others = dataclasses.replace(params, prompt_logprobs=None) if params.n > 1 else params
            first = Request(
                id=next(self._ids),
                tokens=array("i", prompt_ids),
                params=params,
                seed=seed,
                salt=salt,
                priority=priority,
                program=program,
                width=width * params.n,
                deadline_s=deadline_s,
                form=form,
                allowed=allowed,
            )
            requests = [first] + [
                dataclasses.replace(first, id=next(self._ids), params=others, seed=derive_seed(seed, index))
                for index in range(1, params.n)
            ]
            indices = {request.id: index for index, request in enumerate(requests)}
            usage: list[Usage] = []
            with self._asked(requests) as inbox:
                ending.by(lambda: self._thread.abort(inbox.open))
                async for id, delta in inbox:
                    delta.index = indices[id]
                    if delta.usage is not None:
                        usage.append(delta.usage)
                        delta.usage = _total(usage) if len(usage) == params.n else None
                    yield delta

    def abort(self, rid: str | None) -> int:
        """End the requests of this name, or all (None), within a step: their answers end with the reason "abort".
        Returns how many there were."""
        return self._endings.ask(rid)

    async def check(self, constraint: Constraint) -> None:
        """Raises InvalidRequest, with `code` and `param`, for a constraint that `generate` would refuse."""
        self._check_process()
        await self._form(constraint)

    async def _form(self, constraint: Constraint) -> Form:
        self.tokenizer.require("a form of the answer")
        return await self._forms.form(constraint)

    async def score(
        self,
        token_lists: Sequence[Sequence[int]],
        start: int,
        *,
        salt: str = "",
        priority: int = 0,
        program: int = 0,
        timeout_s: float | None = None,
    ) -> list[tuple[float, ...]]:
        """Natural-log probabilities of the tokens from position `start` (at least 1) on, for each list.

        In the order of a trie of the lists, so that each of its edges is scored once: a list brings the scores of the
        tokens that it does not share with the one before it. In batches, so that the queue has room for others.
        """
        if start < 1:
            raise InvalidRequest(f"nothing comes before the first token: start must be at least 1, got {start}")
        params = SamplingParams(max_tokens=0, prompt_logprobs=0, logprob_start=start)
        for tokens in token_lists:
            self._check(tokens, params)
        common = Request(
            id=0,
            tokens=array("i"),
            params=params,
            seed=0,
            salt=salt,
            priority=priority,
            program=program,
            deadline_s=_deadline(timeout_s),
        )
        order = sorted(range(len(token_lists)), key=lambda index: tuple(token_lists[index]))
        lists = [token_lists[index] for index in order]
        shared = [max(start, shared_length(pair)) for pair in itertools.pairwise(lists)]
        own = [start, *shared][: len(lists)]  # where each has tokens that the one before it has not
        asked = {begin: dataclasses.replace(params, logprob_start=begin) for begin in own}
        found: list[tuple[float, ...]] = [()] * len(lists)
        before: tuple[float, ...] = ()
        at_once = min(SCORED_AT_ONCE, self.config.scheduler.max_queued_requests)
        for first in range(0, len(lists), at_once):
            batch = slice(first, first + at_once)
            requests = [
                dataclasses.replace(
                    common,
                    id=next(self._ids),
                    tokens=array("i", tokens),
                    params=asked[begin],
                    width=len(lists[batch]),
                )
                for tokens, begin in zip(lists[batch], own[batch], strict=True)
            ]
            scores = await self._scored(requests)
            for index, begin, score in zip(order[batch], own[batch], scores, strict=True):
                before = found[index] = before[: begin - start] + score
        return found

    async def _scored(self, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        # a list that ends before its start has nothing to score, and nothing is computed for it
        asked = [request for request in requests if len(request.tokens) > request.params.logprob_start]
        scores: dict[int, tuple[float, ...]] = {}
        with self._asked(asked) as inbox:
            async for id, delta in inbox:
                if delta.prompt_logprobs is not None:
                    scores[id] = tuple(entry.logprob for entry in delta.prompt_logprobs if entry is not None)
        return [scores.get(request.id, ()) for request in requests]

    async def prefill(self, prompt_ids: Sequence[int], *, salt: str = "", program: int = 0) -> None:
        """Compute a prompt now, so that requests which extend it start faster."""
        async for _ in self.generate(prompt_ids, SamplingParams(max_tokens=0), salt=salt, program=program):
            pass

    def end_program(self, program: int) -> None:
        """The program asks no more: its prefixes are now as good as any other. Does not wait; nothing after the end."""
        if os.getpid() == self._process:
            with suppress(EngineClosedError, EngineError):
                self._thread.call(lambda: self._scheduler.end_program(program))

    async def flush_cache(self) -> bool:
        """Forget all cached prefixes; False, and nothing is forgotten, while requests are running."""
        return await asyncio.wrap_future(self._flush())

    def flush(self) -> bool:
        """`flush_cache` for callers without an event loop."""
        return self._flush().result()

    def _flush(self) -> Future[bool]:
        self._check_process()
        return self._thread.call(self._core.flush_cache)

    def scheduler_stats(self) -> SchedulerStats:
        """A moment of the scheduler; its counters are copies."""
        now = self._scheduler.stats()
        return dataclasses.replace(now, counters=dataclasses.replace(now.counters))

    def stats(self) -> dict[str, object]:
        """Counters since the start, and gauges: `kv_...` in KV slots, `running` and `waiting` in answers."""
        now = dataclasses.asdict(self._scheduler.stats())
        counters, queues = now.pop("counters"), {name: now.pop(name) for name in ("running", "waiting")}
        kv = {f"kv_{name}": value for name, value in now.items()}
        return {**counters, **queues, **kv, "alive": self._thread.heartbeat.alive}

    async def view(self, nodes: int, requests: int, first: int = 0) -> View:
        """What the tree and the queue hold between two steps, for people to look at; see `Scheduler.view`."""
        self._check_process()
        return await asyncio.wrap_future(self._thread.call(lambda: self._scheduler.view(nodes, requests, first)))

    async def close(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, let running ones go on for up to `drain_s`, end the rest, stop the thread."""
        await asyncio.to_thread(self.shutdown, drain_s)

    def shutdown(self, drain_s: float = 0.0) -> None:
        """`close` for callers without an event loop. A second call does nothing."""
        if os.getpid() == self._process:
            _end(self._thread, self._forms, drain_s)
            self._core.release()

    @contextmanager
    def _asked(self, requests: Sequence[Request]) -> Generator[_Inbox, None, None]:
        """Submit requests together; whatever has not ended when the block is left is aborted."""
        self._scheduler.refuse_when_full()  # here already, so that a refusal does not wait for the step under way
        inbox = _Inbox(request.id for request in requests)
        self._thread.submit((request, inbox) for request in requests)
        try:
            yield inbox
        finally:
            if inbox.open:
                self._thread.abort(inbox.open)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise EngineClosedError("the engine cannot be used after fork: its thread stayed in the parent process")

    def _check(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Refuse what can be seen to be impossible before it is queued."""
        self._check_process()
        if params.stop or params.stop_regex:
            self.tokenizer.require("a stop that is text")
        length, room = len(prompt_ids), self.room(len(prompt_ids))
        if length == 0:
            raise InvalidRequest("the prompt has no tokens; send at least one", param="prompt")
        if params.max_tokens > room:
            where = "context" if self.context_length <= self.num_slots else "KV cache"
            fewer = f" or ask for at most {room} tokens" if room > 0 else ""
            raise ContextLengthError(
                f"the prompt has {length} tokens and max_tokens is {params.max_tokens}, but the {where} holds "
                f"{length + room} tokens; shorten the prompt{fewer}",
                param="max_tokens" if room > 0 else "prompt",
            )
        named = (("prompt", prompt_ids), ("stop_token_ids", params.stop_token_ids))
        biased = ("logit_bias", [token for token, _ in params.logit_bias])
        asked = [(name, getattr(params, name)) for name in ("logprob_token_ids", "allowed_token_ids")]
        for name, ids in (*named, biased, *asked):
            if ids and not (min(ids) >= 0 and max(ids) < self.vocab_size):
                wrong = next(token for token in ids if not 0 <= token < self.vocab_size)
                raise InvalidRequest(
                    f"{name}: the vocabulary has ids 0 to {self.vocab_size - 1}, got {wrong}", param=name
                )


class _Inbox:
    """Outputs of the requests of one caller, on the caller's event loop, in the order in which they came.

    open: ids of the requests that have not ended
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self.loop = asyncio.get_running_loop()
        self.open = set(ids)
        self._outputs: deque[Output] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def receive(self, output: Output) -> None:
        self._outputs.append(output)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> _Inbox:
        return self

    async def __anext__(self) -> tuple[int, Delta]:
        while not self._outputs:
            if not self.open:
                raise StopAsyncIteration
            self._waiter = self.loop.create_future()
            await self._waiter
        output = self._outputs.popleft()
        if output.is_last:
            self.open.discard(output.id)
        if isinstance(output.event, Exception):
            raise output.event
        return output.id, output.event


def _end(thread: EngineThread, forms: Forms, drain_s: float = 0.0) -> None:
    thread.stop(drain_s)
    forms.close()


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _total(usages: list[Usage]) -> Usage:
    """Of several answers to one prompt, which counts once; what the first answer found cached was cached for all."""
    return Usage(
        prompt_tokens=usages[0].prompt_tokens,
        cached_tokens=min(usage.cached_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        requests=1,
    )
