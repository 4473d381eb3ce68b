"""The one retry layer of the remote backends: what is tried again, how often and how long after."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..lang.errors import (
    BackendError,
    BackendProtocolError,
    BackendRequestError,
    BackendTimeout,
    BackendUnavailable,
    InvalidRequest,
    OverloadedError,
    StreamTruncatedError,
)
from .deadline import Clock, Deadline


class GarbledBodyError(BackendProtocolError):
    """A whole answer that is no JSON: most often a cut connection, so it is worth one more try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Waits double from `first_s` to `longest_s`, each shortened at random by up to `jitter` of itself.

    A wait that the server asks for is kept to exactly; one longer than `retry_after_cap_s` is not waited for.
    """

    max_retries: int = 2
    first_s: float = 0.5
    longest_s: float = 8.0
    jitter: float = 0.25
    retry_after_cap_s: float = 120.0

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise InvalidRequest(f"max_retries must be at least 0, got {self.max_retries}", param="max_retries")


class Retries:
    """Counts the failures of one exchange. The caller asks only while nothing has been delivered."""

    def __init__(self, policy: RetryPolicy, clock: Clock, deadline: Deadline) -> None:
        self._policy = policy
        self._clock = clock
        self._deadline = deadline
        self._failures = 0

    async def pause(self, error: BackendError) -> None:
        """Sleep until the next try is due; raises `error` when there is to be none."""
        wait_s = self._wait_s(error)
        if self._is_final(error) or wait_s is None or wait_s >= self._deadline.remaining_s():
            raise error
        self._failures += 1
        await self._clock.sleep(wait_s)

    def _is_final(self, error: BackendError) -> bool:
        if self._failures >= self._policy.max_retries:
            return True
        if isinstance(error, GarbledBodyError):
            return self._failures > 0
        if isinstance(error, BackendRequestError):
            return error.status != 409  # the one passing status that has no error class of its own
        return not isinstance(error, (OverloadedError, BackendUnavailable, BackendTimeout, StreamTruncatedError))

    def _wait_s(self, error: BackendError) -> float | None:
        policy = self._policy
        if isinstance(error, OverloadedError) and error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= policy.retry_after_cap_s else None
        longest = min(policy.first_s * 2**self._failures, policy.longest_s)
        return longest * (1 - policy.jitter * random.random())
