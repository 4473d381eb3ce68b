"""The engine without threads: requests go in, each step gives increments of text."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..lang.errors import EngineError, StolonError
from ..lang.types import Delta, FinishReason, SamplingParams, TokenLogprob, Usage
from .detokenize import Detokenizer
from .scheduler import Scheduler
from .sequence import Plan, RowResult, Runner, Sequence
from .stops import StopMatcher
from .tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One answer to compute; several answers to one prompt are several requests.

    id: unique in the engine
    deadline_s: on the scheduler's clock
    """

    id: int
    tokens: array[int]
    params: SamplingParams
    seed: int
    salt: str = ""
    priority: int = 0
    program: int = 0
    width: int = 1
    deadline_s: float | None = None


@dataclass(slots=True)
class Output:
    """What a step gave one request: an increment, or the error that ended it."""

    id: int
    event: Delta | Exception

    @property
    def is_last(self) -> bool:
        return isinstance(self.event, Exception) or self.event.finish is not None


class EngineCore:
    """A scheduler, a runner and the text of every request between them. Not safe for threads, knows no event loop.

    Each request that `submit` took ends in exactly one last Output, whatever happens to it.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, tokenizer: Tokenizer) -> None:
        self._scheduler = scheduler
        self._runner: Runner | None = runner
        self._tokenizer = tokenizer
        self._answers: dict[int, _Answer] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._answers)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises what the scheduler refuses: a full queue, a prompt that can never fit."""
        sequence = Sequence(
            id=request.id,
            tokens=array("i", request.tokens),
            num_prompt=len(request.tokens),
            params=request.params,
            seed=request.seed,
            salt=request.salt,
            priority=request.priority,
            program=request.program,
            width=request.width,
            deadline_s=request.deadline_s,
        )
        answer = _Answer(sequence, self._tokenizer)  # first: it refuses a stop regex that does not compile
        self._scheduler.submit(sequence)
        self._answers[request.id] = answer

    def abort(self, id: int) -> None:
        """End a request; its last Output comes with the next step. Does nothing if it has ended."""
        answer = self._answers.get(id)
        if answer is not None:
            self._scheduler.abort(answer.sequence)

    def flush_cache(self) -> bool:
        """Forget all cached prefixes; False if requests are using them."""
        return self._scheduler.flush()

    def release(self) -> None:
        """Let go of the model; there are no steps after this. A second call does nothing."""
        self._runner = None

    def step(self) -> list[Output]:
        """Compute one step. A fault of the whole step ends the requests in it, and only those."""
        outputs: list[Output] = []
        plan = self._scheduler.schedule()
        if plan is not None:
            assert self._runner is not None, "a step after release"
            try:
                step = self._runner.launch(plan)
                step.sample(None)
                results = step.results()
            except Exception as error:
                logger.exception("a step of %d tokens failed", plan.num_tokens)
                for sequence in self._scheduler.fail(plan, error):
                    if sequence.error is error:  # raised in as many places as there are requests: to each its own
                        sequence.error = as_engine_error(error)
            else:
                self._scheduler.commit(plan, results)
                self._speak(plan, results, outputs)
        self._end(self._scheduler.reap(), outputs)
        return outputs

    def _speak(self, plan: Plan, results: list[RowResult], outputs: list[Output]) -> None:
        """Turn what the rows drew into increments."""
        answers = self._answers
        for row, result in zip(plan.rows, results, strict=True):
            sequence = row.sequence
            answer = answers.get(sequence.id)
            if answer is None:
                continue
            try:
                answer.keep_prompt_logprobs(result.prompt_logprobs)
                if result.token is None:
                    continue
                delta = answer.push(result.token, result.logprob)
            except Exception as error:
                logger.exception("request %d failed while its text was made", sequence.id)
                self._fail(answer, as_engine_error(error), outputs)
                continue
            outputs.append(Output(sequence.id, delta))
            if delta.finish is not None:
                del answers[sequence.id]
                if not sequence.is_finished:
                    self._scheduler.finish(sequence, delta.finish, delta.matched)

    def _fail(self, answer: _Answer, error: StolonError, outputs: list[Output]) -> None:
        del self._answers[answer.sequence.id]
        if not answer.sequence.is_finished:
            self._scheduler.abort(answer.sequence, error)
        outputs.append(Output(answer.sequence.id, error))

    def _end(self, ended: Iterable[Sequence], outputs: list[Output]) -> None:
        """Close the answers of sequences that ended without a token of their own in this step."""
        for sequence in ended:
            answer = self._answers.pop(sequence.id, None)
            if answer is None:  # its last output has been made above
                continue
            if sequence.error is not None:
                outputs.append(Output(sequence.id, sequence.error))
                continue
            try:
                outputs.append(Output(sequence.id, answer.close()))
            except Exception as error:
                logger.exception("request %d failed while its text was closed", sequence.id)
                outputs.append(Output(sequence.id, as_engine_error(error)))


