from __future__ import annotations

import random
import time
from array import array
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from stolon.lang.errors import BackendTimeout, ContextLengthError, EngineError, InvalidRequest, OverloadedError
from stolon.lang.types import SamplingParams
from stolon.runtime.config import SchedulerConfig
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import Masks, Plan, RowResult, Sequence, SharedPrefix, Status
from tests.runtime.steps import execute
from tests.sim.model import EOS, VOCABULARY, FakeModel, generate

CONTEXT = 10_000


@dataclass
class Engine:
    """A scheduler on the fake model; `check` is on, so every step checks every invariant."""

    slots: int = 4000
    config: dict[str, Any] = field(default_factory=dict)
    context: int = CONTEXT
    now: float = 0.0
    plans: list[list[tuple[int, int, int]]] = field(default_factory=list)
    ended: list[Sequence] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = SchedulerConfig(**{"check": True, **self.config})
        self.scheduler = Scheduler(settings, self.slots, self.context, lambda: self.now, frozenset({EOS}))
        self.model = FakeModel(self.slots)

    def submit(self, prompt: list[int], max_tokens: int = 4, **options: Any) -> Sequence:
        known = {"salt", "priority", "program", "width", "seed", "deadline_s"}
        own = {k: options.pop(k) for k in list(options) if k in known}
        params = SamplingParams(max_tokens=max_tokens, **{"ignore_eos": True, **options})
        ident = self.scheduler.counters.submitted + 1
        sequence = Sequence(
            id=ident, tokens=array("i", prompt), num_prompt=len(prompt), params=params, **{"seed": 0, **own}
        )
        self.scheduler.submit(sequence)
        return sequence

    def step(self) -> Plan | None:
        plan = self.scheduler.schedule()
        if plan is not None:
            self.plans.append([(r.sequence.id, r.start, r.length) for r in plan.rows])
            self.scheduler.commit(plan, execute(self.model, plan))
        self.ended += self.scheduler.reap()
        return plan

    def run(self) -> Engine:
        while self.scheduler.has_work:
            self.step()
        return self

    @property
    def computed(self) -> int:
        return self.scheduler.counters.computed

    def check_answers(self) -> None:
        for s in self.ended:
            prompt = s.tokens[: s.num_prompt].tolist()
            assert s.error is None
            assert s.tokens[s.num_prompt :].tolist() == generate(prompt, s.salt, s.params, s.seed, self.context)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCABULARY) for _ in range(length)]


# -- reuse


def test_a_prompt_asked_again_is_cached_but_for_its_last_token() -> None:
    engine = Engine()
    prompt = prompt_of(200)
    engine.submit(prompt)
    engine.run()
    again = engine.submit(prompt)
    other = engine.submit(prompt[:120] + [VOCABULARY] * 30)
    engine.run()
    assert (again.cached, other.cached) == (199, 120)
    engine.check_answers()


def test_the_answer_is_cached_as_well() -> None:
    engine = Engine()
    first = engine.submit(prompt_of(50), max_tokens=20)
    engine.run()
    turn = engine.submit([*first.tokens.tolist(), 1, 2, 3])
    engine.run()
    assert turn.cached == 69  # all but the last token drawn, which no step computed


@pytest.mark.parametrize("budget", [16, 64, 1000])
def test_a_fork_computes_its_shared_prefix_once(budget: int) -> None:
    engine = Engine(config={"token_budget": budget})
    prefix = prompt_of(100)
    for branch in range(8):
        engine.submit([*prefix, VOCABULARY + branch, 1, 2, 3], max_tokens=5)
    engine.run()
    assert engine.computed == 100 + 8 * (4 + 4)
    engine.check_answers()


@pytest.mark.parametrize("budget", [50, 1000])
def test_simultaneous_requests_compute_a_common_prefix_once(budget: int) -> None:
    engine = Engine(config={"token_budget": budget})
    prefix = prompt_of(300)
    requests = [engine.submit([*prefix, VOCABULARY + i], max_tokens=1) for i in range(16)]
    engine.run()
    assert engine.computed == 300 + 16
    assert sorted(r.cached or 0 for r in requests) == [0] + 15 * [300]
    assert engine.scheduler.stats().hit_rate == pytest.approx(15 * 300 / (16 * 301))
    engine.check_answers()


