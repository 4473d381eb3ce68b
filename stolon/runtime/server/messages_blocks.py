"""The content of an answer of /v1/messages, block by block: as it comes, and what there is in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .body import JsonObject, object_in
from .formats.choose import ToolFormat, new_call_id
from .formats.source import Arguments, Call, Piece, Text, Thought

Block = dict[str, Any]


@dataclass(slots=True)
class _Open:
    """said: of its text, of its thought or of the JSON of its input"""

    kind: type[Thought] | type[Text] | type[Call]
    block: Block
    said: list[str] = field(default_factory=list[str])


class Blocks:
    """Pieces of an answer in, events out; `content` has what has been completed."""

    def __init__(self, format: ToolFormat | None) -> None:
        self.content: list[Block] = []
        self._format: ToolFormat | None = format
        self._open: _Open | None = None

    def add(self, piece: Piece) -> list[JsonObject]:
        match piece:
            case Text(text):
                return self._say(Text, text)
            case Thought(text):
                return self._say(Thought, text)
            case Call(name):
                block = {"type": "tool_use", "id": new_call_id(self._format), "name": name, "input": dict[str, Any]()}
                return [*self.close(), self._begin(_Open(Call, block))]
            case Arguments(text):
                assert self._open is not None
                self._open.said.append(text)
                return [self._delta({"type": "input_json_delta", "partial_json": text})]

    def _say(self, kind: type[Text] | type[Thought], text: str) -> list[JsonObject]:
        events: list[JsonObject] = []
        if self._open is None or self._open.kind is not kind:
            events += self.close()
            empty: Block = (
                {"type": "text", "text": ""} if kind is Text else {"type": "thinking", "thinking": "", "signature": ""}
            )
            events.append(self._begin(_Open(kind, empty)))
        assert self._open is not None
        self._open.said.append(text)
        said: JsonObject = {"type": "text_delta", "text": text}
        return [*events, self._delta(said if kind is Text else {"type": "thinking_delta", "thinking": text})]

    def _begin(self, made: _Open) -> JsonObject:
        self._open = made
        return {"type": "content_block_start", "index": len(self.content), "content_block": dict(made.block)}

    def _delta(self, delta: JsonObject) -> JsonObject:
        return {"type": "content_block_delta", "index": len(self.content), "delta": delta}

    def close(self) -> list[JsonObject]:
        """The block that is open is complete."""
        made = self._open
        if made is None:
            return []
        self._open = None
        text = "".join(made.said)
        if made.kind is Call:
            self.content.append(_with_input(made.block, text))
        else:
            made.block["text" if made.kind is Text else "thinking"] = text
            self.content.append(made.block)
        return [{"type": "content_block_stop", "index": len(self.content) - 1}]


def _with_input(block: Block, text: str) -> Block:
    """The call with its input; broken input, which an object cannot hold, is text."""
    found = object_in(text)
    if found is None:
        return {"type": "text", "text": f"{block['name']}: {text}"}
    return {**block, "input": found}
