"""Steps begun before the one before has ended, on the fake device: order of work, surplus rows, forced runs, memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from stolon.lang.errors import EngineError
from stolon.lang.types import SamplingParams
from stolon.runtime.config import SchedulerConfig
from stolon.runtime.pipeline import Landed, Pipeline
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.sequence import Masks, Plan, RowResult, Sequence, Status, Step
from tests.sim.model import EOS, FakeModel, generate


@dataclass
class Engine:
    """A pipeline over the fake model, which computes when it is asked for results; every step is checked."""

    slots: int = 400
    overlap: bool = True
    config: dict[str, Any] = field(default_factory=dict)
    forced: dict[int, list[int]] = field(default_factory=dict)  # what follows the first drawn token, by sequence
    events: list[str] = field(default_factory=list)
    landed: list[Landed] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = SchedulerConfig(**{"check": True, **self.config})
        self.scheduler = Scheduler(settings, self.slots, 10_000, lambda: 0.0, frozenset({EOS}))
        self.model = FakeModel(self.slots)
        self.pipeline = Pipeline(self.scheduler, self, self, overlap=self.overlap)
        self.sequences: list[Sequence] = []

    # a runner, and constraints, that note what is asked of them

    def launch(self, plan: Plan) -> Step:
        self.events.append(f"launch {plan.step}")
        return Watched(self.events, plan.step, self.model.launch(plan))

    def foresee(self, plan: Plan) -> None:
        pass

    def masks(self, plan: Plan) -> Masks | None:
        self.events.append(f"masks {plan.step}")
        return None

    def advance(self, plan: Plan, results: list[RowResult]) -> None:
        self.events.append(f"advance {plan.step}")
        for row, result in zip(plan.rows, results, strict=True):
            if result.token is not None:
                self.scheduler.extend(row.sequence, self.forced.pop(row.sequence.id, []))

    def submit(self, prompt: Iterable[int], max_tokens: int = 6, **options: Any) -> Sequence:
        tokens = array("i", prompt)
        own = {k: options.pop(k) for k in list(options) if k in {"priority", "seed"}}
        params = SamplingParams(max_tokens=max_tokens, **{"ignore_eos": True, **options})
        number = len(self.sequences) + 1
        sequence = Sequence(number, tokens, len(tokens), params, **{"seed": 0, **own})
        self.scheduler.submit(sequence)
        self.sequences.append(sequence)
        return sequence

    def turn(self) -> list[Sequence]:
        self.landed += self.pipeline.turn()
        return self.scheduler.reap()

    def run(self) -> Engine:
        for _ in range(2000):
            if not self.scheduler.has_work:
                break
            self.turn()
        assert not self.scheduler.has_work
        stats = self.scheduler.stats()
        assert stats.free + stats.evictable == stats.total
        return self

    @property
    def answers(self) -> list[list[int]]:
        return [s.tokens[s.num_prompt :].tolist() for s in self.sequences]


@dataclass
class Watched:
    events: list[str]
    number: int
    step: Step

    def sample(self, masks: Masks | None) -> None:
        self.events.append(f"sample {self.number}")
        self.step.sample(masks)

    def results(self) -> list[RowResult]:
        self.events.append(f"results {self.number}")
        return self.step.results()


def alone(sequence: Sequence) -> list[int]:
    prompt = sequence.tokens[: sequence.num_prompt].tolist()
    return generate(prompt, sequence.salt, sequence.params, sequence.seed, 10_000)


# -- order


def test_a_step_is_launched_before_the_one_before_is_waited_for_and_drawn_after_it_was_committed() -> None:
    engine = Engine()
    engine.submit([1, 2, 3], max_tokens=3)
    engine.run()
    turns = ["launch 2", "results 1", "advance 1", "masks 2", "sample 2"], ["launch 3", "results 2"]
    assert engine.events[:8] == ["launch 1", "masks 1", "sample 1", *turns[0]]
    assert engine.events[8:10] == turns[1]
    assert "launch 4" not in engine.events  # the third token is the last, whatever it is


def test_without_overlap_a_step_is_over_before_the_next_is_planned() -> None:
    engine = Engine(overlap=False)
    engine.submit([1, 2, 3], max_tokens=2)
    engine.run()
    one = ["launch 1", "masks 1", "sample 1", "results 1", "advance 1"]
    assert engine.events == [*one, *(event.replace("1", "2") for event in one)]


def test_a_row_names_the_row_that_draws_its_token() -> None:
    engine = Engine()
    for number in range(3):
        engine.submit([1, 2, number], seed=number)
    engine.turn()
    engine.scheduler.abort(engine.sequences[0])
    engine.turn()
    plan = engine.scheduler._in_flight[-1]
    assert [(row.sequence.id, row.source) for row in plan.rows] == [(2, 1), (3, 2)]
    engine.run()
    assert engine.answers[1:] == [alone(s) for s in engine.sequences[1:]]


def test_a_prompt_in_pieces_keeps_the_device_busy() -> None:
    engine = Engine(config={"token_budget": 10})
    sequence = engine.submit([1] * 35, max_tokens=0)
    for _ in range(4):
        engine.turn()
        assert sequence.finish is None
    engine.run()
    assert sequence.finish == "length"
    assert [plan.plan.num_tokens for plan in engine.landed] == [10, 10, 10, 5]


# -- one step late


def ends_by_token(engine: Engine) -> Sequence:
    """A sequence that draws an end token before its last."""
    for seed in range(100):
        answer = generate([1, 2, 3], "", SamplingParams(max_tokens=9), seed, 10_000)
        if 2 < len(answer) < 8:
            return engine.submit([1, 2, 3], max_tokens=9, ignore_eos=False, seed=seed)
    raise AssertionError("no seed will do")


def test_the_token_after_an_end_is_nowhere() -> None:
    engine = Engine()
    sequence = ends_by_token(engine)
    expected = alone(sequence)
    engine.run()
    assert engine.answers == [expected]
    assert [result.token for plan in engine.landed for result in plan.results] == [*expected, None]
    assert engine.scheduler.counters.generated == len(expected)
    known = [1, 2, 3, *expected]
    node, length = engine.scheduler.holdings.tree.match(array("i", [*known, *range(7)]), 100)
    assert length <= len(known)
    assert node.locks == 0


def test_what_has_ended_is_released_when_the_step_that_holds_it_has() -> None:
    engine = Engine()
    sequence = engine.submit([1, 2, 3], max_tokens=50)
    engine.turn()
    engine.turn()
    assert sequence.in_flight == 1
    engine.scheduler.finish(sequence, "stop", "###")  # as a stop string does
    assert engine.scheduler.reap() == []
    held = set(sequence.slots[: sequence.allocated].tolist())
    assert held.isdisjoint(engine.scheduler.holdings.pool.free_slots().tolist())
    assert engine.turn() == [sequence]
    assert (sequence.status, sequence.num_output) == (Status.FINISHED, 1)


def test_an_entry_whose_token_was_dropped_is_not_cached() -> None:
    engine = Engine()
    sequence = engine.submit([1, 2, 3], max_tokens=50)
    engine.turn()
    engine.turn()  # now a token is being drawn, and another row goes on with it
    engine.model.meanwhile = lambda: engine.scheduler.abort(sequence)
    engine.turn()
    engine.run()
    assert sequence.num_output == 1
    assert engine.scheduler.stats().cached <= len(sequence.tokens)


# -- forced runs


@pytest.mark.parametrize("overlap", [False, True])
def test_a_forced_run_is_appended_and_computed_in_one_step(overlap: bool) -> None:
    engine = Engine(overlap=overlap, forced={1: [4, 4, 5]})
    sequence = engine.submit([1, 2, 3], max_tokens=6)
    engine.run()
    first = generate([1, 2, 3], "", SamplingParams(max_tokens=1, ignore_eos=True), 0, 10_000)
    begun = [1, 2, 3, *first, 4, 4, 5]
    rest = generate(begun, "", SamplingParams(max_tokens=2, ignore_eos=True), 0, 10_000)
    assert sequence.tokens.tolist() == [*begun, *rest]
    lengths = [[row.length for row in plan.plan.rows] for plan in engine.landed]
    # begun before the run was known, one row goes on from the drawn token; what it draws is known, so it is dropped
    assert lengths == ([[3], [1], [3], [1]] if overlap else [[3], [4], [1]])
    drawn = [result.token for plan in engine.landed for result in plan.results]
    assert drawn == ([*first, None, *rest] if overlap else [*first, *rest])


# -- memory


def test_who_cannot_go_on_for_want_of_memory_yields_one_step_later() -> None:
    engine = Engine(slots=24)
    for seed in range(3):
        engine.submit([1, 2, 3, 4, 5], max_tokens=15, seed=seed)
    engine.run()
    assert engine.scheduler.counters.preemptions
    assert engine.answers == [alone(s) for s in engine.sequences]


def test_a_higher_priority_is_not_the_one_to_yield() -> None:
    engine = Engine(slots=26)
    low = engine.submit([1, 2, 3, 4, 5], max_tokens=15)
    engine.turn()
    high = [engine.submit([6, seed], max_tokens=10, seed=seed, priority=1) for seed in range(2)]
    engine.run()
    assert low.preemptions
    assert [s.preemptions for s in high] == [0, 0]
    assert engine.answers == [alone(s) for s in engine.sequences]


def test_a_higher_priority_gets_the_place_of_one_that_a_step_holds() -> None:
    engine = Engine(config={"max_running_requests": 2})
    low = [engine.submit([1, 2, seed], max_tokens=30, seed=seed) for seed in range(2)]
    engine.turn()
    engine.turn()
    high = engine.submit([3, 3], max_tokens=2, priority=1)
    for _ in range(6):
        engine.turn()
    assert high.finish == "length"
    assert [s.preemptions for s in low] == [0, 1]
    engine.run()
    assert engine.answers == [alone(s) for s in engine.sequences]


# -- shared prefixes


def test_rows_whose_tokens_are_to_come_still_read_their_common_prefix_together() -> None:
    engine = Engine()
    stem = [1, 2, 3] * 20
    for branch in range(3):
        engine.submit([*stem, branch, 5], seed=branch)
    engine.submit([6] * 40)
    for _ in range(3):
        engine.turn()
    plan = engine.scheduler._in_flight[-1]
    assert all(row.source is not None for row in plan.rows)
    (group,) = plan.shared
    assert (sorted(plan.rows[i].sequence.id for i in group.rows), group.length) == ([1, 2, 3], 60)
    engine.run()


# -- a whole step


@pytest.mark.parametrize("part", ["launch", "sample", "results"])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_step_without_memory_is_made_again_in_halves(part: Any, overlap: bool) -> None:
    engine = Engine(overlap=overlap)
    for seed in range(4):
        engine.submit([1, 2, 3, seed], seed=seed)
    engine.turn()
    engine.model.faults.memory = part
    engine.turn()
    engine.run()
    assert engine.answers == [alone(s) for s in engine.sequences]
    assert max(plan.plan.num_tokens for plan in engine.landed[1:4]) <= 4


@pytest.mark.parametrize("overlap", [False, True])
def test_a_step_that_cannot_be_smaller_ends_its_request_with_one_clear_error(overlap: bool) -> None:
    engine = Engine(overlap=overlap)
    engine.submit([1, 2, 3, 4])
    engine.submit([4, 3, 2, 1])
    engine.model.most_tokens = 0
    while not any(s.error for s in engine.sequences):
        engine.turn()
    engine.model.most_tokens = 100
    engine.run()
    (failed,) = (s for s in engine.sequences if s.error)
    assert isinstance(failed.error, EngineError)
    assert failed.error.code == "out_of_memory"
    (other,) = (s for s in engine.sequences if not s.error)
    assert other.tokens[other.num_prompt :].tolist() == alone(other)


def test_steps_grow_again_when_smaller_ones_go_well() -> None:
    engine = Engine(config={"token_budget": 8})
    for seed in range(8):
        engine.submit([1, 2, 3, seed], max_tokens=100, seed=seed)
    engine.model.most_tokens = 2
    engine.run()
    sizes = [plan.plan.num_tokens for plan in engine.landed]
    assert set(sizes) <= {1, 2}
    engine = Engine(config={"token_budget": 8})
    engine.submit([1] * 8, max_tokens=300)
    engine.model.faults.memory = "launch"
    engine.run()
    engine.submit([2] * 8, max_tokens=1)
    engine.run()
    assert engine.landed[0].plan.num_tokens == 4
    assert engine.landed[-1].plan.num_tokens == 8