def test_siblings_ride_along_in_the_step_that_computes_their_prompt() -> None:
    engine = Engine()
    for seed in range(4):
        engine.submit(prompt_of(60), max_tokens=1, seed=seed)
    engine.step()
    assert engine.plans == [[(1, 0, 60), (2, 59, 1), (3, 59, 1), (4, 59, 1)]]
    engine.check_answers()


def test_salts_share_nothing() -> None:
    engine = Engine()
    engine.submit(prompt_of(80), salt="alice")
    engine.run()
    other = engine.submit(prompt_of(80), salt="bob")
    engine.run()
    assert other.cached == 0


def test_without_the_cache_everything_is_computed() -> None:
    engine = Engine(config={"radix_cache": False})
    for _ in range(3):
        engine.submit(prompt_of(100), max_tokens=1)
    engine.run()
    assert engine.computed == 300
    assert engine.scheduler.stats().free == engine.slots
    engine.check_answers()


@pytest.mark.parametrize("page_size", [1, 16])
def test_pages_change_no_answer(page_size: int) -> None:
    engine = Engine(slots=320, config={"page_size": page_size, "token_budget": 23})
    for i in range(12):
        engine.submit(prompt_of(40) + prompt_of(i, seed=i), max_tokens=20, seed=i)
    engine.run().check_answers()


def grouped(policy: str) -> float:
    engine = Engine(slots=400, config={"schedule_policy": policy, "max_running_requests": 2, "check": False})
    prefixes = [prompt_of(150, seed) for seed in range(8)]
    for i in range(64):
        engine.submit([*prefixes[i % 8], VOCABULARY + i], max_tokens=2)
    engine.run().check_answers()
    return engine.scheduler.stats().hit_rate


@pytest.mark.parametrize("policy", ["lpm", "dfs-weight"])
def test_equal_prefixes_come_together_in_a_small_cache(policy: str) -> None:
    assert grouped(policy) > 0.85  # 56 of 64 prefixes could be found
    assert grouped(policy) > 2 * grouped("fcfs")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("lpm", [1, 4, 7, 2, 5, 8, 3, 6, 9]), ("dfs-weight", [1, 4, 7, 2, 5, 8, 3, 6, 9]), ("fcfs", list(range(1, 10)))],
)
def test_who_shares_what_was_just_admitted_comes_next(policy: str, expected: list[int]) -> None:
    engine = Engine(config={"schedule_policy": policy, "token_budget": 1000})
    for i in range(9):
        engine.submit([i % 3, *prompt_of(50), i])
    engine.step()
    assert [ident for ident, _, _ in engine.plans[0]] == expected
    engine.run().check_answers()


@pytest.mark.parametrize(("follows", "found"), [(31, 2), (30, 1)])
def test_a_prompt_in_progress_takes_over_what_others_have_computed_meanwhile(follows: int, found: int) -> None:
    engine = Engine(config={"token_budget": 4})
    first = engine.submit(prompt_of(20), max_tokens=12)
    while first.num_output < 9:
        engine.step()
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    told = prompt_of(20) + generate(prompt_of(20), "", params, 0, CONTEXT)
    second = engine.submit(told[:follows] + [VOCABULARY] * 10)
    engine.run().check_answers()
    assert (
        second.cached == 20 + found
    )  # 20..28 it computed itself, three in each of the steps until the first had ended


def found_after_a_flood(policy: str, *, priority: int = 0) -> int | None:
    """How much of a prefix is still cached after four requests for it, and others for three times the cache."""
    engine = Engine(slots=300, config={"radix_eviction_policy": policy, "max_running_requests": 1})
    prefix = prompt_of(100)
    for i in range(4):
        engine.submit([*prefix, VOCABULARY + i], max_tokens=2, priority=priority)
        engine.run()
    for i in range(9):
        engine.submit(prompt_of(100, seed=1 + i), max_tokens=2)
        engine.run()
    last = engine.submit([*prefix, VOCABULARY], max_tokens=2)
    engine.run().check_answers()
    return last.cached


