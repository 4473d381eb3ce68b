"""What the planning half counts. Plain numbers; whoever exports them gives them names and labels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Totals since the start, in tokens where nothing else is said.

    prompt, cached: of sequences when they are first admitted; `cached` also grows where a running sequence finds that
        another one computed its next tokens
    computed: in all steps, so also what had to be computed again
    """

    steps: int = 0
    submitted: int = 0  # sequences
    finished: int = 0  # sequences, with an answer or an error
    failed: int = 0  # sequences, with an error
    prompt: int = 0
    cached: int = 0
    generated: int = 0
    forced: int = 0  # of those generated: not drawn, and computed without a step of their own
    guessed: int = 0  # rows of steps whose token was a guess
    confirmed: int = 0  # guesses that came true
    computed: int = 0
    preemptions: int = 0  # sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStats:
    """A moment of the scheduler. Sizes in KV slots, of `total` that there are.

    cached: in the tree; evictable: those of them that nobody uses; pinned: those that live programs keep
    """

    running: int
    waiting: int
    total: int
    free: int
    cached: int
    pinned: int
    evictable: int
    evicted: int  # since the start
    counters: Counters

    @property
    def hit_rate(self) -> float:
        """Cached prompt tokens / prompt tokens. Source: arXiv:2312.07104, section 3."""
        return self.counters.cached / max(self.counters.prompt, 1)
