"""A random life of the engine: everything random comes from one integer."""

from __future__ import annotations

import random
import sys
from array import array
from dataclasses import replace
from typing import Any

from stolon.lang.errors import ContextLengthError, EngineError, OverloadedError
from stolon.lang.types import SamplingParams
from stolon.runtime.config import SchedulerConfig
from stolon.runtime.pipeline import Pipeline
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import Plan, RowResult, Sequence, Status

from .asker import Asker
from .client import Client, Rule, Rules, Seer
from .model import EOS, FakeModel, Faults, chain, generate, logprob


class SimulationError(AssertionError):
    """The engine did something that its callers could see is wrong."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def random_config(rng: random.Random, *, guesses: bool) -> SchedulerConfig:
    return SchedulerConfig(
        token_budget=rng.choice([1, 2, 5, 7, 16, 64]),
        max_running_requests=rng.choice([1, 2, 4, 8]),
        max_queued_requests=rng.choice([3, 12, 30]),
        page_size=rng.choice([1, 1, 1, 2, 4, 16]),
        schedule_policy=rng.choice(["lpm", "lpm", "dfs-weight", "fcfs"]),
        max_overtakes=rng.choice([1, 3, 64]),
        radix_cache=rng.random() < 0.9,
        radix_eviction_policy=rng.choice(["lru", "lru", "lfu", "priority"]),
        pin_share=rng.choice([0.0, 0.3, 0.7]),
        pin_seconds=rng.choice([0.5, 20.0]),
        speculative_algorithm="ngram" if guesses else "none",
        speculative_num_draft_tokens=rng.choice([1, 3, 8]),
        speculative_rows=rng.choice([2, 5, 16]),
        check=True,
    )


class World:
    """An engine on a fake model, its clients, and everything that can happen to them.

    calm: nothing is injected; what is left are submissions and aborts
    overlap: by default the seed decides, also whether there are guesses; both together is not possible
    """

    def __init__(self, seed: int, *, calm: bool = False, overlap: bool | None = None) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        overlap = seed % 2 == 0 if overlap is None else overlap
        guesses = not overlap and seed % 4 == 1
        config = random_config(self.rng, guesses=guesses)
        slots = config.page_size * self.rng.choice([8, 16, 40, 120])
        self.slots = max(slots, 24)
        self.context_length = self.rng.choice([20, 48, 1000])
        self.clients: dict[int, Client] = {}
        seer = Seer(self.rng, self.clients, self.context_length) if guesses else None
        self.scheduler = Scheduler(config, self.slots, self.context_length, self.clock, frozenset({EOS}), seer)
        self.model = FakeModel(self.slots, all_logprobs=self.rng.random() < 0.5)
        self.model.meanwhile, self.model.told = self._meanwhile, self._excuse
        self.calm = calm
        self.asker = Asker(self.rng)
        self.pipeline = Pipeline(self.scheduler, self.model, Rules(self.scheduler, self.clients), overlap=overlap)
        self.steps = 0
        self.ends = 0
        self._ids = 0
        self._refusals = 0
        self._refused = False
        self._load = self.rng.choice([0.05, 0.2, 0.5])
        self._trouble = self.rng.choice([0.0, 0.02, 0.1])
        self._reserve = self.scheduler.holdings.reserve
        self.scheduler.holdings.reserve = self._flaky_reserve
        self._commit, self._fail, self._schedule = self.scheduler.commit, self.scheduler.fail, self.scheduler.schedule
        self.scheduler.commit, self.scheduler.fail = self._watched_commit, self._watched_fail
        self.scheduler.schedule = self._watched_schedule
        self._planned = False

    # -- what callers do

    def submit(
        self, prompt: list[int], params: SamplingParams, rule: tuple[Rule, bool] = (Rule(0), False), **options: Any
    ) -> Client | None:
        self._ids += 1
        sequence = Sequence(
            id=self._ids, tokens=array("i", prompt), num_prompt=len(prompt), params=params, **{"seed": 0, **options}
        )
        try:
            self.scheduler.submit(sequence)
        except OverloadedError:
            self._expect(
                len(self.scheduler.roster.waiting) >= self.scheduler.config.max_queued_requests, "refused early"
            )
            return None
        except ContextLengthError:
            room = min(self.context_length, self.scheduler.holdings.pool.num_slots)
            self._expect(len(prompt) + max(params.max_tokens, 1) > room, "refused what would fit")
            return None
        client = self.clients[sequence.id] = Client(sequence, prompt, *rule)
        self.asker.remember(prompt, sequence.salt)
        return client

    def submit_randomly(self) -> None:
        rng = self.rng
        prompt, salt = self.asker.prompt()
        kind = rng.random()
        options: dict[str, Any] = {"salt": salt, "priority": rng.choice([0, 0, 0, 0, 1, -1])}
        if rng.random() < 0.3:
            options |= {"program": rng.randrange(1, 4), "width": rng.choice([1, 2, 3])}
        if rng.random() < 0.05:
            options["deadline_s"] = self.clock.now + rng.choice([0.0, 1.0, 10.0])
        if kind < 0.15:
            self._submit_scores(prompt, options)
        elif kind < 0.35:
            params, rule = self.asker.params(), self.asker.rule()
            for seed in range(rng.randrange(2, 5)):
                self.submit(prompt, params, rule, **options, seed=seed)
        elif kind < 0.4:
            self.submit(prompt, SamplingParams(max_tokens=0), **options)
        else:
            self.submit(prompt, self.asker.params(), self.asker.rule(), **options, seed=rng.randrange(3))

    def _submit_scores(self, prompt: list[int], options: dict[str, Any]) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            option = self.asker.tokens(self.rng.randrange(1, 4))
            params = SamplingParams(max_tokens=0, prompt_logprobs=0, logprob_start=len(prompt))
            self.submit(prompt + option, params, **options)

    def abort(self, client: Client, error: Exception | None = None) -> None:
        client.disturbed = True
        if client.marked_at is None:
            client.marked_at = self.steps
        self.scheduler.abort(client.sequence, error)

    # -- what happens to the engine

    def _flaky_reserve(self, tokens: int) -> bool:
        if self._refusals and tokens > 0:
            self._refusals -= 1
            self._refused = True
            for client in self.clients.values():  # the engine may give up on anyone now
                client.disturbed = True
            return False
        return self._reserve(tokens)

    def change_budget(self, tokens: int) -> None:
        self.scheduler.config = replace(self.scheduler.config, token_budget=tokens)

    def refuse_memory(self, times: int) -> None:
        """The next so many times that memory is asked for there is none."""
        self._refusals = times

    def trouble(self) -> None:
        """One random fault."""
        rng, roster, holdings = self.rng, self.scheduler.roster, self.scheduler.holdings
        match rng.randrange(10):
            case 0:
                self._reserve(holdings.round_up(holdings.pool.free + rng.randrange(1, 30)))
            case 1 | 2:
                victims = [s for s in roster.running if not s.is_finished and not s.in_flight]
                if victims:
                    roster.preempt(rng.choice(victims))
            case 3:
                self.refuse_memory(rng.randrange(1, 4))
            case 4:
                self.model.faults.step = True
            case 5:
                self.model.faults.rows = {rng.randrange(4) for _ in range(rng.randrange(1, 3))}
            case 6:
                self.model.faults.memory = rng.choice(["launch", "sample", "results"])
            case 7:
                self.model.most_tokens = rng.choice([0, 1, 3, 10, 1 << 30, 1 << 30])
            case 8:
                running = bool(roster.running)
                if self.scheduler.flush():
                    self._expect(holdings.tree.cached == 0 and not running, "a flush left something")
            case _:
                self.scheduler.end_program(rng.randrange(1, 4))

    # -- running

    def run(self, steps: int) -> None:
        """`steps` steps with things happening between and within them, then on until nothing is left to do."""
        rng = self.rng
        for _ in range(steps):
            if rng.random() < self._load:
                self.submit_randomly()
            if rng.random() < 0.03:
                self.change_budget(rng.choice([1, 2, 3, 5, 16, 64]))
            if not self.calm and rng.random() < self._trouble:
                self.trouble()
            self._abort_someone()
            self.step()
        self.drain()

    def _abort_someone(self) -> None:
        if self.clients and self.rng.random() < 0.03:
            client = self.rng.choice(list(self.clients.values()))
            self.abort(client, EngineError("gone") if self.rng.random() < 0.3 else None)

    def step(self) -> bool:
        """One turn of the engine's loop, with every check there is; False if there was nothing to compute."""
        self.clock.now += self.rng.random() * 0.2
        scheduler = self.scheduler
        self.steps += 1
        self._refused = self._planned = False
        flew = self.pipeline.in_flight
        self.pipeline.turn()  # what it returns refers to sequences, and `_end` counts who does
        if not self.calm:
            self._stop_someone()
        ended = scheduler.reap()
        busy = flew or self._planned or ended or self._refused or not scheduler.has_work
        self._expect(bool(busy), "there is work, but no plan")
        for sequence in ended:
            self._end(sequence)
        return self._planned

    def _stop_someone(self) -> None:
        if self.clients and self.rng.random() < 0.02:
            client = self.rng.choice(list(self.clients.values()))
            if client.answer:
                self.cut(client)

    def cut(self, client: Client) -> None:
        """The text of an answer says that it has ended."""
        if not client.sequence.is_finished:
            client.is_cut = True
            self.scheduler.finish(client.sequence, "stop", "###")

    def _meanwhile(self) -> None:
        if not self.calm:
            self._abort_someone()

    def _excuse(self, plan: Plan, faults: Faults) -> None:
        for index in faults.of(plan):
            self.clients[plan.rows[index].sequence.id].disturbed = True

    def _watched_schedule(self) -> Plan | None:
        plan = self._schedule()
        self._planned = plan is not None
        self._check_in_flight(plan)
        return plan

    def _check_in_flight(self, plan: Plan | None) -> None:
        """What a step uses that is under way is not free, and nobody else is about to write it."""
        pool = self.scheduler.holdings.pool
        for work in (work for step in self.model.in_flight for work in step.work):
            sequence = work.row.sequence
            if pool.is_free(work.used):
                raise SimulationError(f"slots of sequence {sequence.id} are free, and a step uses them")
            for row in plan.rows if plan else ():
                written = row.sequence.slots[row.start : row.end].tolist()
                if row.sequence is not sequence and not set(written).isdisjoint(work.slots):
                    raise SimulationError(f"a row writes what sequence {sequence.id} uses")

    def _watched_commit(self, plan: Plan, results: list[RowResult]) -> list[Sequence]:
        self._check_in_flight(None)
        before = {row.sequence: len(row.sequence.tokens) for row in plan.rows}
        advanced = self._commit(plan, results)
        drawn: dict[Sequence, list[int]] = {sequence: [] for sequence in before}
        for row, result in zip(plan.rows, results, strict=True):
            drawn[row.sequence] += [] if result.token is None else [result.token]
            self.clients[row.sequence.id].logprobs += result.prompt_logprobs
        for sequence, length in before.items():
            fresh = sequence.tokens[length:].tolist()
            self._expect(fresh == drawn[sequence], "results and tokens differ")
            told = bool(fresh) or sequence.is_finished
            self._expect(told == (sequence in advanced), "commit hides who advanced")
            self.clients[sequence.id].answer += fresh
        return advanced

    def _watched_fail(self, plan: Plan, error: Exception) -> list[Sequence]:
        failed = self._fail(plan, error)
        self._expect(all(s.is_finished for s in failed), "a failed step left sequences alive")
        return failed

    def drain(self) -> None:
        """On to the end: everybody gets an answer, and nothing is left over."""
        limit = 2000 + 200 * len(self.clients)
        self.model.most_tokens = 1 << 30
        while self.scheduler.has_work:
            self.step()
            limit -= 1
            self._expect(limit > 0, "the engine does not come to an end")
        self._expect(not self.clients, "somebody never heard of the end")
        stats = self.scheduler.stats()
        self._expect(stats.running == stats.waiting == 0, "idle, but not empty")
        self.clock.now += 10_000
        self._expect(self.scheduler.schedule() is None, "an idle engine plans a step")
        stats = self.scheduler.stats()
        self._expect(stats.pinned == 0 and stats.evictable == stats.cached, "idle, but something is held")
        self._expect(stats.free + stats.cached == stats.total, "idle, but slots are missing")
        counters = stats.counters
        self._expect(counters.submitted == counters.finished == self.ends, "sequences were lost or ended twice")
        self._expect(counters.cached <= counters.prompt, "more was cached than asked")

    def _expect(self, claim: bool, message: str) -> None:
        if not claim:
            raise SimulationError(f"{message} (step {self.steps})")

    def _end(self, sequence: Sequence) -> None:
        """The one terminal event of a client."""
        client = self.clients.pop(sequence.id, None)
        if client is None:
            raise SimulationError(f"sequence {sequence.id} ended twice")
        self.ends += 1
        self.model.forget(sequence)
        self._expect(sequence.status is Status.FINISHED and sequence.in_flight == 0, "ended while it is held")
        self._expect((sequence.finish is None) != (sequence.error is None), "an end is a reason or an error")
        if client.marked_at is not None:
            late = self.steps - client.marked_at
            self._expect(late <= 1 + self.pipeline.overlap, "an abort took more than the steps under way")
        self._expect(sequence.tokens.tolist() == client.prompt + client.answer, "the stream is not the sequence")
        self._check_answer(client)
        self.asker.remember(sequence.tokens.tolist(), sequence.salt)
        # `sequence`, the client's, the caller's loop variable and list, and the argument of getrefcount; before
        # Python 3.11 a caller keeps the arguments of its call, too
        known = 5 if sys.version_info >= (3, 11) else 6
        count = sys.getrefcount(sequence)
        self._expect(count <= known, f"the engine keeps {count - known} references to what has ended")

    def _check_answer(self, client: Client) -> None:
        sequence = client.sequence
        params = sequence.params
        expected = generate(client.prompt, sequence.salt, params, sequence.seed, self.context_length, client.rule)
        answer = client.answer
        whole = sequence.finish in ("stop", "length") and not client.is_cut
        self._expect(answer == (expected if whole else expected[: len(answer)]), "another answer than alone")
        excused = (
            client.disturbed or client.is_cut or sequence.deadline_s is not None or self._outgrew(client, expected)
        )
        self._expect(whole or excused, f"ended without need: {sequence.finish} {sequence.error}")
        if whole and params.prompt_logprobs is not None:
            entries = chain(sequence.salt, client.prompt)
            first = max(params.logprob_start, 1)
            wanted = [logprob(entries[i - 1], client.prompt[i]) for i in range(first, len(client.prompt))]
            self._expect([p.logprob for p in client.logprobs] == wanted, "log-probabilities missing or twice")

    def _outgrew(self, client: Client, expected: list[int]) -> bool:
        return len(client.prompt) + len(expected) - 1 > self.scheduler.holdings.pool.num_slots  # the last needs none
