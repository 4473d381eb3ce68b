"""Steps between the scheduler and the runner: one after the other, or each begun before the one before has ended."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from ..lang.errors import EngineError, StolonError
from .scheduler import Scheduler
from .sequence import Masks, OutOfMemory, Plan, RowResult, Runner, Step

logger = logging.getLogger(__name__)


class Constraints(Protocol):
    """What is asked about the constrained rows of steps. An exception fails the whole step."""

    def foresee(self, plan: Plan) -> None:
        """The plan is about to be launched. What rows without a `source` may draw can be found out from now on."""
        ...

    def masks(self, plan: Plan) -> Masks | None:
        """All tokens before those that the plan draws are known."""
        ...

    def advance(self, plan: Plan, results: list[RowResult]) -> None:
        """The plan was committed; results that do not count are empty. May `extend` sequences. Must not raise."""
        ...


@dataclass(slots=True)
class Landed:
    """A step that was committed."""

    plan: Plan
    results: list[RowResult]


@dataclass(slots=True)
class _Flight:
    """A step on its way. error: why it cannot go on"""

    plan: Plan
    step: Step | None = None
    error: Exception | None = None


class Pipeline:
    """Takes steps from plan to commit. A fault of a whole step ends the sequences in it, and only those.

    overlap: a turn launches one step before it waits for the one before. While that one is committed, the device is at
        work on the next, whose draws wait for the masks that follow from the commit.
    """

    def __init__(
        self, scheduler: Scheduler, runner: Runner, constraints: Constraints | None = None, *, overlap: bool = False
    ) -> None:
        self.overlap = overlap
        self._scheduler = scheduler
        self._runner = runner
        self._constraints = constraints
        self._flight: _Flight | None = None

    @property
    def in_flight(self) -> bool:
        """Whether a step was begun that has not landed."""
        return self._flight is not None

    def turn(self) -> list[Landed]:
        """Begin a step if there is something to compute, and land one if one can land."""
        before = self._flight
        flight = self._flight = self._take_off()
        landed = self._land(before)
        if flight is not None and not self._draw(flight):
            flight = self._flight = None
        if not self.overlap:
            self._flight = None
            landed += self._land(flight)
        return landed

    def land(self) -> list[Landed]:
        """Land what is under way and begin nothing."""
        flight, self._flight = self._flight, None
        return self._land(flight)

    def _take_off(self) -> _Flight | None:
        plan = self._scheduler.schedule()
        if plan is None:
            return None
        flight = _Flight(plan)
        try:
            if self._constraints is not None:
                self._constraints.foresee(plan)
            flight.step = self._runner.launch(plan)
        except Exception as error:
            flight.error = _caught(plan, error)
        return flight

    def _draw(self, flight: _Flight) -> bool:
        """What was drawn before has been committed; False if the step has failed."""
        try:
            if flight.step is not None:
                flight.step.sample(None if self._constraints is None else self._constraints.masks(flight.plan))
        except Exception as error:
            flight.error = _caught(flight.plan, error)
        if flight.error is not None:
            self._crash(flight.plan, flight.error)
        return flight.error is None

    def _land(self, flight: _Flight | None) -> list[Landed]:
        if flight is None or flight.step is None:
            return []
        try:
            results = flight.step.results()
        except Exception as error:
            self._crash(flight.plan, _caught(flight.plan, error))
            return []
        self._scheduler.commit(flight.plan, results)
        if self._constraints is not None:
            self._constraints.advance(flight.plan, results)
        return [Landed(flight.plan, results)]

    def _crash(self, plan: Plan, error: Exception) -> None:
        if isinstance(error, OutOfMemory):
            self._scheduler.retry(plan, str(error))
            return
        for sequence in self._scheduler.fail(plan, error):
            if sequence.error is error:  # raised in as many places as there are requests: to each its own
                sequence.error = as_engine_error(error)


def _caught(plan: Plan, error: Exception) -> Exception:
    """Log it, and strip it of its tracebacks, whose frames hold the step's tensors, maybe in a cycle."""
    if isinstance(error, OutOfMemory):
        logger.warning("a step of %d token(s) did not fit into memory: %s", plan.num_tokens, error)
    else:
        logger.error("a step of %d token(s) failed", plan.num_tokens, exc_info=error)
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def as_engine_error(error: Exception) -> StolonError:
    if isinstance(error, StolonError):
        return error
    fault = EngineError(f"the engine failed at this request: {error!r}")
    fault.__cause__ = error
    return fault
