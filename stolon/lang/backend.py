"""Who answers: the contract between the language and every backend. The language calls, so the language owns it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from .constraint import Constraint
from .errors import UnsupportedError
from .prompt import Prompt
from .types import Delta, SamplingParams, Score, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can honour. The interpreter refuses the rest at the user's line, before anything is sent.

    params: names of the `SamplingParams` fields that are honoured
    constraints: kinds of `Constraint` that are honoured
    """

    params: frozenset[str]
    chat_only: bool = False  # text outside a role cannot be sent
    roles: bool = True  # can render or send roles
    # text that the program wrote before a gen, in the same assistant turn, is continued
    continue_assistant: bool = True
    score: bool = False  # log-probabilities of given options
    choose: bool = False  # can answer with exactly one of given options
    constraints: frozenset[str] = frozenset()
    constrains_after: bool = False  # also from a text on that the model says first (`Constraint.after`)
    keeps_forms: bool = False  # an answer cannot but have its form, so that nobody need check it
    refusals: tuple[tuple[str, str], ...] = ()  # (argument, why it cannot be honoured and what to do)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One generation as it leaves the language.

    constraint: the form that the text of each answer must have
    program: id of the running program (0: none); its branches share it
    width: how many sibling requests of a fork, or options of a select, come with the same prefix
    timeout_s: seconds until the answer must be whole
    """

    prompt: Prompt
    params: SamplingParams = field(default_factory=SamplingParams)
    constraint: Constraint | None = None
    program: int = 0
    width: int = 1
    priority: int = 0
    timeout_s: float | None = None


class Backend(Protocol):
    """Subclass it; `stream` and `capabilities` are all that a backend must bring.

    All methods run on the hub's event loop. Closing the iterator of `stream` (or cancelling its task) aborts the
    request at the other end. Errors are those of `lang.errors`.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Answer `request` step by step; for each index the last delta has a finish reason."""
        ...

    async def check(self, constraint: Constraint) -> None:
        """Refuse a constraint that cannot hold, before anything is generated. Raises InvalidRequest."""

    async def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> list[Score]:
        """How likely each option is after `prompt`, in the order given."""
        raise UnsupportedError(f"{type(self).__name__} cannot score options")

    async def choose(self, request: GenerateRequest, options: Sequence[str]) -> tuple[str, Usage]:
        """Answer `request` with exactly one of `options`."""
        raise UnsupportedError(f"{type(self).__name__} cannot answer with one of given options")

    async def prefill(self, prompt: Prompt) -> None:
        """Compute `prompt` now, so that requests which extend it start faster. A hint."""

    def end_program(self, program: int) -> None:
        """The program will ask no more, so what was kept for it may go. A hint; comes on any thread, must not block."""

    def render(self, prompt: Prompt) -> str | None:
        """`prompt` as the text that the model reads; None where only the server knows it."""
        return None

    def info(self) -> dict[str, object]:
        """What the backend says about itself: at least `model`."""
        return {}

    async def flush_cache(self) -> bool:
        """Forget cached prefixes; False where there is no cache to flush."""
        return False

    async def close(self) -> None:
        """Release connections, threads and memory. A second call does nothing."""


def checked_backend(backend: object) -> Backend:
    """Raises TypeError unless `backend` is one, made."""
    if isinstance(backend, type):
        raise TypeError(f"a backend is needed, got the class {backend.__name__}; make one: {backend.__name__}(...)")
    if not (hasattr(backend, "stream") and hasattr(backend, "capabilities")):
        raise TypeError(f"a backend is needed, such as Runtime('tiny') or OpenAI('gpt-4o-mini'), got {backend!r}")
    return cast("Backend", backend)
