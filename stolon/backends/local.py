"""`Runtime`: the engine in this process."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from difflib import get_close_matches
from types import TracebackType
from typing import get_origin, get_type_hints

from ..lang.backend import Backend, Capabilities, GenerateRequest
from ..lang.constraint import KINDS, Constraint
from ..lang.errors import ChatTemplateError, ContextLengthError, InvalidRequest
from ..lang.prompt import Generated, Prompt, RoleClose, RoleOpen, Text
from ..lang.types import Delta, SamplingParams, Score
from ..runtime.chat import ChatTemplate, Turn
from ..runtime.config import EngineConfig, SchedulerConfig
from ..runtime.detokenize import Detokenizer
from ..runtime.engine import Engine
from ..runtime.limits import check_setting
from ..runtime.metrics import SchedulerStats
from ..runtime.score import first_scored
from ..runtime.tokenizer import Tokenizer, TokenRun

Part = str | TokenRun

_CAPABILITIES = Capabilities(
    params=frozenset(field.name for field in dataclasses.fields(SamplingParams)),
    score=True,
    constraints=KINDS,
    constrains_after=True,
    keeps_forms=True,
)


class Runtime(Backend):
    """A model in this process: loaded when this returns, gone when it is closed, or when the interpreter ends.

    model: folder of a checkpoint, its name at the Hugging Face hub where `hf download` has fetched it, or `tiny`, the
        built-in model; SGLang's name for it is `model_path`
    settings: fields of `EngineConfig` and `SchedulerConfig`, by their names or by those of their flags
    Raises CheckpointError if the model's files are wrong, InvalidRequest for a setting that does not exist or
        cannot have its value.
    """

    def __init__(self, model: str | None = None, *, model_path: str | None = None, **settings: object) -> None:
        path = model if model is not None else model_path
        if path is None or (model is not None and model_path is not None):
            raise InvalidRequest("name one model: Runtime('tiny'), or the folder of a checkpoint", param="model")
        self._engine = Engine(engine_config(str(path), settings))
        self._encoder = PromptEncoder(self._engine.tokenizer, self._engine.chat)
        # not a bound method: the interpreter's list of exit functions must not keep a dropped model alive
        self._at_exit = weakref.finalize(self, self._engine.shutdown)

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Answer `request`. An answer may use what is left of the context: a larger `max_tokens` is lowered to that.

        Raises ContextLengthError if nothing is left.
        """
        tokens = self._encoder.encode(request.prompt)
        deltas = self._engine.generate(
            tokens,
            self._fitting(request.params, len(tokens)),
            constraint=request.constraint,
            priority=request.priority,
            program=request.program,
            width=request.width,
            timeout_s=request.timeout_s,
        )
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta

    async def check(self, constraint: Constraint) -> None:
        await self._engine.check(constraint)

    async def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> list[Score]:
        """All options in one batch that computes what they share once.

        The scored tokens are those after the longest token prefix common to the prompt and all the prompts with an
        option, so a token that spans the border between prompt and option counts to the option.
        Without the prompt, the tokens follow the model's start token; where it has none, the first one counts 0.
        """
        lists = [self._encoder.encode(prompt.append(Text(option))) for option in options]
        start = first_scored(self._encoder.encode(prompt), lists)
        given = await self._engine.score(lists, start)
        alone: list[tuple[float, ...] | None] = [None] * len(lists)
        if unconditional:
            alone = list(await self._score_alone([tokens[start:] for tokens in lists]))
        return [
            Score(tuple(tokens[start:]), logprobs, without)
            for tokens, logprobs, without in zip(lists, given, alone, strict=True)
        ]

    async def _score_alone(self, lists: list[list[int]]) -> list[tuple[float, ...]]:
        bos = self._engine.tokenizer.bos_token_id
        if bos is not None:
            return await self._engine.score([[bos, *tokens] for tokens in lists], 1)
        filled = [index for index, tokens in enumerate(lists) if tokens]
        scores = await self._engine.score([lists[index] for index in filled], 1)
        found = dict(zip(filled, scores, strict=True))
        return [(0.0, *found[index]) if index in found else () for index in range(len(lists))]

    async def prefill(self, prompt: Prompt) -> None:
        tokens = self._encoder.encode(prompt)
        if self._engine.room(len(tokens)) >= 0:  # what cannot be computed is refused when it is asked for
            await self._engine.prefill(tokens)

    def end_program(self, program: int) -> None:
        self._engine.end_program(program)

    def render(self, prompt: Prompt) -> str:
        """The text that the model reads, control tokens spelled out. After a closed turn no answer has begun."""
        return self._engine.tokenizer.decode(self._encoder.encode_said(prompt), skip_special_tokens=False)

    def info(self) -> dict[str, object]:
        engine = self._engine
        return {"model": engine.model_name, "context_length": engine.context_length, **engine.stats()}

    def stats(self) -> SchedulerStats:
        """What the scheduler counts: requests, tokens, memory."""
        return self._engine.scheduler_stats()

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens that the model reads."""
        return list(self._encoder.encode(prompt))

    def flush(self) -> bool:
        """`flush_cache` for callers without an event loop, from any thread."""
        return self._engine.flush()

    async def flush_cache(self) -> bool:
        return await self._engine.flush_cache()

    async def close(self) -> None:
        await self._engine.close()
        self._at_exit.detach()

    def shutdown(self) -> None:
        """`close` for callers without an event loop, from any thread."""
        self._at_exit()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def _fitting(self, params: SamplingParams, length: int) -> SamplingParams:
        room = self._engine.room(length)
        if params.max_tokens <= room:
            return params
        if room < 1:
            limit = length + room
            raise ContextLengthError(
                f"the prompt has {length} tokens and the model holds {limit}, so no token can follow; "
                "shorten the prompt or raise context_length or kv_tokens",
                param="prompt",
            )
        return dataclasses.replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))


def engine_config(model_path: str, settings: dict[str, object]) -> EngineConfig:
    """Settings by field name, or by flag name in Python's spelling (`mem_fraction_static`), as a configuration.

    Raises InvalidRequest for a setting that does not exist, or a value that its flag would not take.
    """
    engine, scheduler = _names(EngineConfig), _names(SchedulerConfig)
    del engine["scheduler"]
    of_engine: dict[str, object] = {}
    of_scheduler: dict[str, object] = {}
    for name, value in settings.items():
        if name in engine:
            of_engine[engine[name]] = value
        elif name in scheduler:
            of_scheduler[scheduler[name]] = value
        else:
            close = get_close_matches(name, [*engine, *scheduler], 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InvalidRequest(f"Runtime has no setting {name!r}{hint}", param=name)
    for config, chosen in ((EngineConfig, of_engine), (SchedulerConfig, of_scheduler)):
        kinds = get_type_hints(config)
        for name, value in chosen.items():
            if get_origin(kinds[name]) is tuple and isinstance(value, str):
                chosen[name] = value = (value,)
            check_setting(name, kinds[name], value)
    return EngineConfig(
        model_path=model_path,
        scheduler=SchedulerConfig(**of_scheduler),  # pyright: ignore[reportArgumentType]
        **of_engine,  # pyright: ignore[reportArgumentType]
    )


def _names(config: type[EngineConfig] | type[SchedulerConfig]) -> dict[str, str]:
    """Every spelling of every field, and the field."""
    names: dict[str, str] = {}
    for field in dataclasses.fields(config):
        names[field.name] = field.name
        for spelling in field.metadata.get("also", ()):
            names[spelling.lstrip("-").replace("-", "_")] = field.name
    return names


class PromptEncoder:
    """Prompts to tokens. What was computed for a prompt is kept as long as the prompt lives, so branches share it.

    chat: None for a model without a chat template, which can only continue text
    """

    def __init__(self, tokenizer: Tokenizer, chat: ChatTemplate | None) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        self._inside = tokenizer.encode("a", bos=False)  # a text that has begun: some tokenizers alter its start
        self._tokens: weakref.WeakKeyDictionary[Prompt, list[int]] = weakref.WeakKeyDictionary()
        self._runs: weakref.WeakKeyDictionary[Prompt, tuple[Part, ...]] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()  # `render` may be called beside the hub

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens, to be read only. Raises ChatTemplateError where the model has no template, or it refuses."""
        with self._lock:
            found = self._tokens.get(prompt)
            if found is None:
                found = self._encode_turns(prompt) if prompt.has_roles() else self._encode_text(prompt)
                self._tokens[prompt] = found
            return found

    def encode_said(self, prompt: Prompt) -> list[int]:
        """`encode` without the start of an answer that no program has begun."""
        if prompt.open_role is not None or not isinstance(prompt.piece, RoleClose):
            return self.encode(prompt)
        with self._lock:
            return self._encode_turns(prompt, start_answer=False)

    def _encode_text(self, prompt: Prompt) -> list[int]:
        """Text without roles. No token spans the end of a generated run, so what was read up to one stays."""
        parts: list[Part] = []
        for node in reversed(_nodes(prompt)):
            here = self._parts(node)
            known = self._tokens.get(node)
            if known is not None and here and isinstance(here[-1], TokenRun):
                return self._tokenizer.encode_parts([TokenRun("", tuple(known)), *reversed(parts)], bos=False)
            parts.extend(reversed(here))
        return self._tokenizer.encode_parts(parts[::-1])

    def _encode_turns(self, prompt: Prompt, *, start_answer: bool = True) -> list[int]:
        if self._chat is None:
            raise ChatTemplateError(
                "this program has roles, but the model has no chat template; give one with "
                "Runtime(..., chat_template=FILE), or write the turns as plain text"
            )
        turns, is_open = self._turns(prompt)
        if is_open and turns[-1].role != "assistant" and not turns[-1].parts:
            raise ChatTemplateError(
                f"an answer inside an empty {turns[-1].role} turn has no start; write some text first"
            )
        return self._chat.encode_parts(turns, continue_final=is_open, start_answer=start_answer)

    def _turns(self, prompt: Prompt) -> tuple[list[Turn], bool]:
        """The turns, and whether the last one is open. What follows a closed turn outside any role is the start of an
        answer, as if it stood in an assistant turn."""
        turns: list[tuple[str, list[Part]]] = []
        is_open = answered = False
        for node in _nodes(prompt):
            match node.piece:
                case RoleOpen(role):
                    if is_open and not answered:
                        raise ChatTemplateError("text between two turns is nobody's; put it into a turn")
                    turns.append((role, []))
                    is_open = True
                case RoleClose():
                    is_open = False
                case piece:
                    if not turns:
                        raise ChatTemplateError("text before the first turn is nobody's; put it into system(...)")
                    if not is_open:
                        turns.append(("assistant", []))
                        is_open, answered = True, False
                    answered = answered or isinstance(piece, Generated)
                    turns[-1][1].extend(self._parts(node))
        return [Turn(role, tuple(parts)) for role, parts in turns], is_open

    def _parts(self, node: Prompt) -> tuple[Part, ...]:
        """What the last piece of `node` says."""
        match node.piece:
            case Text(value):
                return (value,)
            case Generated():
                found = self._runs.get(node)
                if found is None:
                    found = self._runs[node] = self._run(node.piece)
                return found
            case _:
                return ()

    def _run(self, piece: Generated) -> tuple[Part, ...]:
        """As many of the tokens as spell the text's beginning, and the rest of it as text: a stop string is cut out of
        the text but not out of the tokens, an end token is no text, and another model's tokens spell something else.
        """
        tokens = piece.tokens
        if tokens and not (min(tokens) >= 0 and max(tokens) < self._tokenizer.vocab_size):
            return (piece.value,)
        while tokens and tokens[-1] in self._tokenizer.special_ids:
            tokens = tokens[:-1]
        if self._spelled(tokens) != piece.value:
            tokens = self._spelling(tokens, piece.value)
        text = self._spelled(tokens)
        parts = (TokenRun(text, tokens), piece.value[len(text) :])
        return tuple(part for part in parts if (part if isinstance(part, str) else part.tokens))

    def _spelling(self, tokens: tuple[int, ...], text: str) -> tuple[int, ...]:
        """The longest beginning of `tokens` that spells a beginning of `text`."""
        reader = Detokenizer(self._tokenizer, self._inside)
        count = read = 0
        for token in tokens:
            new = reader.push((token,))
            if not text.startswith(new, read):
                break
            count, read = count + 1, read + len(new)
        while not text.startswith(self._spelled(tokens[:count])):  # it may end inside a character, of 4 bytes at most
            count -= 1
        return tokens[:count]

    def _spelled(self, tokens: tuple[int, ...]) -> str:
        reader = Detokenizer(self._tokenizer, self._inside)
        return reader.push(tokens) + reader.flush()


def _nodes(prompt: Prompt) -> list[Prompt]:
    """The chain, first to last, without its empty start."""
    chain: list[Prompt] = []
    here: Prompt | None = prompt
    while here is not None and here.piece is not None:
        chain.append(here)
        here = here.parent
    return chain[::-1]
