"""What each step computes, and what became of it. One token budget, no phases: `computed` catches up with `tokens`.

A step takes running sequences first (one token each, if they decode), then prompts in progress, then waiting ones. When
memory runs out it evicts cached prefixes, then preempts the youngest; what that one computed stays in the tree.

Life cycle: `abort`, `finish` and deadlines only mark a sequence. It is released once, and never while a step holds it:
from `schedule` to `commit`, `fail` or `retry` a sequence is in flight.

A step may be planned before the one under way has ended. A sequence for which that one draws a token then goes on with
a row whose token is to come; if it turns out to have ended, the result of that row counts for nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..lang.errors import ContextLengthError, EngineError, InvalidRequest, OverloadedError
from ..lang.types import FinishReason
from .admission import Admission
from .config import SchedulerConfig
from .holdings import Holdings
from .invariants import check
from .metrics import Counters, SchedulerStats
from .ngram import Guesser
from .pages import PagePool
from .planner import Planner
from .roster import Roster
from .sequence import Plan, Row, RowResult, Sequence
from .throttle import Throttle, out_of_memory
from .undo import take_back
from .view import View, view_requests, view_tree


class Scheduler:
    """The planning half of the engine. One thread uses it: `schedule`, `commit` (or `fail`, or `retry`), `reap`. Up to
    two steps are in flight, and end in the order in which they were planned; with guesses, which the end of a step
    confirms, it is one.

    num_slots: KV slots that the runner has, numbered from 0; context_length: most tokens of one sequence
    clock: seconds, monotonic; deadlines and pins go by it
    guesser: says what answers may go on with, for steps that compute several tokens of each
    """

    def __init__(
        self,
        config: SchedulerConfig,
        num_slots: int,
        context_length: int,
        clock: Callable[[], float] = time.monotonic,
        eos_token_ids: frozenset[int] = frozenset(),
        guesser: Guesser | None = None,
    ) -> None:
        self.config = config
        self.context_length = context_length
        self.counters = Counters()
        self.holdings = Holdings(
            PagePool(num_slots, config.page_size),
            share=config.radix_cache,
            most_pinned=int(config.pin_share * num_slots),
            pin_seconds=config.pin_seconds,
            clock=clock,
            eviction=config.radix_eviction_policy,
        )
        self.roster = Roster(config, self.holdings, self.counters, clock)
        self._planner = Planner(config, self.roster, guesser)
        self._admission = Admission(config, self.roster, self._planner)
        self._throttle = Throttle()
        self._eos = eos_token_ids
        self._guesser = guesser
        self._in_flight: list[Plan] = []

    # -- coming and going

    def submit(self, sequence: Sequence) -> None:
        """Queue it. Raises ContextLengthError if it can never fit, OverloadedError if the queue is full."""
        self._refuse_misfit(sequence)
        self.refuse_when_full()
        self.roster.enter(sequence)

    def refuse_when_full(self) -> None:
        """Raises OverloadedError if nothing can be queued. May be called from any thread."""
        queued, most = len(self.roster.waiting), self.config.max_queued_requests
        if queued >= most:
            raise OverloadedError(f"{queued} requests wait and at most {most} may; try again later", retry_after_s=1.0)

    def _refuse_misfit(self, sequence: Sequence) -> None:
        prompt, answer = sequence.num_prompt, sequence.params.max_tokens
        if not prompt:
            raise InvalidRequest("the prompt has no tokens; give it at least one", param="prompt")
        if prompt + answer > self.context_length:
            raise ContextLengthError(
                f"the prompt has {prompt} tokens and {answer} more were asked for, but the context holds "
                f"{self.context_length}; shorten the prompt or lower max_tokens",
                param="max_tokens",
            )
        slots = self.holdings.pool.num_slots
        if max(len(sequence.tokens), prompt + min(answer, 1)) > slots:
            raise ContextLengthError(
                f"the prompt has {prompt} tokens, but the KV cache holds {slots}; shorten it or raise --kv-tokens",
                param="prompt",
            )

    def abort(self, sequence: Sequence, error: Exception | None = None) -> None:
        """End it, with `error` if there is one, else with the reason "abort". Only marks; may come at any time."""
        self.roster.mark(sequence, reason="abort" if error is None else None, error=error)

    def finish(self, sequence: Sequence, reason: FinishReason, matched: str | int | None = None) -> None:
        """End it because of what its text says. Only marks."""
        self.roster.mark(sequence, reason=reason, matched=matched)

    def extend(self, sequence: Sequence, tokens: Iterable[int]) -> None:
        """Tokens that follow its last one without being drawn; at most as many as `max_tokens` leaves.

        Call it between steps, or when one was committed. What a step in flight draws in their place counts for nothing.
        """
        if sequence.is_finished:
            return
        before = len(sequence.tokens)
        sequence.tokens.extend(tokens)
        added = len(sequence.tokens) - before
        self.counters.generated += added
        self.counters.forced += added
        if added and sequence.num_output >= sequence.params.max_tokens:
            self.finish(sequence, "length")

    def reap(self) -> list[Sequence]:
        """Release what has ended and no step holds; returns those released since the last call, each exactly once."""
        self.roster.sweep()
        if self.config.check:
            self.check()
        return self.roster.drain()

    def end_program(self, program: int) -> None:
        """The program asks no more; its prefixes are now as good as any other."""
        self.holdings.end(program)

    def flush(self) -> bool:
        """Forget all cached prefixes; False, and nothing done, while sequences run."""
        self.roster.sweep()
        if self.roster.running:
            return False
        self.holdings.flush()
        return True

    @property
    def has_work(self) -> bool:
        """Something waits, runs, or has ended and was not reaped."""
        return not self.roster.is_empty

    # -- planning

    def schedule(self) -> Plan | None:
        """The next step, or None if there is nothing to compute now."""
        assert len(self._in_flight) < (2 if self._guesser is None else 1), "steps are under way already"
        self.holdings.expire_pins()
        self.roster.expire()
        self.roster.sweep()
        resting = self._admission.make_way()
        plan = Plan([], step=self.counters.steps + 1)
        budget = self._planner.plan_running(plan, self._throttle.limit(self.config.step_tokens), resting)
        if budget > 0 and len(self.roster.waiting):
            self._admission.plan_waiting(plan, budget)
        if plan.rows:
            self.counters.steps += 1
            self.counters.computed += plan.num_tokens
            self._in_flight.append(plan)
        if self.config.check:
            self.check(plan)
        return plan if plan.rows else None

    # -- results

    def commit(self, plan: Plan, results: list[RowResult]) -> list[Sequence]:
        """Take over what a step gave. Results that do not count any more are emptied in place.

        returns: sequences that got a token or have ended
        """
        self._end(plan)
        self._throttle.recover()
        faults: list[Row] = []
        for row, result in zip(plan.rows, results, strict=True):
            if result.error is not None and row.guess is None and not row.void:
                faults.append(row)
                self.abort(row.sequence, result.error)
        if faults:
            self._undo(plan, faults, spoilt=True)
        advanced: dict[Sequence, None] = {}
        for row, result in zip(plan.rows, results, strict=True):
            sequence = row.sequence
            refuted = row.guess is not None and not self._confirm(row, result)
            if sequence.is_finished or row.void or refuted:
                result.token, result.logprob, result.prompt_logprobs = None, None, []
            else:
                self._take(row, result)
            if sequence.is_finished or result.token is not None:
                advanced[sequence] = None
        return list(advanced)

    def _confirm(self, row: Row, result: RowResult) -> bool:
        """Whether the row's guess came true; if not, what it wrote counts for nothing. A fault of the row does not
        count either: it may be the guess's, and if not, the next step will have it again."""
        sequence, start = row.sequence, row.start
        if result.error is None and start < len(sequence.tokens) and sequence.tokens[start] == row.guess:
            sequence.trust = min(sequence.trust + 1, self.config.speculative_num_draft_tokens)
            self.counters.confirmed += 1
            return True
        sequence.trust = max(sequence.trust - 1, 1)
        sequence.computed = min(sequence.computed, start)
        return False

    def _end(self, plan: Plan) -> None:
        """The step is over and holds nothing any more."""
        assert self._in_flight.pop(0) is plan, "steps end in the order in which they were planned"
        self.holdings.pool.end(plan.step)
        for row in plan.rows:
            row.sequence.in_flight -= 1

    def _take(self, row: Row, result: RowResult) -> None:
        sequence = row.sequence
        if result.prompt_logprobs or sequence.scored < sequence.num_prompt:
            _trim(row, result)
        if row.samples:
            if row.end < len(sequence.tokens):  # `extend` has told since what comes there
                result.token = result.logprob = None
            elif result.token is None:
                self.abort(sequence, EngineError("the runner drew no token for a row that samples"))
            else:
                self._append(sequence, result.token)
        elif row.end == len(sequence.tokens):  # max_tokens is 0
            self.finish(sequence, "length")

    def _append(self, sequence: Sequence, token: int) -> None:
        sequence.tokens.append(token)
        self.counters.generated += 1
        params, output = sequence.params, sequence.num_output
        ends = token in params.stop_token_ids or (token in self._eos and not params.ignore_eos)
        if ends and output > params.min_tokens:
            self.finish(sequence, "stop", token)
        elif output >= params.max_tokens or len(sequence.tokens) >= self.context_length:
            self.finish(sequence, "length")

    # -- faults

    def fail(self, plan: Plan, error: Exception) -> list[Sequence]:
        """The whole step raised: its sequences end with `error`, and what it was writing leaves the tree."""
        self._end(plan)
        rows = [row for row in plan.rows if not row.void]
        for row in rows:
            self.abort(row.sequence, error)
        self._undo(plan, rows, spoilt=True)
        return [row.sequence for row in rows]

    def retry(self, plan: Plan, reason: str) -> None:
        """The step did not fit into the device's memory: take it back, and make the next ones smaller.

        A step of one token that does not fit ends its sequence with an error.
        """
        self._end(plan)
        rows = [row for row in plan.rows if not row.void]
        self._undo(plan, rows, spoilt=False)
        if not self._throttle.halve(plan.num_tokens):
            for row in rows:
                self.abort(row.sequence, out_of_memory(reason))

    def _undo(self, plan: Plan, rows: list[Row], *, spoilt: bool) -> None:
        take_back(self._planner, plan, rows, self._in_flight, spoilt=spoilt)

    # -- looking

    def stats(self) -> SchedulerStats:
        pool, tree = self.holdings.pool, self.holdings.tree
        return SchedulerStats(
            running=len(self.roster.running),
            waiting=len(self.roster.waiting),
            total=pool.num_slots,
            free=pool.free,
            cached=tree.cached,
            pinned=tree.pinned,
            evictable=tree.evictable,
            evicted=self.holdings.evicted,
            counters=replace(self.counters),
        )

    def view(self, nodes: int, requests: int, first: int = 0) -> View:
        """At most so many nodes and requests, running ones before waiting ones; of each node the `first` token ids."""
        everyone = itertools.chain(self.roster.running, self.roster.waiting)
        return View(view_tree(self.holdings.tree, nodes, first), view_requests(everyone, requests))

    def check(self, plan: Plan | None = None) -> None:
        """Raise InvariantError if the books are wrong or `plan` does not agree with them. Looks at everything: slow."""
        check(self.config, self.roster, plan, self._in_flight)


def _trim(row: Row, result: RowResult) -> None:
    """Leave the log-probabilities of prompt positions that were asked for and not delivered before."""
    sequence = row.sequence
    end = min(row.end + 1, sequence.num_prompt)  # the last entry is of the position before this
    if result.prompt_logprobs:
        wanted = max(end - max(sequence.params.logprob_start, sequence.scored, 1), 0)
        result.prompt_logprobs = result.prompt_logprobs[max(len(result.prompt_logprobs) - wanted, 0) :]
    sequence.scored = max(sequence.scored, end)
