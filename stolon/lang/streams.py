"""Reading along while a program runs: one generator of steps, driven by threads and by event loops alike."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, Union

from .backend import Backend
from .errors import ChatTemplateError, ProgramError
from .hub import get_hub, loop_runs_here
from .info import merged, token_meta
from .interpreter import Chain
from .partial_json import NOTHING, PartialJSON
from .prompt import Generated, Prompt, RoleClose, RoleOpen, Text
from .run import Run, current_run
from .types import Delta, FinishReason
from .variables import Signal, Variable, Waitable, block, settle

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """An increment of what a program says; `name` is that of the generation it comes from, if it has one."""

    text: str
    name: str | None = None
    tokens: tuple[int, ...] = ()
    finish: FinishReason | None = None
    generated: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Wait:
    """A step that is no item: the driver waits until `until` is ready."""

    until: Waitable


Steps = Generator[Union[T, Wait], None, None]  # noqa: UP007  (subscripted at run time)


@dataclass(frozen=True, slots=True)
class When:
    """Ready when `holds` says so; asked again at each of `heard`."""

    holds: Callable[[], bool]
    heard: tuple[Signal, ...]

    def ready(self) -> bool:
        return self.holds()

    def signals(self) -> Sequence[Signal]:
        return self.heard


def wait(run: Run, waitable: Waitable, hint: str, *, lent: bool = False) -> None:
    """Wait in this thread. Ctrl-C cancels the run. Raises ProgramError where waiting would stop an event loop."""
    if waitable.ready():
        return
    refuse_to_block_a_loop(hint)
    try:
        block(waitable, lent=lent or (run.streaming and not run.body_over))
    except BaseException:
        run.cancel()
        raise


def refuse_to_block_a_loop(hint: str) -> None:
    """Raise ProgramError on the hub's thread, and in an async program on its own loop."""
    current = current_run.get()
    if get_hub().is_here() or (current is not None and current.is_async and loop_runs_here()):
        raise ProgramError(f"this would block the event loop that the program runs on; use `{hint}`")


def drive(run: Run, steps: Steps[T]) -> Generator[T, None, None]:
    """The items of `steps`, waiting in this thread. Leaving early cancels the run, unless others still read along."""
    run.readers += 1
    try:
        for step in steps:
            if isinstance(step, Wait):
                wait(run, step.until, "async for")
            else:
                yield step
    except (GeneratorExit, KeyboardInterrupt):
        _leave_early(run)
        raise
    finally:
        run.readers -= 1
        steps.close()


async def adrive(run: Run, steps: Steps[T]) -> AsyncGenerator[T, None]:
    """The same in an event loop."""
    run.readers += 1
    try:
        for step in steps:
            if isinstance(step, Wait):
                await settle(step.until)
            else:
                yield step
    except (GeneratorExit, asyncio.CancelledError):
        _leave_early(run)
        raise
    finally:
        run.readers -= 1
        steps.close()


def _leave_early(run: Run) -> None:
    if run.readers == 1:
        run.cancel()


def variable_steps(variable: Variable) -> Steps[Delta]:
    """The increments of a variable from its beginning. Raises GenerationError where it fails, after what it had."""
    variable.add_reader(1)  # from here on its log stays
    position = 0
    more = When(lambda: variable.done or position < len(variable.log or ()), (variable,))
    try:
        while True:
            # in this order: the log cannot grow after `done`
            done = variable.done
            heard = variable.heard() if done or variable.log is not None else ()
            if position < len(heard):
                yield heard[position]
                position += 1
            elif done:
                variable.result()
                return
            else:
                yield Wait(more)
    finally:
        variable.add_reader(-1)


def text_steps(variable: Variable) -> Steps[str]:
    for step in variable_steps(variable):
        if isinstance(step, Wait):
            yield step
        elif step.text:
            yield step.text


def partial_steps(variable: Variable) -> Steps[Any]:
    """What the value of a variable is so far, each time it has grown; the last one is all of it.

    Of a JSON form: data as `json.loads` gives it, each a copy. Of other forms whose value is no text: the value, once.
    """
    form = variable.form
    if form is not None and form.constraint is not None and form.constraint.kind in ("json_schema", "json_object"):
        yield from _growing(variable)
        return
    if form is None or form.read is str:
        text = ""
        for step in text_steps(variable):
            if isinstance(step, Wait):
                yield step
            else:
                text += step
                yield text
        return
    for step in text_steps(variable):
        if isinstance(step, Wait):
            yield step
    yield variable.result()


