"""The engine's planning half under whatever hypothesis thinks of; a failure shrinks to few steps."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.strategies import booleans, integers, lists, sampled_from, sets

from stolon.lang.errors import EngineError
from stolon.lang.types import SamplingParams
from tests.sim.client import Client, Rule
from tests.sim.world import World

tokens = lists(integers(0, 2), min_size=1, max_size=40)
answers = integers(0, 12)
salts = sampled_from(["", "a"])


class EngineMachine(RuleBasedStateMachine):
    """`World` checks every invariant in every step, and every answer against the sequential generator."""

    @initialize(seed=integers(0, 500))
    def start(self, seed: int) -> None:
        self.world = World(seed, calm=True)

    def clients(self) -> list[Client]:
        return list(self.world.clients.values())

    @rule(prompt=tokens, most=answers, width=integers(1, 3), salt=salts, priority=integers(-1, 1), eos=booleans())
    def submit(self, prompt: list[int], most: int, width: int, salt: str, priority: int, eos: bool) -> None:
        params = SamplingParams(max_tokens=most, ignore_eos=not eos)
        for seed in range(width):
            self.world.submit(prompt, params, salt=salt, priority=priority, seed=seed, program=width - 1, width=width)

    @precondition(lambda self: self.world.asker.texts)
    @rule(choice=integers(0, 1000), cut=integers(0, 40), more=lists(integers(0, 2), max_size=4), most=answers)
    def submit_something_alike(self, choice: int, cut: int, more: list[int], most: int) -> None:
        text, salt = self.world.asker.texts[choice % len(self.world.asker.texts)]
        self.world.submit((text[:cut] + more) or [0], SamplingParams(max_tokens=most), salt=salt)

    @rule(prompt=tokens, most=answers, number=integers(1, 50), jumps=booleans())
    def submit_with_a_rule(self, prompt: list[int], most: int, number: int, jumps: bool) -> None:
        self.world.submit(prompt, SamplingParams(max_tokens=most), (Rule(number), jumps))

    @precondition(lambda self: self.world.asker.texts)
    @rule(choice=integers(0, 1000), options=lists(lists(integers(0, 2), min_size=1, max_size=3), max_size=4))
    def score(self, choice: int, options: list[list[int]]) -> None:
        text, salt = self.world.asker.texts[choice % len(self.world.asker.texts)]
        params = SamplingParams(max_tokens=0, prompt_logprobs=0, logprob_start=len(text))
        for option in options:
            self.world.submit(text + option, params, salt=salt)

    @rule(count=integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.world.step()

    @precondition(lambda self: self.world.clients)
    @rule(choice=integers(0, 1000), failed=booleans())
    def abort(self, choice: int, failed: bool) -> None:
        clients = self.clients()
        self.world.abort(clients[choice % len(clients)], EngineError("gone") if failed else None)

    @rule(choice=integers(0, 1000))
    def preempt(self, choice: int) -> None:
        victims = [s for s in self.world.scheduler.roster.running if not (s.is_finished or s.in_flight)]
        if victims:
            self.world.scheduler.roster.preempt(victims[choice % len(victims)])

    @rule(pages=integers(1, 8))
    def evict(self, pages: int) -> None:
        holdings = self.world.scheduler.holdings
        holdings.reserve(holdings.pool.free + pages * holdings.page_size)

    @rule(budget=sampled_from([1, 3, 16, 64]))
    def change_the_chunk_size(self, budget: int) -> None:
        self.world.change_budget(budget)

    @rule(times=integers(1, 3))
    def refuse_memory(self, times: int) -> None:
        self.world.refuse_memory(times)

    @rule()
    def fail_the_next_step(self) -> None:
        self.world.model.faults.step = True

    @rule(rows=sets(integers(0, 4), min_size=1, max_size=2))
    def fail_rows_of_the_next_step(self, rows: set[int]) -> None:
        self.world.model.faults.rows = rows

    @rule(part=sampled_from(["launch", "sample", "results"]))
    def have_no_memory_for_the_next_step(self, part: Any) -> None:
        self.world.model.faults.memory = part

    @rule(tokens=sampled_from([0, 1, 3, 1 << 30]))
    def have_memory_for_small_steps(self, tokens: int) -> None:
        self.world.model.most_tokens = tokens

    @precondition(lambda self: any(client.answer for client in self.world.clients.values()))
    @rule(choice=integers(0, 1000))
    def end_by_what_a_text_says(self, choice: int) -> None:
        able = [client for client in self.clients() if client.answer]
        self.world.cut(able[choice % len(able)])

    @rule()
    def flush(self) -> None:
        flushed = self.world.scheduler.flush()
        assert flushed == (not self.world.scheduler.roster.running)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(
    max_examples=150, stateful_step_count=50, derandomize=True, deadline=None, print_blob=True
)