def test_lfu_keeps_what_was_often_found_where_lru_loses_it() -> None:
    assert (found_after_a_flood("lfu"), found_after_a_flood("lru")) == (100, 0)


def test_priority_keeps_what_was_important_where_lru_loses_it() -> None:
    assert found_after_a_flood("priority", priority=1) == 100
    assert found_after_a_flood("priority") == 0
    assert found_after_a_flood("lru", priority=1) == 0


# -- order


@pytest.mark.parametrize("policy", ["lpm", "dfs-weight"])
def test_nobody_is_overtaken_without_end(policy: str) -> None:
    config = {"schedule_policy": policy, "max_running_requests": 1, "max_overtakes": 5, "max_queued_requests": 200}
    engine = Engine(config=config)
    common = prompt_of(50)
    engine.submit(common, max_tokens=1)
    engine.run()
    lonely = engine.submit([VOCABULARY] * 50, max_tokens=1)
    for i in range(40):
        engine.submit([*common, i % VOCABULARY], max_tokens=1)
    while not lonely.is_finished:
        engine.step()
    assert lonely.overtaken == 5
    engine.run()


def test_a_high_priority_gets_its_place_at_once() -> None:
    engine = Engine(config={"max_running_requests": 4})
    slow = [engine.submit(prompt_of(20, i), max_tokens=100) for i in range(8)]
    for _ in range(5):
        engine.step()
    urgent = engine.submit(prompt_of(20, 99), max_tokens=3, priority=1)
    for _ in range(4):
        engine.step()
    assert urgent.finish == "length"
    assert not any(s.is_finished for s in slow)
    engine.run().check_answers()


def test_a_running_answer_gets_a_token_in_every_step_of_a_long_prompt() -> None:
    engine = Engine(config={"token_budget": 100})
    talker = engine.submit(prompt_of(10), max_tokens=100)
    engine.step()
    reader = engine.submit(prompt_of(2000, seed=1), max_tokens=1)
    while not reader.is_finished:
        before = talker.num_output
        engine.step()
        assert talker.num_output == before + 1
        assert sum(length for _, _, length in engine.plans[-1]) <= 100
    engine.run().check_answers()


def test_a_budget_for_whole_prompts_takes_the_longest_beside_all_that_decode() -> None:
    settings = SchedulerConfig(token_budget=-1, max_running_requests=4).with_whole_prompts(2000)
    engine = Engine(config={"token_budget": settings.token_budget, "max_running_requests": 4})
    for i in range(3):
        engine.submit(prompt_of(5, i), max_tokens=20)
    engine.step()
    engine.submit([VOCABULARY] * 2000, max_tokens=1)
    engine.step()
    assert sorted(length for _, _, length in engine.plans[-1]) == [1, 1, 1, 2000]
    engine.run().check_answers()


def test_a_budget_smaller_than_the_batch_is_shared_in_turns() -> None:
    engine = Engine()
    talkers = [engine.submit(prompt_of(2, i), max_tokens=30) for i in range(6)]
    engine.step()
    engine.scheduler.config = replace(engine.scheduler.config, token_budget=3)
    start = [t.num_output for t in talkers]
    for _ in range(10):
        engine.step()
    assert {t.num_output - s for t, s in zip(talkers, start, strict=True)} == {5}
    engine.run().check_answers()


def test_order_does_not_depend_on_hashes() -> None:
    def plans() -> list[list[tuple[int, int, int]]]:
        engine = Engine(slots=150, config={"token_budget": 20, "max_running_requests": 5})
        for i in range(20):
            engine.submit(prompt_of(10 + i, i % 3), max_tokens=10)
        return engine.run().plans

    assert plans() == plans()


# -- memory


