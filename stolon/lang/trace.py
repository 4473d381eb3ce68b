"""What a run did, as it happened: recorded always, for it costs one small object per event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .interpreter import Chain
from .prompt import Generated, RoleClose, RoleOpen, Text
from .variables import Variable


@dataclass(frozen=True, slots=True)
class Step:
    """kind: text, role, gen or fork; seconds: how long a generation took, where it has ended"""

    kind: str
    text: str
    name: str | None = None
    seconds: float | None = None
    branches: tuple[Trace, ...] = ()


class Trace:
    """The steps of one state and, in its forks, of its branches."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def __iter__(self) -> Iterator[Step]:
        for event in tuple(self._chain.events):
            if isinstance(event, Variable):
                yield _generation(event)
            elif isinstance(event, tuple):
                yield Step("fork", f"{len(event)} branches", branches=tuple(map(Trace, event)))
            else:
                match event.piece:
                    case Text(value) | Generated(value):
                        yield Step("text", value)
                    case RoleOpen(role):
                        yield Step("role", role)
                    case RoleClose() | None:
                        pass

    def tree(self) -> str:
        """An indented picture, one line per step."""
        return "\n".join(_lines(self, ""))


def _generation(variable: Variable) -> Step:
    if variable.failure is not None:
        return Step("gen", f"failed: {variable.failure.label}", variable.name)
    if not variable.done:
        return Step("gen", "...", variable.name)
    seconds = variable.info.seconds if variable.info is not None else None
    return Step("gen", str(variable.value), variable.name, seconds)


def _lines(trace: Trace, indent: str) -> Iterator[str]:
    for step in trace:
        took = "" if step.seconds is None else f"  ({step.seconds:.3f} s)"
        label = step.kind if step.name is None else f"{step.kind} {step.name}"
        shown = step.text if len(step.text) <= 60 else f"{step.text[:57]}..."
        yield f"{indent}{label}: {shown!r}{took}" if step.kind in ("text", "gen") else f"{indent}{label}: {shown}"
        for number, branch in enumerate(step.branches):
            yield f"{indent}  [{number}]"
            yield from _lines(branch, f"{indent}    ")
