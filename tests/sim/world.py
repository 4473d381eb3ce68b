"""One episode of a simulated engine: everything random comes from one integer."""

from __future__ import annotations

import random
import sys
from array import array
from dataclasses import dataclass, field, replace

from stolon.lang.errors import ContextLengthError, EngineError, OverloadedError
from stolon.lang.types import SamplingParams, TokenLogprob
from stolon.runtime.config import SchedulerConfig
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import Plan, Sequence, Status

from .model import EOS, VOCABULARY, FakeModel, chain, generate, logprob


class SimulationError(AssertionError):
    """The engine did something that its callers could see is wrong."""


@dataclass(slots=True, eq=False)
class Client:
    """Who asked, what it has been told, and whether the world took a hand in its end."""

    sequence: Sequence
    prompt: list[int]
    answer: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    disturbed: bool = False
    marked_at: int | None = None
    ended: bool = False


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def random_config(rng: random.Random) -> SchedulerConfig:
    return SchedulerConfig(
        token_budget=rng.choice([1, 2, 5, 7, 16, 64]),
        max_running_requests=rng.choice([1, 2, 4, 8]),
        max_queued_requests=rng.choice([3, 12, 30]),
        page_size=rng.choice([1, 1, 1, 2, 4, 16]),
        schedule_policy=rng.choice(["lpm", "lpm", "lpm", "fcfs"]),
        max_overtakes=rng.choice([1, 3, 64]),
        radix_cache=rng.random() < 0.9,
        pin_share=rng.choice([0.0, 0.3, 0.7]),
        pin_seconds=rng.choice([0.5, 20.0]),
    )