def test_too_little_memory_changes_no_answer() -> None:
    engine = Engine(slots=90, config={"token_budget": 40})
    requests = [engine.submit(prompt_of(30, i), max_tokens=30, seed=i) for i in range(8)]
    engine.run().check_answers()
    counters = engine.scheduler.counters
    assert counters.preemptions > 0
    assert requests[0].preemptions == 0  # the oldest goes through
    assert counters.computed < 2 * 8 * 60


def test_a_preempted_sequence_resumes_from_what_survived() -> None:
    engine = Engine(slots=300)
    first = engine.submit(prompt_of(100), max_tokens=50)
    for _ in range(10):
        engine.step()
    engine.scheduler.roster.preempt(first)
    engine.run().check_answers()
    assert engine.plans[10] == [(1, 109, 1)]


def test_what_can_never_fit_is_refused_with_both_numbers() -> None:
    engine = Engine(slots=100, context=200)
    with pytest.raises(ContextLengthError, match=r"100 tokens.*holds 100"):
        engine.submit(prompt_of(100), max_tokens=1)
    with pytest.raises(ContextLengthError, match=r"50 tokens and 151 more.*200"):
        engine.submit(prompt_of(50), max_tokens=151)
    with pytest.raises(InvalidRequest, match="no tokens"):
        engine.submit([])
    engine.submit(prompt_of(100), max_tokens=0)
    engine.run()
    assert engine.scheduler.counters.finished == 1


def test_an_answer_that_outgrows_the_memory_ends_with_an_error() -> None:
    engine = Engine(slots=50)
    sequence = engine.submit(prompt_of(30), max_tokens=100)
    engine.run()
    assert isinstance(sequence.error, EngineError)
    assert sequence.error.code == "kv_cache_full"
    assert sequence.num_output == 21  # 50 tokens computed, and one drawn from the last
    engine.submit(prompt_of(40), max_tokens=2)
    assert engine.run().ended[-1].finish == "length"


def test_memory_that_fails_at_any_moment_harms_no_other_step() -> None:
    for n in range(1, 60):
        engine = Engine(slots=120, config={"token_budget": 30})
        reserve, calls = engine.scheduler.holdings.reserve, 0

        def failing(tokens: int, *, n: int = n, reserve: Any = reserve) -> bool:
            nonlocal calls
            calls += 1
            return calls != n and reserve(tokens)

        engine.scheduler.holdings.reserve = failing
        for i in range(4):
            engine.submit(prompt_of(30, i), max_tokens=8)
        engine.run()
        engine.scheduler.holdings.reserve = reserve
        engine.submit(prompt_of(30, 9), max_tokens=8)
        engine.run()
        assert engine.ended[-1].finish == "length"
        assert sum(s.error is not None for s in engine.ended) <= 1


def test_a_live_programs_prefix_survives_pressure_until_it_ends() -> None:
    engine = Engine(slots=200, config={"pin_share": 0.5, "pin_seconds": 30.0})
    engine.submit(prompt_of(60), max_tokens=1, program=7)
    engine.run()
    assert engine.scheduler.stats().pinned == 60

    def press() -> int:
        for i in range(10):
            engine.submit(prompt_of(50, 100 + i), max_tokens=1)
            engine.run()
        probe = engine.submit(prompt_of(60), max_tokens=1)
        engine.run()
        return probe.cached or 0

    assert press() == 59
    engine.now += 31
    assert press() == 0
    engine.submit(prompt_of(60), max_tokens=1, program=7)
    engine.run()
    engine.scheduler.end_program(7)
    assert press() == 0


def test_pins_are_bounded_and_yield_when_memory_is_needed() -> None:
    engine = Engine(slots=200, config={"pin_share": 0.5})
    for program in range(1, 5):
        engine.submit([VOCABULARY + program] * 40, max_tokens=1, program=program)
        engine.run()
        assert engine.scheduler.stats().pinned <= 100
    assert engine.scheduler.stats().pinned == 80  # of the latest two
    engine.submit(prompt_of(190, 9), max_tokens=5)
    assert engine.run().ended[-1].finish == "length"


