"""A stream cut at every position, in every way: what was delivered is the start of the answer, once, and the caller
gets all of it or an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stolon.lang.errors import StreamTruncatedError
from tests.backends.speakers import TEXT, Outcome, Speaker, outcome_of
from tests.backends.upstream import Connection, Script, reply, upstream


def closed_at(stream: bytes, cut: int) -> Script:
    """No length was announced: nothing but the content tells that something is missing."""

    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.send(stream[:cut])

    return script


def reset_at(stream: bytes, cut: int) -> Script:
    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.pieces(stream[:cut])
        connection.reset()

    return script


def chunk_broken_at(stream: bytes, cut: int) -> Script:
    async def script(connection: Connection) -> None:
        await connection.head(Transfer_Encoding="chunked")
        if stream[:cut]:
            await connection.send(b"%x\r\n%b\r\n" % (cut, stream[:cut]))

    return script


def length_broken_at(stream: bytes, cut: int) -> Script:
    async def script(connection: Connection) -> None:
        await connection.head(Content_Length=str(len(stream)))
        await connection.send(stream[:cut])

    return script


def assert_honest(outcome: Outcome, where: str) -> None:
    assert TEXT.startswith(outcome.text), where
    if outcome.error is None:
        assert outcome.text == TEXT, where
        assert outcome.finished, where
    else:
        assert not outcome.finished, where
        assert isinstance(outcome.error, StreamTruncatedError), (where, outcome.error)
        assert outcome.error.text == outcome.text, where


@pytest.mark.parametrize(
    ("cut_script", "step"), [(closed_at, 1), (reset_at, 7), (chunk_broken_at, 5), (length_broken_at, 7)]
)
async def test_a_cut_stream_is_an_error_with_the_text_so_far(
    speaker: Speaker, cut_script: Callable[[bytes, int], Script], step: int
) -> None:
    stream = speaker.stream
    if speaker.name == "vllm":
        step = 7  # the reader of "openai" over the transport of "stolon", which have every position
    async with upstream(reply(stream), kind=speaker.kind) as server:
        backend = speaker.backend(server.origin, max_retries=0)
        for cut in [*range(0, len(stream), step), len(stream)]:
            server.scripts = [cut_script(stream, cut)]
            outcome = await outcome_of(backend, speaker.request())
            assert_honest(outcome, f"cut at {cut} of {len(stream)}")
            if cut_script is not reset_at:  # a reset may overtake what was sent before it
                assert (outcome.error is None) == (cut >= speaker.whole_end), cut
        await backend.close()


async def test_a_cut_is_repaired_by_a_retry_only_before_the_first_text(speaker: Speaker) -> None:
    stream = speaker.stream
    async with upstream(reply(stream), kind=speaker.kind) as server:
        backend = speaker.backend(server.origin, max_retries=1)
        for cut in range(0, len(stream), 5):
            server.scripts, server.requests = [closed_at(stream, cut), reply(stream)], []
            outcome = await outcome_of(backend, speaker.request())
            assert_honest(outcome, f"cut at {cut}")
            repaired = len(server.requests) == 2
            assert repaired == (cut < speaker.first_text_end), cut
            assert (outcome.error is None) == (repaired or cut >= speaker.whole_end), cut
        await backend.close()