class World:
    """An engine on a fake model, its clients, and everything that can happen to them.

    calm: nothing is injected; what is left are submissions and aborts
    """

    def __init__(self, seed: int, *, calm: bool = False) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        config = random_config(self.rng)
        slots = config.page_size * self.rng.choice([8, 16, 40, 120])
        self.slots = max(slots, 24)
        self.context_length = self.rng.choice([20, 48, 1000])
        self.scheduler = Scheduler(config, self.slots, self.context_length, self.clock, frozenset({EOS}))
        self.model = FakeModel(self.slots, all_logprobs=self.rng.random() < 0.5)
        self.calm = calm
        self.clients: dict[int, Client] = {}
        self.texts: list[tuple[list[int], str]] = []  # tokens and salt of what has been asked or answered
        self.steps = 0
        self.ends = 0
        self._ids = 0
        self._refusals = 0
        self._refused = False
        self._load = self.rng.choice([0.05, 0.2, 0.5])
        self._trouble = self.rng.choice([0.0, 0.02, 0.1])
        self._reserve = self.scheduler.holdings.reserve
        self.scheduler.holdings.reserve = self._flaky_reserve

    # -- what callers do

    def submit(self, prompt: list[int], params: SamplingParams, **options: object) -> Client | None:
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
        client = self.clients[sequence.id] = Client(sequence, prompt)
        self.texts.append((prompt, sequence.salt))
        return client

    def submit_randomly(self) -> None:
        rng = self.rng
        prompt, salt = self._random_prompt()
        kind = rng.random()
        options: dict[str, object] = {"salt": salt, "priority": rng.choice([0, 0, 0, 0, 1, -1])}
        if rng.random() < 0.3:
            options |= {"program": rng.randrange(1, 4), "width": rng.choice([1, 2, 3])}
        if rng.random() < 0.05:
            options["deadline_s"] = self.clock.now + rng.choice([0.0, 1.0, 10.0])
        if kind < 0.15:
            self._submit_scores(prompt, options)
        elif kind < 0.35:
            params = self._random_params()
            for seed in range(rng.randrange(2, 5)):
                self.submit(prompt, params, **options, seed=seed)
        elif kind < 0.4:
            self.submit(prompt, SamplingParams(max_tokens=0), **options)
        else:
            self.submit(prompt, self._random_params(), **options, seed=rng.randrange(3))

    def _submit_scores(self, prompt: list[int], options: dict[str, object]) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            option = self._random_tokens(self.rng.randrange(1, 4))
            params = SamplingParams(max_tokens=0, prompt_logprobs=0, logprob_start=len(prompt))
            self.submit(prompt + option, params, **options)

    def _random_params(self) -> SamplingParams:
        rng = self.rng
        most = rng.choice([1, 3, 12, 12, 30])
        return SamplingParams(
            max_tokens=most,
            min_tokens=rng.choice([0, 0, 0, min(2, most)]),
            ignore_eos=rng.random() < 0.5,
            stop_token_ids=rng.choice([(), (), (3,)]),
            prompt_logprobs=rng.choice([None, None, None, 0]),
            logprob_start=rng.choice([0, 0, 3]),
        )

    def _random_prompt(self) -> tuple[list[int], str]:
        rng = self.rng
        if self.texts and rng.random() < 0.7:
            text, salt = rng.choice(self.texts[-12:])
            cut = rng.choice([len(text), len(text), rng.randrange(len(text) + 1)])
            if rng.random() < 0.1:
                salt = rng.choice(["", "a", "b"])
            return (text[:cut] + self._random_tokens(rng.randrange(4)))[:60] or [1], salt
        return self._random_tokens(rng.randrange(1, 41)), rng.choice(["", "", "a", "b"])

    def _random_tokens(self, count: int) -> list[int]:
        return [self.rng.randrange(VOCABULARY) for _ in range(count)]

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
        match rng.randrange(8):
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
        self._refused = False
        plan = scheduler.schedule()
        scheduler.check(plan)
        if plan is None:
            ended = scheduler.reap()
            stuck = scheduler.has_work and not ended and not self._refused
            self._expect(not stuck, "there is work, but nothing is planned")
        else:
            self._execute(plan)
            ended = scheduler.reap()
        scheduler.check()
        planned = plan is not None
        del plan  # it refers to sequences, and `_end` counts who does
        for sequence in ended:
            self._end(sequence)
        return planned

    def _execute(self, plan: Plan) -> None:
        scheduler, rows = self.scheduler, plan.rows
        if not self.calm:
            self._abort_someone()  # while the step is in flight
        faulty = set(self.model.faults.rows) if not self.model.faults.step else set(range(len(rows)))
        for index in faulty.intersection(range(len(rows))):
            self.clients[rows[index].sequence.id].disturbed = True
        before = [len(row.sequence.tokens) for row in rows]
        try:
            step = self.model.launch(plan)
            step.sample(None)
            results = step.results()
        except EngineError as error:
            advanced = scheduler.fail(plan, error.with_traceback(None))  # whose frames refer to sequences
            self._expect(all(s.is_finished for s in advanced), "a failed step left sequences alive")
            return
        advanced = scheduler.commit(plan, results)
        for row, length, result in zip(rows, before, results, strict=True):
            client = self.clients[row.sequence.id]
            fresh = row.sequence.tokens[length:].tolist()
            self._expect(fresh == ([] if result.token is None else [result.token]), "results and tokens differ")
            told = bool(fresh) or row.sequence.is_finished
            self._expect(told == (row.sequence in advanced), "commit hides who advanced")
            client.answer += fresh
            client.logprobs += result.prompt_logprobs

    def drain(self) -> None:
        """On to the end: everybody gets an answer, and nothing is left over."""
        limit = 2000 + 200 * len(self.clients)
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
            self._expect(self.steps - client.marked_at <= 1, "an abort took more than a step")
        self._expect(sequence.tokens.tolist() == client.prompt + client.answer, "the stream is not the sequence")
        self._check_answer(client)
        self.texts.append((sequence.tokens.tolist(), sequence.salt))
        del self.texts[:-40]
        # `sequence`, the client's, the caller's loop variable and list, and the argument of getrefcount
        count = sys.getrefcount(sequence)
        self._expect(count <= 5, f"the engine keeps {count - 5} references to what has ended")

    def _check_answer(self, client: Client) -> None:
        sequence = client.sequence
        params = sequence.params
        expected = generate(client.prompt, sequence.salt, params, sequence.seed, self.context_length)
        answer = client.answer
        whole = sequence.finish in ("stop", "length")
        self._expect(answer == (expected if whole else expected[: len(answer)]), "another answer than alone")
        excused = client.disturbed or sequence.deadline_s is not None or self._outgrew(client, expected)
        self._expect(whole or excused, f"ended without need: {sequence.finish} {sequence.error}")
        if whole and params.prompt_logprobs is not None:
            entries = chain(sequence.salt, client.prompt)
            first = max(params.logprob_start, 1)
            wanted = [logprob(entries[i - 1], client.prompt[i]) for i in range(first, len(client.prompt))]
            self._expect([p.logprob for p in client.logprobs] == wanted, "log-probabilities missing or twice")

    def _outgrew(self, client: Client, expected: list[int]) -> bool:
        return len(client.prompt) + len(expected) > self.scheduler.holdings.pool.num_slots
