"""What the next step computes. One token budget, no phases: every sequence has `computed` catch up with its tokens.

A step takes running sequences first (one token each, if they decode), then prompts in progress, then waiting ones. When
memory runs out it evicts cached prefixes, then preempts the youngest; what that one computed stays in the tree.

Life cycle: `abort`, `finish` and deadlines only mark a sequence. `_sweep` alone releases, once, and never what a step
holds: from `schedule` to `commit` or `fail` a sequence is in flight.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable

from ..lang.errors import BackendTimeout, ContextLengthError, EngineError, InvalidRequest, OverloadedError
from ..lang.types import FinishReason
from .config import SchedulerConfig
from .holdings import Holdings
from .metrics import Counters, SchedulerStats
from .pages import PagePool
from .radix import RadixNode
from .sequence import Plan, Row, RowResult, Sequence, Status
from .waiting import Candidate, WaitingQueue

MOST_MISFITS = 16  # waiting sequences that are tried in one step after one did not fit


class Scheduler:
    """The planning half of the engine; one thread uses it.

    num_slots: KV slots that the runner has; context_length: most tokens of one sequence
    clock: seconds, monotonic; deadlines and pins go by it
    """

    def __init__(
        self,
        config: SchedulerConfig,
        num_slots: int,
        context_length: int,
        clock: Callable[[], float] = time.monotonic,
        eos_token_ids: frozenset[int] = frozenset(),
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
        )
        self.waiting = WaitingQueue(self.holdings, config.schedule_policy, config.max_overtakes)
        self.running: list[Sequence] = []  # in order of admission
        self._clock = clock
        self._eos = eos_token_ids
        self._marked: list[Sequence] = []  # finished, not yet released
        self._ended: list[Sequence] = []  # released, not yet told
        self._deadlines: list[tuple[float, int, list[Sequence]]] = []
        self._deadline_of: dict[Sequence, list[Sequence]] = {}
        self._step = 0
        self._turn = 0
        self._stuck: tuple[int, ...] = ()

    # -- coming and going

    def submit(self, sequence: Sequence) -> None:
        """Queue it. Raises ContextLengthError if it can never fit and OverloadedError if the queue is full."""
        self._refuse_misfits(sequence)
        if len(self.waiting) >= self.config.max_queued_requests:
            raise OverloadedError(
                f"{len(self.waiting)} requests wait already, which is the most that this server queues; try again later",
                retry_after_s=1.0,
            )
        self.counters.submitted += 1
        sequence.arrival = self.counters.submitted
        self.waiting.add(sequence)
        if sequence.deadline_s is not None:
            holder = [sequence]
            self._deadline_of[sequence] = holder
            heapq.heappush(self._deadlines, (sequence.deadline_s, sequence.arrival, holder))

    def _refuse_misfits(self, sequence: Sequence) -> None:
        prompt, answer = len(sequence.tokens), sequence.params.max_tokens
        if not prompt:
            raise InvalidRequest("the prompt has no tokens; give it at least one", param="prompt")
        if prompt + answer > self.context_length:
            raise ContextLengthError(
                f"the prompt has {prompt} tokens and {answer} more were asked for, but the context holds "
                f"{self.context_length}; shorten the prompt or lower max_tokens",
                param="max_tokens",
            )
        room = self.holdings.pool.num_slots
        if prompt + min(answer, 1) > room:
            raise ContextLengthError(
                f"the prompt has {prompt} tokens, but the KV cache holds {room}; shorten the prompt or raise --kv-tokens",
                param="prompt",
            )

    def abort(self, sequence: Sequence, error: Exception | None = None) -> None:
        """End it, with `error` if there is one, else with the finish reason "abort". Only marks; may come at any time."""
        self._mark(sequence, "abort" if error is None else None, None, error)

    def finish(self, sequence: Sequence, reason: FinishReason, matched: str | int | None = None) -> None:
        """End it because of what its text says. Only marks."""
        self._mark(sequence, reason, matched, None)

    def _mark(
        self, sequence: Sequence, reason: FinishReason | None, matched: str | int | None, error: Exception | None
    ) -> None:
        if not sequence.is_finished:
            sequence.finish, sequence.matched, sequence.error = reason, matched, error
            self._marked.append(sequence)

    def reap(self) -> list[Sequence]:
        """Release what has ended and no step holds; returns those released since the last call, each exactly once."""
        self._sweep()
        ended, self._ended = self._ended, []
        return ended

    def _sweep(self) -> None:
        if not self._marked:
            return
        kept: list[Sequence] = []
        for sequence in self._marked:
            if sequence.in_flight:
                kept.append(sequence)
            else:
                self._release(sequence)
        self._marked = kept

    def _release(self, sequence: Sequence) -> None:
        if sequence.status is Status.RUNNING:
            self.running.remove(sequence)
            self._settle(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        assert sequence.status is not Status.FINISHED, "a sequence was released twice"
        sequence.status = Status.FINISHED
        self._ended.append(sequence)
        self.counters.finished += 1
        self.counters.failed += sequence.error is not None
        holder = self._deadline_of.pop(sequence, None)
        if holder:
            holder.clear()

    def _settle(self, sequence: Sequence) -> None:
        pinned = sequence.program and sequence.error is None and sequence.finish != "abort"
        node = self.holdings.settle(sequence)
        if pinned and node is not None:
            self.holdings.pin(sequence.program, node, sequence.width)

    def end_program(self, program: int) -> None:
        """The program will ask no more; its prefixes are as good as any other."""
        self.holdings.unpin(program)

    def flush(self) -> bool:
        """Forget all cached prefixes; False (and nothing done) while sequences run."""
        self._sweep()
        if self.running:
            return False
        self.holdings.flush()
        return True

    @property
    def has_work(self) -> bool:
        return bool(self.running or len(self.waiting) or self._marked or self._ended)

    # -- planning

    def schedule(self) -> Plan | None:
        """The next step, or None if there is nothing to compute now."""
        self._expire()
        self._sweep()
        plan = Plan([], step=self._step + 1)
        ready = [s for s in self.running if not s.is_finished and not s.in_flight]
        budget = self._plan_running(plan, ready, self.config.token_budget)
        if budget > 0 and len(self.waiting):
            self._plan_waiting(plan, budget)
        if not plan.rows:
            return None
        self._step += 1
        self.counters.steps += 1
        self.counters.computed += plan.num_tokens
        return plan

    def _expire(self) -> None:
        self.holdings.expire_pins()
        if not self._deadlines:
            return
        now = self._clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            for sequence in heapq.heappop(self._deadlines)[2]:
                self.abort(sequence, BackendTimeout("the request's deadline passed before its answer was whole"))

    def _plan_running(self, plan: Plan, ready: list[Sequence], budget: int) -> int:
        """Rows for sequences that run already; returns what is left of the budget."""
        decoding: list[Sequence] = []
        chunks: list[Sequence] = []
        for sequence in ready:
            (decoding if is_decoding(sequence) else chunks).append(sequence)
        if len(decoding) + bool(chunks) > budget:
            decoding = self._take_turns(decoding, budget - bool(chunks))
        decoding = self._make_room(decoding)
        for sequence in decoding:
            if sequence.computed == sequence.allocated:
                self.holdings.grow_page(sequence)
            plan.rows.append(Row(sequence, sequence.computed, 1, True))
            sequence.computed += 1
            sequence.in_flight += 1
        budget -= len(decoding)
        for sequence in chunks:
            if budget <= 0:
                break
            if sequence.status is Status.RUNNING and not sequence.is_finished:
                budget -= self._plan_chunk(plan, sequence, budget)
        return budget

    def _take_turns(self, decoding: list[Sequence], places: int) -> list[Sequence]:
        first = self._turn % len(decoding)
        self._turn += places
        return (decoding[first:] + decoding[:first])[:places]

    def _make_room(self, decoding: list[Sequence]) -> list[Sequence]:
        """Those of `decoding` that can have their next slot, after preempting others if it must be."""
        size = self.config.page_size
        while decoding:
            need = sum(s.computed == s.allocated for s in decoding) * size
            if need == 0 or self.holdings.reserve(need):
                break
            victim = self._youngest()
            if victim is None:
                self._give_up(decoding.pop())
            else:
                self._preempt(victim)
                decoding = [s for s in decoding if s is not victim]
        return decoding

    def _youngest(self) -> Sequence | None:
        """Whom to preempt: lowest priority, then latest arrival; never the first of all, nor what is in flight."""
        alive = [s for s in self.running if not s.is_finished]
        first = min(alive, key=_seniority, default=None)
        return max((s for s in alive if s is not first and not s.in_flight), key=_seniority, default=None)

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the queue. What it computed stays in the tree, its tail the first to go."""
        self.running.remove(sequence)
        self.holdings.settle(sequence)
        sequence.status = Status.WAITING
        sequence.preemptions += 1
        self.counters.preemptions += 1
        self.waiting.add(sequence)

    def _give_up(self, sequence: Sequence) -> None:
        self.abort(
            sequence,
            EngineError(
                f"the KV cache of {self.holdings.pool.num_slots} tokens is full and no other request can yield: "
                f"{len(sequence.tokens)} tokens do not fit; lower max_tokens or raise --kv-tokens",
                code="kv_cache_full",
            ),
        )

    def _plan_chunk(self, plan: Plan, sequence: Sequence, budget: int) -> int:
        """A row for the next tokens of a prompt in progress; returns how many."""
        holdings = self.holdings
        gain = holdings.adopt(sequence)
        if gain and not sequence.preemptions:
            self._count_cached(sequence, gain)
        start = sequence.computed
        length = min(len(sequence.tokens) - start, budget)
        length = self._fit(sequence, length, bool(plan.rows))
        if length <= 0:
            return 0
        end = start + length
        holdings.grow(sequence, end)
        sequence.computed = end
        if start < sequence.num_prompt or sequence.preemptions:
            holdings.publish(sequence, plan.step)
        sequence.in_flight += 1
        plan.rows.append(Row(sequence, start, length, self._draws(sequence, end)))
        return length

    @staticmethod
    def _draws(sequence: Sequence, end: int) -> bool:
        return end == len(sequence.tokens) and sequence.params.max_tokens > 0

    def _fit(self, sequence: Sequence, length: int, others: bool) -> int:
        """As much of `length` as memory allows, preempting whoever is younger."""
        holdings = self.holdings
        while True:
            short = holdings.round_up(max(sequence.computed + length - sequence.allocated, 0))
            if holdings.reserve(short):
                return length
            room = sequence.allocated + holdings.pool.free - sequence.computed
            if room > 0:
                return min(length, room)
            victim = self._youngest()
            if victim is not None and _seniority(victim) > _seniority(sequence):
                self._preempt(victim)
            elif victim is None and not others and len(self.running) == 1:
                self._give_up(sequence)
                return 0
            else:
                return 0

    # -- admission

    def _plan_waiting(self, plan: Plan, budget: int) -> None:
        state = self._admission_state()
        if state == self._stuck:
            return
        leaders = self._leaders()
        admission = self.waiting.admission()
        admitted: list[int] = []
        spared: set[Sequence] = set()
        misfits = 0
        for candidate in admission:
            if budget <= 0 or misfits >= MOST_MISFITS:
                break
            if self._is_led(candidate, leaders):
                spared.add(candidate.sequence)
                continue
            if not self._fits(candidate):
                misfits += 1
                if self.waiting.is_aged(candidate.sequence):
                    break
                continue
            before = candidate.node, candidate.length
            budget -= self._admit(plan, candidate, budget)
            admitted.append(candidate.sequence.arrival)
            self._lead(candidate.sequence, leaders)
            admission.admitted(candidate, *before)
        if admitted:
            self.waiting.count_overtakes(admitted, spared)
        self._stuck = () if admitted else state

    def _admission_state(self) -> tuple[int, ...]:
        """While this stays the same, those that could not be admitted still cannot."""
        holdings = self.holdings
        return (
            holdings.tree.epoch,
            holdings.tree.evictable,
            holdings.pool.free,
            len(self.running),
            len(self.waiting),
            self.counters.submitted,
        )

    def _leaders(self) -> dict[RadixNode, list[Sequence]]:
        leaders: dict[RadixNode, list[Sequence]] = {}
        for sequence in self.running:
            self._lead(sequence, leaders)
        return leaders

    def _lead(self, sequence: Sequence, leaders: dict[RadixNode, list[Sequence]]) -> None:
        """Note it, if its next tokens will enter the tree in a later step."""
        node = sequence.node
        if (
            node is None
            or sequence.is_finished
            or len(sequence.tokens) - sequence.computed < 1
            or is_decoding(sequence)
        ):
            return
        if self.holdings.share and self.holdings.is_contiguous(sequence):
            leaders.setdefault(node, []).append(sequence)

    def _is_led(self, candidate: Candidate, leaders: dict[RadixNode, list[Sequence]]) -> bool:
        """Whether a running sequence is about to compute what this one needs next: then it waits for that."""
        node, length = candidate.node, candidate.length
        followed = leaders.get(node) if node is not None else None
        if not followed or node is None or node.end != length:
            return False
        sequence = candidate.sequence
        end = length + self.config.page_size
        if self.holdings.limit(sequence) < end:
            return False
        page = sequence.tokens[length:end]
        return any(
            not s.is_finished and s.salt == sequence.salt and len(s.tokens) >= end and s.tokens[length:end] == page
            for s in followed
        )

    def _fits(self, candidate: Candidate) -> bool:
        """Whether there is room for it, after preempting what has a lower priority if it must be."""
        while not self._has_room(candidate):
            victim = self._youngest()
            if victim is None or victim.priority >= candidate.sequence.priority or self.waiting.is_aged(victim):
                return False
            self._preempt(victim)
            self.waiting.look_up(candidate)
        return True

    def _has_room(self, candidate: Candidate) -> bool:
        running, holdings = self.running, self.holdings
        if len(running) >= self.config.max_running_requests:
            return False
        if not running:
            return True  # `submit` saw to it that it fits alone
        assert candidate.node is not None
        need = holdings.round_up(len(candidate.sequence.tokens) - candidate.length)
        promised = sum(max(len(s.tokens) - s.allocated, 0) for s in running)
        spare = max(len(running) * self.config.page_size, holdings.pool.num_slots // 100)
        room = holdings.available - holdings.tree.unlocked(candidate.node, candidate.length)
        return need + promised + spare <= room

    def _admit(self, plan: Plan, candidate: Candidate, budget: int) -> int:
        sequence = candidate.sequence
        assert candidate.node is not None
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.status = Status.RUNNING
        self.holdings.admit(sequence, candidate.node, candidate.length)
        if sequence.cached is None:
            sequence.cached = 0
            self.counters.prompt += sequence.num_prompt
            self._count_cached(sequence, candidate.length)
        return self._plan_chunk(plan, sequence, budget)

    def _count_cached(self, sequence: Sequence, tokens: int) -> None:
        sequence.cached = (sequence.cached or 0) + tokens
        self.counters.cached += tokens

    # -- results

    def commit(self, plan: Plan, results: list[RowResult]) -> list[Sequence]:
        """Take over what a step gave. Results that no longer count are emptied in place.

        returns: sequences that got a token or have ended
        """
        rows = plan.rows
        for row in rows:
            row.sequence.in_flight -= 1
        void: set[Sequence] = set()
        faults = [(row, r.error) for row, r in zip(rows, results, strict=True) if r.error is not None]
        if faults:
            void = self._undo([row for row, _ in faults], plan.step)
            for row, error in faults:
                self.abort(row.sequence, error)
        advanced: list[Sequence] = []
        for row, result in zip(rows, results, strict=True):
            sequence = row.sequence
            if sequence.error is not None or sequence.finish is not None or sequence in void:
                result.token, result.logprob, result.prompt_logprobs = None, None, []
                if sequence.is_finished:
                    advanced.append(sequence)
                continue
            if sequence.scored < sequence.num_prompt:
                self._trim(row, result)
            if self._take(row, result):
                advanced.append(sequence)
        return advanced

    @staticmethod
    def _trim(row: Row, result: RowResult) -> None:
        """Leave the log-probabilities of prompt positions that were asked for and not delivered before."""
        sequence = row.sequence
        end = min(row.start + row.length + 1, sequence.num_prompt)  # entries are of positions below this
        if result.prompt_logprobs:
            wanted = end - max(sequence.params.logprob_start, sequence.scored, 1)
            given = len(result.prompt_logprobs)
            result.prompt_logprobs = result.prompt_logprobs[max(given - wanted, 0) :]
        sequence.scored = max(sequence.scored, end)

    def _take(self, row: Row, result: RowResult) -> bool:
        sequence = row.sequence
        if not row.samples:
            if sequence.computed == len(sequence.tokens):  # max_tokens is 0
                self.finish(sequence, "length")
            return sequence.is_finished
        token = result.token
        if token is None:
            self.abort(sequence, EngineError("the runner drew no token for a row that samples"))
            return True
        sequence.tokens.append(token)
        self.counters.generated += 1
        params, output = sequence.params, len(sequence.tokens) - sequence.num_prompt
        if output > params.min_tokens and (
            (token in self._eos and not params.ignore_eos) or token in params.stop_token_ids
        ):
            self.finish(sequence, "stop", token)
        elif output >= params.max_tokens or len(sequence.tokens) >= self.context_length:
            self.finish(sequence, "length")
        return True

    def fail(self, plan: Plan, error: Exception) -> list[Sequence]:
        """The whole step raised: its sequences end with `error`, and what it was writing leaves the tree."""
        for row in plan.rows:
            row.sequence.in_flight -= 1
        self._undo(plan.rows, plan.step)
        for row in plan.rows:
            self.abort(row.sequence, error)
        return [row.sequence for row in plan.rows]

    def _undo(self, rows: list[Row], step: int) -> set[Sequence]:
        """Forget what these rows wrote in `step`, and what their sequences wrote before that nobody else holds.

        Whoever shares a forgotten node goes back to what stands before it and computes from there by itself.
        returns: those sequences; their results of this step count for nothing
        """
        bad: list[RadixNode] = []
        for row in rows:
            sequence = row.sequence
            for node in sequence.node.path() if sequence.node else ():
                if node.step == step or (node.writer == sequence.id and node.locks == 1):
                    bad.append(node)
        suspects = set(bad)
        void: set[Sequence] = set()
        for sequence in self.running:
            top = None
            for node in sequence.node.path() if sequence.node else ():
                top = node if node in suspects else top
            if top is not None and top.parent is not None:
                self.holdings.rewind(sequence, top.parent)
                void.add(sequence)
        for node in bad:
            self.holdings.drop(node)
        for row in rows:
            row.sequence.computed = min(row.sequence.computed, row.start)
        return void

    # -- looking

    def stats(self) -> SchedulerStats:
        pool, tree = self.holdings.pool, self.holdings.tree
        return SchedulerStats(
            running=len(self.running),
            waiting=len(self.waiting),
            total=pool.num_slots,
            free=pool.free,
            cached=tree.cached,
            pinned=tree.pinned,
            evictable=tree.evictable,
            evicted=self.holdings.evicted,
            counters=self.counters,
        )


def is_decoding(sequence: Sequence) -> bool:
    """Its prompt is computed, and one token is not."""
    return len(sequence.tokens) - sequence.computed == 1 and sequence.computed >= sequence.num_prompt


def _seniority(sequence: Sequence) -> tuple[int, int]:
    """Smallest is the last to be preempted."""
    return -sequence.priority, sequence.arrival