def converse(engine: Engine, programs: int, turns: int, turn: int) -> float:
    """Programs that each ask `turns` times, their next prompt ready as soon as an answer is. Returns the hit rate."""
    prompts = {program: prompt_of(turn, program) for program in range(1, programs + 1)}
    open_turns = dict.fromkeys(prompts, turns)
    for program, prompt in prompts.items():
        engine.submit(prompt, max_tokens=4, program=program)
    while engine.scheduler.has_work:
        done = len(engine.ended)
        engine.step()
        for sequence in engine.ended[done:]:
            program = sequence.program
            open_turns[program] -= 1
            if open_turns[program]:
                grown = sequence.tokens.tolist() + prompt_of(turn, 100 * program + open_turns[program])
                engine.submit(grown, max_tokens=4, program=program)
            else:
                engine.scheduler.end_program(program)
    return engine.scheduler.stats().hit_rate


def test_programs_that_do_not_all_fit_go_on_one_after_the_other_instead_of_evicting_each_other() -> None:
    roomy, tight = Engine(slots=4000), Engine(slots=900)  # where all together need 1,760
    best = converse(roomy, programs=10, turns=4, turn=40)
    assert converse(tight, programs=10, turns=4, turn=40) >= 0.95 * best
    tight.check_answers()


def test_programs_that_ask_once_soon_share_all_of_the_memory() -> None:
    engine = Engine(slots=400)
    for program in range(1, 60):
        engine.submit(prompt_of(60, program), max_tokens=20, program=program)
    most = 0
    while engine.scheduler.has_work:
        ended = len(engine.ended)
        engine.step()
        for sequence in engine.ended[ended:]:
            engine.scheduler.end_program(sequence.program)
        most = max(most, len(engine.scheduler.roster.running))
    assert most >= 4  # five prompts of 60 with their answers of 20 fill the memory


# -- life cycle


@pytest.mark.parametrize("when", range(14))
def test_an_abort_at_any_step_leaves_nothing_behind(when: int) -> None:
    engine = Engine(slots=120, config={"token_budget": 16})
    doomed = [engine.submit(prompt_of(40), max_tokens=6, seed=i) for i in range(3)]
    for _ in range(when):
        engine.step()
    plan = engine.scheduler.schedule()
    for sequence in doomed:
        engine.scheduler.abort(sequence)
    assert all(s.status is not Status.FINISHED for s in doomed if s.in_flight)
    if plan is not None:
        results = execute(engine.model, plan)
        engine.scheduler.commit(plan, results)
        assert all(r.token is None for r in results)
    ended = engine.scheduler.reap()
    assert set(engine.ended + ended) == set(doomed)
    assert not engine.scheduler.has_work
    stats = engine.scheduler.stats()
    assert stats.free + stats.evictable == stats.total


def test_what_was_said_first_about_the_end_stays() -> None:
    engine = Engine()
    sequence = engine.submit(prompt_of(10), max_tokens=50)
    for _ in range(3):
        engine.step()
    engine.scheduler.finish(sequence, "stop", "###")
    engine.scheduler.abort(sequence, EngineError("too late"))
    assert engine.scheduler.reap() == [sequence]
    assert (sequence.finish, sequence.matched, sequence.error) == ("stop", "###", None)
    assert engine.scheduler.reap() == []


def test_a_deadline_ends_a_request_wherever_it_is() -> None:
    engine = Engine(config={"max_running_requests": 1})
    running = engine.submit(prompt_of(10), max_tokens=1000, deadline_s=5.0)
    waiting = engine.submit(prompt_of(10, 1), max_tokens=1000, deadline_s=6.0)
    engine.step()
    engine.now = 7.0
    engine.step()
    assert set(engine.ended) == {running, waiting}
    assert all(isinstance(s.error, BackendTimeout) for s in engine.ended)
    assert not engine.scheduler.has_work


def test_far_deadlines_of_ended_requests_are_not_kept_and_those_of_live_ones_are() -> None:
    engine = Engine(config={"max_running_requests": 2})
    live = engine.submit(prompt_of(10), max_tokens=1000, deadline_s=50.0)
    for seed in range(400):
        engine.submit(prompt_of(5, seed), max_tokens=1, deadline_s=600.0 + seed)
        engine.step()
        engine.step()
    assert len(engine.ended) >= 398
    assert len(engine.scheduler.roster._deadlines) < 100
    engine.now = 51.0
    engine.step()
    assert isinstance(live.error, BackendTimeout)


