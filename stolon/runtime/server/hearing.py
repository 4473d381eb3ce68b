"""Answers with thoughts and calls told apart, whole or as they come."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from ...lang.types import Delta
from .answers import Question, Reply
from .formats.choose import Reading, ToolFormat, new_call_id
from .formats.source import Arguments, Call, Piece, Text, Thought
from .service import Engine


@dataclass(frozen=True, slots=True)
class SpokenCall:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Spoken:
    """One complete answer.

    pieces: in their order; text, thought and calls are made of them
    thinking_tokens: how many tokens came before the first word or call
    """

    pieces: list[Piece]
    text: str
    thought: str
    calls: list[SpokenCall]
    thinking_tokens: int

    @classmethod
    def of(cls, pieces: list[Piece], format: ToolFormat | None, thinking_tokens: int) -> Spoken:
        made: list[tuple[str, list[str]]] = []
        for piece in pieces:
            if isinstance(piece, Call):
                made.append((piece.name, []))
            elif isinstance(piece, Arguments):
                made[-1][1].append(piece.text)
        return cls(
            pieces,
            "".join(piece.text for piece in pieces if isinstance(piece, Text)),
            "".join(piece.text for piece in pieces if isinstance(piece, Thought)),
            [SpokenCall(new_call_id(format), name, "".join(parts)) for name, parts in made],
            thinking_tokens,
        )


class Hearing:
    """Of one answer: deltas go in, pieces come out.

    parallel: more than one call may come out; otherwise the answer ends with the first
    in_pieces: thoughts come out as they come, else in one piece at their end
    """

    def __init__(self, reading: Reading, *, parallel: bool = True, in_pieces: bool = True) -> None:
        self._parser = reading.parser()
        self._parallel = parallel
        self._in_pieces = in_pieces
        self._thinks = reading.thinks
        self._thought: list[str] = []
        self._is_over = False
        self.calls = 0
        self.thinking_tokens = 0

    def hear(self, delta: Delta) -> list[Piece]:
        pieces = self._parser.feed(delta.text)
        if delta.finish is not None:
            pieces += self._parser.finish()
        if self._thinks:
            self._thinks = all(isinstance(piece, Thought) for piece in pieces)
            self.thinking_tokens += len(delta.tokens) if self._thinks else 0
        if not self._in_pieces:
            pieces = self._gathered(pieces, is_last=delta.finish is not None)
        return self._within(pieces)

    def _gathered(self, pieces: Sequence[Piece], *, is_last: bool) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, Thought):
                self._thought.append(piece.text)
                continue
            self._end_thought(found)
            found.append(piece)
        if is_last:
            self._end_thought(found)
        return found

    def _end_thought(self, found: list[Piece]) -> None:
        if self._thought:
            found.append(Thought("".join(self._thought)))
            self._thought = []

    def _within(self, pieces: list[Piece]) -> list[Piece]:
        """Without what comes after the one call where there may be only one."""
        for place, piece in enumerate(pieces):
            if self._is_over or (self.calls and not self._parallel and not isinstance(piece, Arguments)):
                self._is_over = True
                return pieces[:place]
            self.calls += isinstance(piece, Call)
        return pieces


async def listen(
    engine: Engine, question: Question, reading: Reading, *, parallel: bool = True
) -> tuple[Reply, list[Spoken]]:
    """The complete answers."""
    reply = Reply.to(question)
    hearings = [] if reading.is_plain else [Hearing(reading, parallel=parallel) for _ in reply.answers]
    pieces: list[list[Piece]] = [[] for _ in reply.answers]
    async with aclosing(question.ask(engine)) as deltas:
        async for delta in deltas:
            reply.add(delta)
            if hearings:
                pieces[delta.index] += hearings[delta.index].hear(delta)
    if not hearings:
        texts = [answer.text for answer in reply.answers]
        return reply, [Spoken([Text(text)] if text else [], text, "", [], 0) for text in texts]
    return reply, [
        Spoken.of(each, reading.tools, hearing.thinking_tokens) for each, hearing in zip(pieces, hearings, strict=True)
    ]
