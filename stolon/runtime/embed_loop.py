"""The embedding engine's thread: a queue of texts, computed one packed batch after another."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..lang.errors import EngineClosedError, EngineError, OverloadedError, StolonError
from .loop import Heartbeat
from .packed import PackedModel, Tokens

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class _Call:
    """What one caller waits for. `vectors` fills up batch by batch; `future` belongs to the caller's event loop."""

    texts: Sequence[Tokens]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Vectors]
    vectors: Vectors
    missing: int
    is_over: bool = False

    def end(self, outcome: Vectors | StolonError) -> None:
        """Tell the caller, once."""
        self.is_over = True

        def tell() -> None:
            if self.future.done():
                return
            if isinstance(outcome, StolonError):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)

        try:
            self.loop.call_soon_threadsafe(tell)
        except RuntimeError:  # that loop is closed: nobody waits any more
            return


@dataclass(slots=True)
class EmbeddingCounters:
    """Totals since the start. computed: tokens"""

    steps: int = 0
    submitted: int = 0  # texts
    finished: int = 0  # texts, with a vector or an error
    failed: int = 0  # texts, with an error
    computed: int = 0


@dataclass(slots=True)
class _Queue:
    """Texts that wait, in the order in which they came: the call and the place in it."""

    texts: deque[tuple[_Call, int]] = field(default_factory=deque[tuple[_Call, int]])

    def take(self, budget: int) -> list[tuple[_Call, int]]:
        """The next batch: as many texts as the budget holds, at least one. Those of calls that are over are dropped."""
        batch: list[tuple[_Call, int]] = []
        tokens = 0
        while self.texts:
            call, place = self.texts[0]
            if not call.is_over:
                length = len(call.texts[place].ids)
                if batch and tokens + length > budget:
                    break
                batch.append((call, place))
                tokens += length
            self.texts.popleft()
        return batch

    def forget_the_dead(self) -> None:
        """Drop the texts of calls that are over."""
        self.texts = deque((call, place) for call, place in self.texts if not call.is_over)


class EmbeddingThread:
    """Computes batches while texts wait, and sleeps while none does. All methods may be called from any thread."""

    def __init__(self, model: PackedModel, *, token_budget: int, most_waiting: int) -> None:
        """token_budget: of one batch; most_waiting: texts"""
        self._model = model
        self._budget = token_budget
        self._most_waiting = most_waiting
        self._queue = _Queue()
        self._wake = threading.Condition()
        self._counters = EmbeddingCounters()
        self._running: list[tuple[_Call, int]] = []
        self._at_s = time.monotonic()
        self._refuses = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="stolon-embed", daemon=True)
        self._thread.start()

    @property
    def heartbeat(self) -> Heartbeat:
        busy, at_s = bool(self._running), self._at_s
        alive = self._thread.is_alive() and not self._refuses
        return Heartbeat(alive, self._counters.steps, at_s if busy else time.monotonic(), busy)

    def stats(self) -> dict[str, object]:
        counted = {name: getattr(self._counters, name) for name in EmbeddingCounters.__slots__}
        return {
            **counted,
            "running": len(self._running),
            "waiting": len(self._queue.texts),
            "alive": self.heartbeat.alive,
        }

    async def vectors(self, texts: Sequence[Tokens]) -> Vectors:
        """float32 [texts, width]; cancelling ends the work. Raises what `submit` raises, and EngineError."""
        loop = asyncio.get_running_loop()
        vectors = np.empty((len(texts), self._model.width), np.float32)
        call = _Call(texts, loop, loop.create_future(), vectors, len(texts))
        self._submit(call)
        try:
            return await call.future
        finally:
            call.is_over = True

    def _submit(self, call: _Call) -> None:
        """Raises OverloadedError where texts wait already and these would be too many; EngineClosedError at the end."""
        with self._wake:
            if self._refuses:
                raise EngineClosedError("the engine has been closed; make a new one")
            waiting = len(self._queue.texts)
            if waiting and waiting + len(call.texts) > self._most_waiting:
                self._queue.forget_the_dead()
                waiting = len(self._queue.texts)
            if waiting and waiting + len(call.texts) > self._most_waiting:
                raise OverloadedError(f"{waiting} texts wait already, and {self._most_waiting} may", retry_after_s=1)
            self._counters.submitted += len(call.texts)
            self._queue.texts.extend((call, place) for place in range(len(call.texts)))
            self._wake.notify_all()

    def stop(self, drain_s: float = 0.0) -> None:
        """Take nothing more, give what waits `drain_s`, end the rest with an EngineClosedError, then the thread."""
        with self._wake:
            self._refuses = True
            self._wake.wait_for(lambda: self._stopping or not (self._queue.texts or self._running), drain_s)
            self._stopping = True
            self._wake.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            self._compute(batch)
            with self._wake:
                self._running = []
        for call, _ in self._queue.texts:
            if not call.is_over:
                call.end(EngineClosedError("the engine was closed before this request ended"))

    def _take(self) -> list[tuple[_Call, int]]:
        """The next batch; blocks while there is none. Empty: stop."""
        with self._wake:
            while not self._stopping:
                self._running = self._queue.take(self._budget)
                if self._running:
                    self._at_s = time.monotonic()
                    return self._running
                self._wake.notify_all()  # whoever waits for the last text
                self._wake.wait()
            return []

    def _compute(self, batch: list[tuple[_Call, int]]) -> None:
        texts = [call.texts[place] for call, place in batch]
        try:
            vectors: Vectors = self._model.vectors(texts).numpy()
        except Exception as error:
            if len(batch) > 1:  # whoever is at fault must not harm the others
                for text in batch:
                    self._compute([text])
                return
            logger.exception("a text of %d tokens failed", len(texts[0].ids))
            fault = EngineError(f"the engine failed at this request: {error!r}")
            fault.__cause__ = error
            self._fail(batch[0][0], fault)
            return
        self._counters.steps += 1
        self._counters.computed += sum(len(text.ids) for text in texts)
        are_numbers = [bool(np.isfinite(vector).all()) for vector in vectors]
        for (call, place), vector, is_number in zip(batch, vectors, are_numbers, strict=True):
            if call.is_over:
                self._counters.finished += 1
            elif not is_number:
                self._fail(call, EngineError("the model's vector is not numbers (NaN or infinity)", code="nan_vector"))
            else:
                self._keep(call, place, vector)

    def _keep(self, call: _Call, place: int, vector: Vectors) -> None:
        call.vectors[place] = vector
        call.missing -= 1
        self._counters.finished += 1
        if not call.missing:
            call.end(call.vectors)

    def _fail(self, call: _Call, error: StolonError) -> None:
        self._counters.failed += call.missing
        self._counters.finished += call.missing
        call.end(error)