def test_a_full_queue_refuses_one_more() -> None:
    engine = Engine(config={"max_queued_requests": 2})
    engine.submit(prompt_of(10))
    engine.submit(prompt_of(10))
    with pytest.raises(OverloadedError, match="2 requests wait") as caught:
        engine.submit(prompt_of(10))
    assert caught.value.retry_after_s
    engine.run()
    engine.submit(prompt_of(10))


def test_a_failed_step_ends_its_sequences_and_leaves_no_trace_in_the_tree() -> None:
    engine = Engine(config={"token_budget": 30})
    old = engine.submit(prompt_of(20), max_tokens=1)
    engine.run()
    failed = [engine.submit(prompt_of(20) + prompt_of(40, seed)) for seed in (1, 2)]
    waiting = engine.submit(prompt_of(60, 3))
    engine.model.faults.step = True
    plan = engine.scheduler.schedule()
    assert plan is not None
    error = EngineError("out of luck")
    with pytest.raises(EngineError):
        execute(engine.model, plan)
    assert set(engine.scheduler.fail(plan, error)) == {failed[0]}
    engine.ended.clear()
    engine.run()
    assert failed[0].error is error
    assert old.finish == failed[1].finish == waiting.finish == "length"
    engine.ended.remove(failed[0])
    engine.check_answers()


def test_a_row_that_fails_harms_only_its_own_request() -> None:
    engine = Engine()
    requests = [engine.submit(prompt_of(60), max_tokens=3, seed=i) for i in range(4)]
    engine.model.faults.rows = {0}  # it writes what the others read in the same step
    engine.run()
    assert [r.error is None for r in requests] == [False, True, True, True]
    engine.ended.remove(requests[0])
    engine.check_answers()


def test_a_flush_waits_until_nothing_runs() -> None:
    engine = Engine()
    engine.submit(prompt_of(30), max_tokens=5)
    engine.step()
    assert not engine.scheduler.flush()
    engine.run()
    assert engine.scheduler.flush()
    assert engine.scheduler.stats().free == engine.slots


# -- ends


@dataclass
class Says:
    """A step that draws what it is told, and the runner of such steps."""

    tokens: list[int]
    plan: Plan = field(default_factory=lambda: Plan([]))

    def launch(self, plan: Plan) -> Says:
        return Says(self.tokens, plan)

    def sample(self, masks: Masks | None) -> None:
        assert masks is None

    def results(self) -> list[RowResult]:
        return [RowResult(token=self.tokens.pop(0) if row.samples else None) for row in self.plan.rows]


@pytest.mark.parametrize(
    ("params", "said", "finish", "matched", "output"),
    [
        ({}, [5, EOS], "stop", EOS, 2),
        ({"ignore_eos": True}, [5, EOS, 5, 5], "length", None, 4),
        ({"min_tokens": 2}, [EOS, EOS, EOS], "stop", EOS, 3),
        ({"stop_token_ids": (9,)}, [5, 9], "stop", 9, 2),
        ({"stop_token_ids": (9,), "ignore_eos": True}, [EOS, 9], "stop", 9, 2),
        ({}, [5, 5, 5, EOS], "stop", EOS, 4),
        ({}, [5, 5, 5, 5], "length", None, 4),
    ],
)
def test_how_an_answer_ends(params: dict[str, Any], said: list[int], finish: str, matched: Any, output: int) -> None:
    engine = Engine()
    engine.model = Says(list(said))  # type: ignore[assignment]
    sequence = engine.submit([1, 2], **{"ignore_eos": False, **params})
    engine.run()
    assert (sequence.finish, sequence.matched, sequence.num_output) == (finish, matched, output)


