"""The engine without threads: requests go in, each step gives increments of text."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..lang.errors import StolonError
from ..lang.types import Delta, SamplingParams
from .answer import Answer
from .constrained import Constrained, Form
from .masks import AllowedTokens, Filling, MaskedAnswer, MaskFiller
from .pipeline import Landed, Pipeline, as_engine_error
from .scheduler import Scheduler
from .sequence import MaskingRunner, Masks, Plan, RowResult, Sequence
from .tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One answer to compute; several answers to one prompt are several requests.

    id: unique in the engine
    form: what the answer must look like; allowed: which tokens it may have, if it has no form
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
    form: Form | None = None
    allowed: AllowedTokens | None = None


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

    overlap: begin each step before the one before has ended; outputs are the same
    """

    def __init__(
        self, scheduler: Scheduler, runner: MaskingRunner, tokenizer: Tokenizer, *, overlap: bool = False
    ) -> None:
        self._scheduler = scheduler
        self._overlap = overlap
        self._pipeline: Pipeline | None = Pipeline(scheduler, runner, self, overlap=overlap)
        self._tokenizer = tokenizer
        self._answers: dict[int, Answer] = {}
        self._forms: dict[int, Constrained] = {}  # of those of them that have one
        self._masked: dict[int, MaskedAnswer] = {}  # of those that may not say everything
        self._masks = MaskFiller(runner.mask_bits)
        self._filling: Filling | None = None
        self._runs: dict[int, list[int]] = {}  # what was appended behind the tokens drawn last

    @property
    def has_work(self) -> bool:
        return bool(self._answers)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises what the scheduler refuses: a full queue, a prompt that can never fit."""
        sequence = Sequence(
            id=request.id,
            tokens=array("i", request.tokens),
            num_prompt=len(request.tokens),
            params=request.params if request.form is None else _bare(request.params),
            seed=request.seed,
            salt=request.salt,
            priority=request.priority,
            program=request.program,
            width=request.width,
            deadline_s=request.deadline_s,
        )
        form = None if request.form is None else Constrained(request.form, request.params)
        if form is not None:
            sequence.tokens.extend(form.start())
        answer = Answer(
            sequence, self._tokenizer, request.params, form
        )  # it refuses a stop regex that does not compile
        self._scheduler.submit(sequence)
        self._answers[request.id] = answer
        if form is not None:
            self._forms[request.id] = self._masked[request.id] = form
        elif request.allowed is not None:
            self._masked[request.id] = request.allowed

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
        self._pipeline = None
        self._masks.close()

    def step(self) -> list[Output]:
        """Compute one step. A fault of the whole step ends the requests in it, and only those."""
        assert self._pipeline is not None, "a step after release"
        outputs: list[Output] = []
        for landed in self._pipeline.turn():
            self._speak(landed, outputs)
        self._end(self._scheduler.reap(), outputs)
        if self._pipeline.in_flight and not self._answers:
            self._pipeline.land()  # all it computes is in vain; nothing shall be held while the engine sleeps
            self._end(self._scheduler.reap(), outputs)
        return outputs

    # -- forms, as the pipeline asks for them

    def foresee(self, plan: Plan) -> None:
        if not self._overlap:  # else the tokens that come before are still being drawn
            self._filling = self._masks.begin(plan, self._masked)

    def masks(self, plan: Plan) -> Masks | None:
        """The masks. Answers that cannot go on are ended, and what is drawn for them counts for nothing."""
        filling, self._filling = self._filling, None
        if filling is None and self._overlap:
            filling = self._masks.begin(plan, self._masked)
        if filling is None:
            return None
        for fault in filling.wait():
            self._give_up(fault.sequence, fault.error, "its mask was made")
        return filling.masks

    def advance(self, plan: Plan, results: list[RowResult]) -> None:
        """Take what was drawn, and append what follows by force; it is computed together with the next one drawn."""
        reached: dict[int, int] = {}  # by sequence id, the position up to which its form has taken tokens
        for row, result in zip(plan.rows, results, strict=True) if self._forms else ():
            sequence = row.sequence
            form = self._forms.get(sequence.id)
            if form is None or result.token is None or row.end < reached.get(sequence.id, 0):
                continue  # or the form has said it by itself
            said = row.end + 1
            try:
                run = form.take(result.token, sequence.params.max_tokens - (said - sequence.num_prompt))
            except Exception as error:  # whatever it is, it is the fault of this answer alone
                self._give_up(sequence, error, "its form took a token")
                result.token = result.logprob = None  # not to be told
                continue
            reached[sequence.id] = said + len(run)
            # guesses that came true may have brought some of them already
            run = run[len(sequence.tokens) - said :]
            self._scheduler.extend(sequence, run)
            self._runs[sequence.id] = run
            if form.is_over and not sequence.is_finished:
                self._scheduler.finish(sequence, "stop", form.matched)

    def _give_up(self, sequence: Sequence, error: Exception, when: str) -> None:
        if not isinstance(error, StolonError):
            logger.error("request %d failed while %s", sequence.id, when, exc_info=error)
        self._scheduler.abort(sequence, as_engine_error(error))

    # -- text

    def _speak(self, landed: Landed, outputs: list[Output]) -> None:
        """Turn what the rows drew into increments."""
        answers, confirmed = self._answers, _confirmed(landed)
        for row, result in zip(landed.plan.rows, landed.results, strict=True):
            sequence = row.sequence
            answer = answers.get(sequence.id)
            if answer is None or row.guess is not None:
                continue
            try:
                answer.keep_prompt_logprobs(result.prompt_logprobs)
                if result.token is None:
                    continue
                drawn = [result, *confirmed.get(sequence.id, ())]
                tokens = [each.token for each in drawn if each.token is not None]
                logprobs = [each.logprob for each in drawn if each.logprob is not None]
                delta = answer.push(tokens + self._runs.pop(sequence.id, []), logprobs)
            except Exception as error:
                if not isinstance(error, StolonError):
                    logger.exception("request %d failed while its text was made", sequence.id)
                self._fail(answer, as_engine_error(error), outputs)
                continue
            outputs.append(Output(sequence.id, delta))
            if delta.finish is not None:
                self._forget(sequence.id)
                if not sequence.is_finished:
                    self._scheduler.finish(sequence, delta.finish, delta.matched)

    def _forget(self, id: int) -> Answer | None:
        self._forms.pop(id, None)
        self._masked.pop(id, None)
        self._runs.pop(id, None)
        return self._answers.pop(id, None)

    def _fail(self, answer: Answer, error: StolonError, outputs: list[Output]) -> None:
        self._forget(answer.sequence.id)
        if not answer.sequence.is_finished:
            self._scheduler.abort(answer.sequence, error)
        outputs.append(Output(answer.sequence.id, error))

    def _end(self, ended: Iterable[Sequence], outputs: list[Output]) -> None:
        """Close the answers of sequences that ended without a token of their own in this step."""
        for sequence in ended:
            answer = self._forget(sequence.id)
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


def _confirmed(landed: Landed) -> dict[int, list[RowResult]]:
    """By sequence id, what was drawn behind guesses that came true."""
    found: dict[int, list[RowResult]] = {}
    for row, result in zip(landed.plan.rows, landed.results, strict=True):
        if row.guess is not None and result.token is not None:
            found.setdefault(row.sequence.id, []).append(result)
    return found


def _bare(params: SamplingParams) -> SamplingParams:
    """Of a constrained answer: where it ends is not for the scheduler and the sampler to say."""
    return replace(params, stop_token_ids=(), min_tokens=0, include_stop=False)
