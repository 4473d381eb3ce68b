"""The output of /v1/responses, item by item: what there is to say as it comes, and what there is in the end."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from .body import JsonObject
from .formats.choose import ToolFormat, new_call_id
from .formats.source import Arguments, Call, Piece, Text, Thought

Item = dict[str, Any]


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


@dataclass(slots=True)
class _Open:
    """The item that is being written. part: type of its content, empty for a call"""

    kind: type[Thought] | type[Text] | type[Call]
    item: Item
    part: str
    said: list[str] = field(default_factory=list[str])


class Items:
    """Pieces of an answer in, events out; `output` has what has been completed."""

    def __init__(self, format: ToolFormat | None) -> None:
        self.output: list[Item] = []
        self._format: ToolFormat | None = format
        self._open: _Open | None = None

    def add(self, piece: Piece) -> list[JsonObject]:
        match piece:
            case Text(text):
                return self._say(Text, text)
            case Thought(text):
                return self._say(Thought, text)
            case Call(name):
                return [*self.close(), self._begin(_call(name, self._format))]
            case Arguments(text):
                assert self._open is not None
                self._open.said.append(text)
                return [self._event("response.function_call_arguments.delta", delta=text)]

    def _say(self, kind: type[Text] | type[Thought], text: str) -> list[JsonObject]:
        events: list[JsonObject] = []
        if self._open is None or self._open.kind is not kind:
            events += self.close()
            made = _message() if kind is Text else _reasoning()
            events.append(self._begin(made))
            events.append(self._event("response.content_part.added", content_index=0, part=_part(made.part, "")))
        assert self._open is not None
        self._open.said.append(text)
        delta: JsonObject = {"content_index": 0, "delta": text}
        if kind is Text:
            return [*events, self._event("response.output_text.delta", **delta, logprobs=[])]
        return [*events, self._event("response.reasoning_text.delta", **delta)]

    def _begin(self, made: _Open) -> JsonObject:
        self._open = made
        return {"type": "response.output_item.added", "output_index": len(self.output), "item": dict(made.item)}

    def close(self, status: str = "completed") -> list[JsonObject]:
        """The item that is open is complete, or "incomplete": nothing more comes."""
        made = self._open
        if made is None:
            return []
        text = "".join(made.said)
        events: list[JsonObject] = []
        if made.kind is Call:
            made.item["arguments"] = text
            done = "response.function_call_arguments.done"
            events.append(self._event(done, arguments=text, name=made.item["name"]))
        else:
            part = _part(made.part, text)
            made.item["content"] = [part]
            more: JsonObject = {"logprobs": []} if made.kind is Text else {}
            events.append(self._event(f"response.{made.part}.done", content_index=0, text=text, **more))
            events.append(self._event("response.content_part.done", content_index=0, part=part))
        made.item["status"] = status
        place = len(self.output)
        self.output.append(made.item)
        self._open = None
        return [*events, {"type": "response.output_item.done", "output_index": place, "item": made.item}]

    def _event(self, kind: str, **fields: object) -> JsonObject:
        assert self._open is not None
        return {"type": kind, "item_id": self._open.item["id"], "output_index": len(self.output), **fields}


def _message() -> _Open:
    item: Item = {"type": "message", "id": _new_id("msg"), "role": "assistant", "status": "in_progress", "content": []}
    return _Open(Text, item, "output_text")


def _reasoning() -> _Open:
    item: Item = {"type": "reasoning", "id": _new_id("rs"), "summary": [], "content": [], "status": "in_progress"}
    return _Open(Thought, item, "reasoning_text")


def _call(name: str, format: ToolFormat | None) -> _Open:
    head = {"type": "function_call", "id": _new_id("fc"), "call_id": new_call_id(format)}
    return _Open(Call, {**head, "name": name, "arguments": "", "status": "in_progress"}, "")


def _part(kind: str, text: str) -> JsonObject:
    part: JsonObject = {"type": kind, "text": text}
    return {**part, "annotations": [], "logprobs": []} if kind == "output_text" else part