def test_a_runner_that_draws_nothing_is_an_error_of_that_request() -> None:
    engine = Engine()
    sequence = engine.submit([1, 2])
    plan = engine.scheduler.schedule()
    assert plan is not None
    assert engine.scheduler.commit(plan, [RowResult()]) == [sequence]
    assert isinstance(sequence.error, EngineError)


def test_no_tokens_asked_for_computes_the_prompt_and_draws_nothing() -> None:
    engine = Engine(config={"token_budget": 30})
    sequence = engine.submit(prompt_of(70), max_tokens=0)
    engine.run()
    assert engine.plans == [[(1, 0, 30)], [(1, 30, 30)], [(1, 60, 10)]]
    assert (sequence.finish, sequence.num_output) == ("length", 0)
    assert engine.scheduler.stats().cached == 70


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("preempted", [False, True])
def test_options_are_scored_on_a_shared_prefix(warm: bool, preempted: bool) -> None:
    engine = Engine(config={"token_budget": 25})
    prefix = prompt_of(50)
    if warm:
        engine.submit(prefix, max_tokens=0)
        engine.run()
    before = engine.computed
    options = [[1, 2, 3], [1, 5], [4]]
    asked = [engine.submit(prefix + o, max_tokens=0, prompt_logprobs=0, logprob_start=50) for o in options]
    found: dict[int, list[int]] = {s.id: [] for s in asked}
    while engine.scheduler.has_work:
        plan = engine.scheduler.schedule()
        if plan is not None:
            results = execute(engine.model, plan)
            engine.scheduler.commit(plan, results)
            for row, result in zip(plan.rows, results, strict=True):
                found[row.sequence.id] += [p.token for p in result.prompt_logprobs]
        for sequence in engine.scheduler.roster.running[:1] if preempted else ():
            if not sequence.is_finished and sequence.preemptions < 2:
                engine.scheduler.roster.preempt(sequence)
        engine.scheduler.reap()
    assert [found[s.id] for s in asked] == options
    if not preempted:  # each computes its own last shared token, for the logits of what follows it
        again = sum(len(o) + 1 for o in options)
        assert engine.computed - before <= (0 if warm else 50) + again


# -- sharing reads, and cost


def test_decode_rows_with_a_common_prefix_are_grouped() -> None:
    engine = Engine()
    for branch in range(3):
        engine.submit([*prompt_of(100), VOCABULARY + branch, 1], max_tokens=5)
    engine.submit(prompt_of(40, 8), max_tokens=5)
    engine.step()
    plan = engine.scheduler.schedule()
    assert plan is not None
    assert plan.shared == [SharedPrefix([0, 1, 2], 100)]


def test_planning_costs_little() -> None:
    engine = Engine(slots=100_000, config={"token_budget": 8192, "check": False})
    for i in range(32):
        engine.submit(prompt_of(800) + [VOCABULARY + i] * 40, max_tokens=400)
    scheduler, spent = engine.scheduler, []
    for _ in range(300):
        start = time.process_time()
        plan = scheduler.schedule()
        planned = time.process_time()
        assert plan is not None
        results = [RowResult(token=5) for _ in plan.rows]
        drawn = time.process_time()
        scheduler.commit(plan, results)
        scheduler.reap()
        spent.append(planned - start + time.process_time() - drawn)
    assert sorted(spent)[150] < 0.0005  # 0.05 ms on an idle machine


@pytest.mark.parametrize("policy", ["lpm", "dfs-weight"])
def test_a_thousand_waiting_requests_are_looked_through_quickly(policy: str) -> None:
    engine = Engine(slots=100_000, config={"schedule_policy": policy, "max_running_requests": 32, "check": False})
    prefixes = [prompt_of(300, seed) for seed in range(8)]
    for i in range(1000):
        engine.submit(prefixes[i % 8] + prompt_of(40, i), max_tokens=8)
    spent = []
    for _ in range(100):
        start = time.process_time()
        plan = engine.scheduler.schedule()
        spent.append(time.process_time() - start)
        assert plan is not None
        engine.scheduler.commit(plan, [RowResult(token=5 if r.samples else None) for r in plan.rows])
        engine.scheduler.reap()
    assert sorted(spent)[50] < 0.01
