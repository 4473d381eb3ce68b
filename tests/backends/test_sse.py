"""The parser of server-sent events against a naive one that sees the whole stream at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stolon.backends.sse import ServerEvent, SSEParser
from stolon.lang.errors import BackendProtocolError

LIMIT = 1 << 20


def parsed(*chunks: bytes, limit: int = LIMIT) -> list[ServerEvent]:
    parser = SSEParser(limit)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def naively_parsed(stream: bytes) -> list[ServerEvent]:
    """The whole stream as text, line by line."""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events: list[ServerEvent] = []
    fields: dict[str, list[str]] = {}
    for line in lines[:-1]:  # what follows the last line end is unfinished
        if line:
            name, _, value = line.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
            continue
        if "data" in fields:
            names = {name: fields[name][-1].encode() for name in ("id", "event") if name in fields}
            events.append(ServerEvent("\n".join(fields["data"]).encode(), names.get("id"), names.get("event")))
        fields = {}
    return events


def cut_into(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


LINES = st.one_of(
    st.sampled_from(
        ["", "", "data: {}", "data:x", "data", "data:  two", ": comment", ":", "event: ping", "id: 7", "retry: 5"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8).map(lambda text: "data: " + text),
)


@settings(max_examples=300, deadline=None)
@given(
    st.booleans(),
    st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\r"])), max_size=20),
    st.lists(st.integers(0)),
)
def test_the_boundaries_of_chunks_change_nothing(bom: bool, lines: list[tuple[str, str]], cuts: list[int]) -> None:
    stream = b"\xef\xbb\xbf" * bom + "".join(line + end for line, end in lines).encode()
    assert parsed(*cut_into(stream, cuts)) == naively_parsed(stream)


class SSEMachine(RuleBasedStateMachine):
    """Feeds a parser piece by piece, and at every moment it has told exactly the events that are complete."""

    def __init__(self) -> None:
        super().__init__()
        self.parser = SSEParser(LIMIT)
        self.sent = b""
        self.told: list[ServerEvent] = []

    def send(self, piece: bytes) -> None:
        self.sent += piece
        self.told += self.parser.feed(piece)

    @rule(text=st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=6))
    def field(self, text: str) -> None:
        self.send(f"data: {text}".encode())

    @rule(name=st.sampled_from(["id: 1", "event: error", "retry: 3", ": keep-alive", "unknown: 1", "data"]))
    def other_line(self, name: str) -> None:
        self.send(name.encode())

    @rule(end=st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r"]))
    def line_end(self, end: bytes) -> None:
        self.send(end)

    @rule(text=st.sampled_from("ö😀日"))
    def byte_by_byte(self, text: str) -> None:
        for byte in b"data:" + text.encode() + b"\n\n":
            self.send(bytes([byte]))

    @rule()
    def nothing(self) -> None:
        self.send(b"")

    @invariant()
    def all_complete_events_were_told(self) -> None:
        assert self.told == naively_parsed(self.sent)


SSEMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestSSEMachine = SSEMachine.TestCase


def test_an_event_is_told_with_the_byte_that_completes_it() -> None:
    parser = SSEParser(LIMIT)
    stream = b"data: a\r\n\r\ndata: b\n\n"
    told = [len(parser.feed(stream[k : k + 1])) for k in range(len(stream))]
    assert [k for k, events in enumerate(told) if events] == [9, 19]  # the CR of the empty line, the second LF


def test_an_unfinished_event_is_never_told() -> None:
    parser = SSEParser(LIMIT)
    assert parser.feed(b"data: whole\n\ndata: ha") == [ServerEvent(b"whole")]
    assert parser.feed(b"lf\n") == []


@pytest.mark.parametrize("chunk", [1 << 20, 4096])
def test_a_line_past_the_limit_is_an_error_before_it_is_all_kept(chunk: int) -> None:
    parser = SSEParser(100_000)
    pieces = itertools.chain([b"data: "], itertools.repeat(b"x" * chunk))
    with pytest.raises(BackendProtocolError, match="100,000 bytes"):
        parsed_all(parser, itertools.islice(pieces, 1 + 100_000 // chunk + 1))


def parsed_all(parser: SSEParser, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        parser.feed(piece)


def test_many_lines_of_one_event_count_together() -> None:
    with pytest.raises(BackendProtocolError, match="1,000 bytes"):
        parsed(b"data: 0123456789\n" * 200, limit=1000)


def test_comments_take_no_room() -> None:
    assert parsed(*[b": keep-alive\n\n"] * 5000, b"data: x\n\n", limit=100) == [ServerEvent(b"x")]