def _growing(variable: Variable) -> Steps[Any]:
    reader = PartialJSON()
    last: Any = NOTHING
    for step in text_steps(variable):
        if isinstance(step, Wait):
            yield step
            continue
        reader.feed(step)
        if reader.value is not NOTHING and reader.value != last:
            last = copy.deepcopy(reader.value)
            yield last
    reader.finish()
    if reader.value is not NOTHING and reader.value != last:
        yield copy.deepcopy(reader.value)


def meta_steps(variable: Variable) -> Steps[tuple[str, dict[str, Any]]]:
    """(text, meta) of each increment that has text; log-probabilities are those of the increment, counters run on.

    Increments without text are part of the one before, so an increment is held until the next one comes.
    """
    held: Delta | None = None
    tokens = logprobs = 0

    def shown(delta: Delta) -> tuple[str, dict[str, Any]]:
        nonlocal tokens, logprobs
        logprobs += len(delta.logprobs or ())
        tokens += len(delta.tokens) or len(delta.logprobs or ())
        meta: dict[str, Any] = {"completion_tokens": tokens}
        if delta.logprobs is not None:
            with_text = variable.text_in_logprobs
            meta |= token_meta(delta.logprobs, "output", with_text) | {"output_token_logprobs_length": logprobs}
        if delta.finish is not None:
            meta["finish_reason"] = {"type": delta.finish}
        return delta.text, meta

    for step in variable_steps(variable):
        if isinstance(step, Wait):
            yield step
        elif held is None:
            held = step
        elif step.text and held.text:
            yield shown(held)
            held = step
        else:
            held = merged([held, step])
    if held is not None and held.text:
        yield shown(held)


def piece_steps(chain: Chain, render: Callable[[Prompt], str | None] | None = None) -> Steps[Piece]:
    """Everything that a chain says, from its beginning to the end of its run."""
    transcript = Transcript(render)
    position = 0
    while True:
        if position < len(chain.events):
            event = chain.events[position]
            position += 1
            if isinstance(event, Prompt):
                yield from _written(transcript.after(event))
            elif isinstance(event, Variable):
                yield from _written(transcript.held())
                yield from _generated(event, transcript)
        elif chain.has_ended():
            if position >= len(chain.events):
                yield from _written(transcript.held())
                return
        else:
            yield Wait(When(lambda: chain.has_ended() or position < len(chain.events), (chain, chain.run)))  # noqa: B023


def _written(text: str) -> Steps[Piece]:
    if text:
        yield Piece(text)


def _generated(variable: Variable, transcript: Transcript) -> Steps[Piece]:
    for step in variable_steps(variable):
        if isinstance(step, Wait):
            yield step
        elif step.text or step.finish:
            transcript.add(step.text)
            yield Piece(step.text, variable.name, tuple(step.tokens), step.finish, generated=True)


class Transcript:
    """The text of a prompt while it grows, as increments. `render`, if given, knows what the model reads."""

    def __init__(self, render: Callable[[Prompt], str | None] | None) -> None:
        self._render = render
        self._shown = ""
        self._held = ""  # in plain words

    def add(self, text: str) -> None:
        self._shown += text

    def after(self, prompt: Prompt) -> str:
        """What came new with the last piece of `prompt`; it is held back while no template can write it."""
        self._held += _plain_piece(prompt)
        if self._render is not None:
            try:
                whole = self._render(prompt)
            except ChatTemplateError:  # a turn without its first text, or a system turn without a user's
                return ""
            # a chat template may write a turn anew when the next one begins; then the piece itself must do
            if whole is not None and whole.startswith(self._shown):
                self._held = whole[len(self._shown) :]
        return self.held()

    def held(self) -> str:
        """What was held back; nothing is from here on."""
        text, self._held = self._held, ""
        self._shown += text
        return text


def _plain_piece(prompt: Prompt) -> str:
    match prompt.piece:
        case Text(value) | Generated(value):
            return value
        case RoleOpen(role):
            return f"{role}: "
        case RoleClose():
            return "\n"
        case None:
            return ""


def renderer(backend: Backend) -> Callable[[Prompt], str | None] | None:
    """`backend.render`, called on the hub as the contract says; None where the backend has none of its own."""
    if type(backend).render is Backend.render:
        return None

    async def on_the_hub(prompt: Prompt) -> str | None:
        return backend.render(prompt)

    def render(prompt: Prompt) -> str | None:
        hub = get_hub()
        return backend.render(prompt) if hub.is_here() else hub.call(on_the_hub(prompt))

    return render


def transcript(backend: Backend, prompt: Prompt) -> str:
    """All of `prompt` as text: what the model reads, where the backend knows it, else the turns in plain words."""
    render = renderer(backend)
    whole = None if render is None else render(prompt)
    if whole is not None:
        return whole
    parts: list[str] = []
    here: Prompt | None = prompt
    while here is not None:
        parts.append(_plain_piece(here))
        here = here.parent
    return "".join(reversed(parts))