class _Answer:
    """The text of one sequence while it grows."""

    __slots__ = ("_detokenizer", "_prompt_logprobs", "_stops", "_tokenizer", "sequence")

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer) -> None:
        params = sequence.params
        self.sequence = sequence
        self._tokenizer = tokenizer
        self._detokenizer: Detokenizer | None = None
        self._stops = (
            StopMatcher(params.stop, params.stop_regex, params.include_stop)
            if params.stop or params.stop_regex
            else None
        )
        self._prompt_logprobs: list[TokenLogprob | None] | None = None
        if params.prompt_logprobs is not None:
            self._prompt_logprobs = [None] if params.logprob_start == 0 else []

    def keep_prompt_logprobs(self, logprobs: list[TokenLogprob]) -> None:
        """Take those of the next tokens of the prompt, until its first increment takes them all."""
        if logprobs and self._prompt_logprobs is not None:
            self._prompt_logprobs.extend(map(self._named, logprobs))

    def push(self, token: int, logprob: TokenLogprob | None) -> Delta:
        """The increment that `token`, the sequence's newest, brings. Call after the scheduler has committed it."""
        sequence = self.sequence
        finish = sequence.finish
        text, matched = "", None
        if not (finish == "stop" and sequence.matched == token) or sequence.params.include_stop:
            text = self._decoder().push((token,))
        if finish is not None:
            text += self._decoder().flush()
        if self._stops is not None:
            text, matched = self._match(text, last=finish is not None)
        if matched is not None:
            finish = "stop"
        else:
            matched = sequence.matched
        delta = Delta(text, [token], finish=finish, matched=matched)
        if logprob is not None:
            delta.logprobs = [self._named(logprob)]
        if self._prompt_logprobs is not None:
            delta.prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        if finish is not None:
            delta.usage = self._usage()
        return delta

    def close(self) -> Delta:
        """The last increment of a sequence that ends without a further token."""
        sequence = self.sequence
        finish: FinishReason = sequence.finish or "abort"
        text, matched = "" if self._detokenizer is None else self._detokenizer.flush(), sequence.matched
        if self._stops is not None:
            text, stop = self._match(text, last=True)
            matched = matched if stop is None else stop
        delta = Delta(text, finish=finish, matched=matched, usage=self._usage())
        delta.prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        return delta

    def _match(self, text: str, *, last: bool) -> tuple[str, str | None]:
        """Hold back what may become a stop; text before `min_tokens` is never searched."""
        assert self._stops is not None
        if self.sequence.num_output <= self.sequence.params.min_tokens:
            return text, None
        text, matched = self._stops.push(text)
        if last and matched is None:
            text += self._stops.flush()
        return text, matched

    def _decoder(self) -> Detokenizer:
        if self._detokenizer is None:
            sequence = self.sequence
            prompt = sequence.tokens[: sequence.num_prompt]
            self._detokenizer = Detokenizer(
                self._tokenizer, prompt, skip_special_tokens=sequence.params.skip_special_tokens
            )
        return self._detokenizer

    def _usage(self) -> Usage:
        sequence = self.sequence
        return Usage(
            prompt_tokens=sequence.num_prompt,
            cached_tokens=sequence.cached or 0,
            completion_tokens=sequence.num_output,
            requests=1,
        )

    def _named(self, logprob: TokenLogprob) -> TokenLogprob:
        """With the texts of its tokens."""
        text_of: Callable[[int], str] = self._tokenizer.token_text
        logprob.text = text_of(logprob.token)
        if logprob.top:
            logprob.top_texts = tuple(text_of(token) for token, _ in logprob.top)
        return logprob


def as_engine_error(error: Exception) -> StolonError:
    if isinstance(error, StolonError):
        return error
    fault = EngineError(f"the engine failed at this request: {error!r}")
    fault.__cause__ = error
    return fault
