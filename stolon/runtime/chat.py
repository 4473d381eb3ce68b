"""Conversations to tokens: the checkpoint's chat template, and what people wrote kept apart from its marks.

A control token's spelling inside a content must not become that token. So before rendering, each such spelling is
broken by a private character; the rendering is then cut at the control tokens that are still whole, which are the
template's own, the private character is taken out again and the plain runs are encoded as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..lang.errors import ChatTemplateError, CheckpointError
from .chat_cache import RunCache
from .chat_render import ChatRenderer, probe
from .tokenizer import Place, Tokenizer, TokenRun, check_text, joined

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]

_REASONING = ("reasoning_content", "thinking", "reasoning")
_PRIVATE = range(0xE000, 0xF900)
_FIRST_SLOT = 0xF0000  # placeholders of generated runs; plane 15 holds 65,534 of them


@dataclass(frozen=True, slots=True)
class Turn:
    """A message whose content is text and runs that a model generated earlier."""

    role: str
    parts: tuple[str | TokenRun, ...]

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


class ChatTemplate:
    """How one model reads a conversation. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, sources: Mapping[str, str]) -> None:
        """sources: "default", and possibly "tool_use" for requests with tools"""
        self._tokenizer = tokenizer
        self.source = "\n".join(sources.values())
        self._renderers = {name: ChatRenderer(source) for name, source in sources.items()}
        self._cache = RunCache()

    @property
    def takes_tools(self) -> bool:
        """Whether a template speaks of tools: otherwise a model would never see them."""
        return any("tools" in renderer.variables for renderer in self._renderers.values())

    @classmethod
    def load(cls, tokenizer: Tokenizer, directory: Path, override: Path | None) -> ChatTemplate | None:
        """The operator's template (`override`), else the checkpoint's, else None: there is no generic one.

        Raises CheckpointError if it cannot be read or compiled, or fails a trial in a child process (see `probe`).
        """
        sources = tokenizer.chat_templates
        if override is not None:
            try:
                sources = {"default": override.read_text(encoding="utf-8")}
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(f"the chat template {override} cannot be read: {error}") from error
        if not sources:
            return None
        where = override or directory
        if "default" not in sources:
            raise CheckpointError(
                f"{where} has chat templates {sorted(sources)} but none called default; name one with --chat-template"
            )
        try:
            used = {name: sources[name] for name in ("default", "tool_use") if name in sources}
            for source in used.values():
                probe(source, tokenizer.named_tokens)
            return cls(tokenizer, used)
        except ChatTemplateError as error:
            raise CheckpointError(f"{where}: {error}") from error

    def render(self, messages: Messages, *, tools: Tools | None = None, continue_final: bool = False) -> str:
        """The conversation as text, with the start of an answer; or with the last message left open.

        Raises ChatTemplateError if the template refuses the messages, InvalidRequest for unpaired surrogates.
        """
        _check_texts([messages, tools])
        return self._render(messages, tools, continue_final)

    def encode(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        continue_final: bool = False,
        start_answer: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The same as tokens. What stands in a content never becomes a control token.

        start_answer: False leaves out the start of an answer after a conversation whose last message has ended
        variables: further ones of the template, which `messages`, `tools` and the like are not
        """
        mark = self._mark_for(_check_texts([messages, tools, variables]))
        parts = self._broken(messages, mark), self._broken(tools, mark)
        text = self._render(*parts, continue_final, start_answer=start_answer, variables=self._broken(variables, mark))
        return self._encode_rendered(text, mark, {})

    def encode_parts(
        self,
        turns: Sequence[Turn],
        *,
        continue_final: bool,
        start_answer: bool = True,
        tools: Tools | None = None,
    ) -> list[int]:
        """Like `encode`, but generated runs keep their tokens, so that what was computed for them is found again.

        If the template leaves a run out, repeats or changes it, all runs are read as text; so is each run whose
        tokens do not spell its text, and each that ends a thought.
        """
        plain = [{"role": turn.role, "content": turn.text} for turn in turns]
        texts = _check_texts([plain, tools])
        slots: dict[str, TokenRun] = {}
        slotted = [{"role": turn.role, "content": self._content(turn, slots, texts)} for turn in turns]
        mark = self._mark_for(texts)
        if slots:
            shown = self._broken(tools, mark)
            text = self._render(self._broken(slotted, mark), shown, continue_final, start_answer=start_answer)
            whole = self._render(self._broken(plain, mark), shown, continue_final, start_answer=start_answer)
            if _says_the_same(text, slots, whole):
                return self._encode_rendered(text, mark, slots)
        return self.encode(plain, tools=tools, continue_final=continue_final, start_answer=start_answer)

    def _content(self, turn: Turn, slots: dict[str, TokenRun], texts: Sequence[str]) -> str:
        """The turn's content with a private character for each run that may keep its tokens; fills `slots`."""
        content: list[str] = []
        for part in joined(turn.parts):
            if isinstance(part, TokenRun) and self._keeps(part):
                slot = chr(_FIRST_SLOT + len(slots))
                if not any(slot in text for text in texts):
                    slots[slot] = part
                    content.append(slot)
                    continue
            content.append(part if isinstance(part, str) else part.text)
        return "".join(content)

    def _keeps(self, run: TokenRun) -> bool:
        # templates look for a thought's end and cut there, which they cannot do inside a placeholder
        if "</think>" in run.text:
            return False
        ids = self._without_end(run)
        spelled = b"".join(map(self._tokenizer.token_bytes, ids)).decode(errors="replace")
        return spelled == run.text

    def _without_end(self, run: TokenRun) -> tuple[int, ...]:
        """The run without the token that ended it: the template writes its own."""
        ids = run.tokens
        while ids and ids[-1] in self._tokenizer.eos_ids and ids[-1] in self._tokenizer.special_ids:
            ids = ids[:-1]
        return ids

    def _render(
        self,
        messages: Messages,
        tools: Tools | None,
        continue_final: bool,
        *,
        start_answer: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        if not messages:
            raise ChatTemplateError("messages must not be empty")
        rows = [_normal(message) for message in messages]
        if continue_final and not rows[-1].get("content"):
            # an answer that has not begun: the template starts it
            rows, continue_final, start_answer = rows[:-1], False, True
        end = ""
        if continue_final:
            if not isinstance(rows[-1].get("content"), str):
                raise ChatTemplateError("the last message has no text to continue")
            end = _unused(_texts_of([rows, tools]), self.source)
            rows[-1]["content"] += end
        renderer = self._renderers["tool_use" if tools and "tool_use" in self._renderers else "default"]
        text = renderer.render(
            rows,
            tools=tools,
            add_generation_prompt=start_answer and not continue_final,
            named_tokens={**(variables or {}), **self._tokenizer.named_tokens},
        )
        if not end:
            return text
        if end not in text:
            raise ChatTemplateError("the chat template leaves out the last message, so it cannot be continued")
        return text[: text.rindex(end)]

    def _mark_for(self, texts: Sequence[str]) -> str:
        """A character to break control tokens with; empty if no text spells one, or begins to at its end."""
        control = self._tokenizer.control
        if any(control.pattern.search(text) or control.begins_at_end(text) for text in texts):
            return _unused(texts, self.source)
        return ""

    def _broken(self, value: Any, mark: str) -> Any:
        """JSON data in which no string spells a control token, alone or together with what is written after it."""
        if not mark:
            return value
        match value:
            case str():
                return self._tokenizer.control.broken(value, mark)
            case Mapping():
                rows = cast("Mapping[Any, Any]", value)
                return {self._broken(key, mark): self._broken(item, mark) for key, item in rows.items()}
            case list() | tuple():
                return [self._broken(item, mark) for item in cast("Sequence[Any]", value)]
            case _:
                return value

    def _encode_rendered(self, text: str, mark: str, slots: Mapping[str, TokenRun]) -> list[int]:
        ids: list[int] = []
        place: Place = "first"
        for piece in self._pieces(text, mark, slots):
            if isinstance(piece, str):
                ids.extend(self._cache.tokens(piece, place, self._tokenizer.encode_run))
            elif isinstance(piece, int):
                ids.append(piece)
                place = "after_control"
            else:
                ids.extend(self._without_end(piece))
                place = "inside"
        return ids

    def _pieces(self, text: str, mark: str, slots: Mapping[str, TokenRun]) -> Iterator[str | int | TokenRun]:
        """The template's control tokens, plain runs (never empty, without marks) and generated runs, in order."""
        for stretch in re.split(f"([{''.join(slots)}])", text) if slots else [text]:
            if stretch in slots:
                yield slots[stretch]
                continue
            for run in self._tokenizer.control.split(stretch):
                if isinstance(run, int):
                    yield run
                elif plain := _unmarked(run, mark):
                    yield plain


def _normal(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates expect it: no None values, and reasoning under its usual names."""
    row = {key: value for key, value in message.items() if value is not None}
    reasoning = next((row[key] for key in _REASONING if key in row), None)
    return row if reasoning is None else {"thinking": reasoning, **row, "reasoning_content": reasoning}


def _says_the_same(text: str, slots: Mapping[str, TokenRun], whole: str) -> bool:
    """Whether `text` with its slots filled is `whole`, but for white space that a template trims."""
    places = [char for char in text if char in slots]
    if places != list(slots):
        return False
    filled = re.sub(f"[{''.join(slots)}]", lambda slot: slots[slot[0]].text, text)
    return "".join(filled.split()) == "".join(whole.split())


def _texts_of(value: Any) -> Iterator[str]:
    """Every string in JSON data, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            yield from _texts_of(key)
            yield from _texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in cast("Sequence[Any]", value):
            yield from _texts_of(item)


def _check_texts(value: Any) -> list[str]:
    """Every string in JSON data; raises InvalidRequest if one cannot be written as UTF-8."""
    texts = list(_texts_of(value))
    for text in texts:
        check_text(text, "messages")
    return texts


def _unused(texts: Iterable[str], also: str) -> str:
    """A private character that stands nowhere, as itself or as a JSON escape."""
    seen = "".join([*texts, also])
    for code in _PRIVATE:
        if chr(code) not in seen and f"u{code:04x}" not in seen:
            return chr(code)
    raise ChatTemplateError("the messages hold every private character; leave some out")


def _unmarked(text: str, mark: str) -> str:
    # a template may have written it as a JSON escape
    return text.replace(mark, "").replace(f"\\u{ord(mark):04x}", "") if mark else text
