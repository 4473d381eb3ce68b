"""A server that misbehaves, in every way that was met in the field: each has one defined, bounded outcome."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import Any

import pytest

from stolon.backends.exchange import Limits
from stolon.backends.retry import RetryPolicy
from stolon.lang.errors import (
    BackendError,
    BackendProtocolError,
    BackendRequestError,
    BackendTimeout,
    BackendUnavailable,
    OverloadedError,
    StreamTruncatedError,
)
from tests.backends.speakers import (
    SHORT,
    TEXT,
    WORDS,
    FakeClock,
    Outcome,
    Speaker,
    chat_event,
    native_event,
    outcome_of,
)
from tests.backends.upstream import Connection, Script, Upstream, event, reply, upstream

NO_JITTER = RetryPolicy(max_retries=2, jitter=0.0)


async def tried(speaker: Speaker, *scripts: Script, **options: Any) -> tuple[Outcome, Upstream, list[float]]:
    """One request to a server with these scripts: its outcome, the server after it, and the pauses between tries."""
    clock = FakeClock()
    async with upstream(*scripts, kind=speaker.kind) as server:
        backend = speaker.backend(server.origin, **{"clock": clock, "retries": NO_JITTER, **options})
        outcome = await outcome_of(backend, speaker.request())
        await backend.close()
    return outcome, server, clock.sleeps


def error_body(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", **more}}


# --- statuses -------------------------------------------------------------------------------------------------------


async def test_retry_after_is_waited_for_exactly(speaker: Speaker) -> None:
    full = reply(speaker.stream)
    busy = [reply(error_body("slow down"), 429, Retry_After="1"), reply(error_body("busy"), 503, Retry_After="7.5")]
    outcome, server, sleeps = await tried(speaker, *busy, full)
    assert (outcome.text, outcome.error, sleeps, len(server.requests)) == (TEXT, None, [1.0, 7.5], 3)


async def test_a_server_that_stays_overloaded_is_given_up_after_the_retries(speaker: Speaker) -> None:
    outcome, server, sleeps = await tried(speaker, reply(error_body("slow down"), 429, Retry_After="1"))
    assert isinstance(outcome.error, OverloadedError)
    assert outcome.error.retry_after_s == 1.0
    assert "slow down" in str(outcome.error)
    assert (sleeps, len(server.requests)) == ([1.0, 1.0], 3)


@pytest.mark.parametrize(("asked", "sleeps"), [("120", [120.0]), ("121", []), ("86400", [])])
async def test_a_wait_past_two_minutes_is_left_to_the_caller(speaker: Speaker, asked: str, sleeps: list[float]) -> None:
    scripts = reply(error_body("slow down"), 429, Retry_After=asked), reply(speaker.stream)
    outcome, _, slept = await tried(speaker, *scripts)
    assert slept == sleeps
    if not sleeps:
        assert isinstance(outcome.error, OverloadedError)
        assert outcome.error.retry_after_s == float(asked)


async def test_a_retry_after_that_is_a_date_is_understood(speaker: Speaker) -> None:
    past = reply(error_body("slow down"), 429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    outcome, _, sleeps = await tried(speaker, past, reply(speaker.stream))
    assert (outcome.text, sleeps) == (TEXT, [0.0])


@pytest.mark.parametrize("senseless", ["soon", "-1", "nan", ""])
async def test_a_senseless_retry_after_is_as_none(speaker: Speaker, senseless: str) -> None:
    scripts = reply(error_body("slow down"), 429, Retry_After=senseless), reply(speaker.stream)
    outcome, _, sleeps = await tried(speaker, *scripts)
    assert (outcome.text, sleeps) == (TEXT, [0.5])


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again_with_doubling_pauses(speaker: Speaker, status: int) -> None:
    outcome, server, sleeps = await tried(speaker, reply(error_body("no luck"), status), max_retries=2)
    assert isinstance(outcome.error, BackendError)
    assert "no luck" in str(outcome.error)
    assert (sleeps, len(server.requests)) == ([0.5, 1.0], 3)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
async def test_what_does_not_pass_is_not_tried_again(speaker: Speaker, status: int) -> None:
    outcome, server, sleeps = await tried(speaker, reply(error_body("never"), status))
    assert isinstance(outcome.error, BackendRequestError)
    assert outcome.error.status == status
    assert "never" in str(outcome.error)
    assert (sleeps, len(server.requests)) == ([], 1)


async def test_a_used_up_quota_is_not_waited_for(speaker: Speaker) -> None:
    outcome, server, _ = await tried(speaker, reply(error_body("pay", code="insufficient_quota"), 429))
    assert isinstance(outcome.error, BackendRequestError)
    assert len(server.requests) == 1


async def test_pauses_stop_doubling_and_jitter_only_shortens_them(speaker: Speaker) -> None:
    policy = RetryPolicy(max_retries=7, jitter=0.25)
    _, _, sleeps = await tried(speaker, reply(error_body("no"), 500), retries=policy)
    for slept, longest in zip(sleeps, [0.5, 1, 2, 4, 8, 8, 8], strict=True):
        assert 0.75 * longest <= slept <= longest


async def test_no_pause_leads_past_the_deadline(speaker: Speaker) -> None:
    outcome, server, sleeps = await tried(
        speaker, reply(error_body("no"), 500), retries=RetryPolicy(max_retries=50, jitter=0.0), timeout_s=10.0
    )
    assert sleeps == [0.5, 1, 2, 4]  # the next would be 8
    assert isinstance(outcome.error, BackendUnavailable)
    assert len(server.requests) == 5


async def test_the_requests_own_timeout_is_a_deadline_too(speaker: Speaker) -> None:
    async with upstream(reply(error_body("no"), 500), kind=speaker.kind) as server:
        clock = FakeClock()
        backend = speaker.backend(server.origin, clock=clock, retries=RetryPolicy(max_retries=50, jitter=0.0))
        await outcome_of(backend, speaker.request())  # asks what the server is
        before = len(clock.sleeps)
        request = speaker.request()
        object.__setattr__(request, "timeout_s", 3.0)
        await outcome_of(backend, request)
        await backend.close()
    assert clock.sleeps[before:] == [0.5, 1]


# --- answers that are none ------------------------------------------------------------------------------------------


async def test_a_web_page_is_no_answer(speaker: Speaker) -> None:
    outcome, server, _ = await tried(speaker, reply("<html>Welcome</html>", content_type="text/html"))
    assert isinstance(outcome.error, BackendProtocolError)
    assert "web page" in str(outcome.error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain"])
async def test_a_web_page_under_another_name_is_no_answer(speaker: Speaker, kind: str) -> None:
    outcome, _, _ = await tried(speaker, reply("<html>Welcome</html>\n\n", content_type=kind))
    assert isinstance(outcome.error, (BackendProtocolError, StreamTruncatedError))
    assert outcome.text == ""


async def test_an_error_object_with_status_200_is_the_error(speaker: Speaker) -> None:
    outcome, server, _ = await tried(speaker, reply(error_body("model is on fire")))
    assert isinstance(outcome.error, BackendError)
    assert "model is on fire" in str(outcome.error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [{"choices": []}, {"choices": None}, {}, {"choices": [7]}, {"choices": [{}]}])
async def test_an_answer_without_an_answer_is_an_error(speaker: Speaker, body: dict[str, Any]) -> None:
    outcome, _, _ = await tried(speaker, reply(body))
    assert isinstance(outcome.error, (BackendProtocolError, StreamTruncatedError))
    assert outcome.text == ""


@pytest.mark.parametrize("body", ["", '{"choices": [{"message": {"content": "Hel', "[" * 100_000, "\xff"])
async def test_garbled_json_is_tried_once_more(speaker: Speaker, body: str) -> None:
    garbled = reply(body.encode("latin-1"), content_type="application/json")
    outcome, server, sleeps = await tried(speaker, garbled, garbled, reply(speaker.stream))
    assert isinstance(outcome.error, BackendProtocolError)
    assert (sleeps, len(server.requests)) == ([0.5], 2)
    outcome, server, sleeps = await tried(speaker, garbled, reply(speaker.stream))
    assert (outcome.text, outcome.error, len(server.requests)) == (TEXT, None, 2)


async def test_a_stream_of_nothing_is_an_error(speaker: Speaker) -> None:
    for stream in (b"", b"\n\n", b": hello\n\n", event("[DONE]")):
        outcome, _, _ = await tried(speaker, reply(stream))
        assert isinstance(outcome.error, StreamTruncatedError)


# --- streams that go wrong ------------------------------------------------------------------------------------------


def without_finish(speaker: Speaker) -> list[bytes]:
    return [e for e in speaker.events() if not (b'"finish_reason": "' in e or b'"finish_reason": {' in e)]


async def test_done_without_a_finish_reason_is_not_the_end(speaker: Speaker) -> None:
    outcome, server, _ = await tried(speaker, reply(b"".join(without_finish(speaker))))
    assert isinstance(outcome.error, StreamTruncatedError)
    assert TEXT.startswith(outcome.text)
    assert outcome.error.text == outcome.text
    assert len(server.requests) == 1


async def test_a_finish_reason_without_done_is_the_end(speaker: Speaker) -> None:
    outcome, _, _ = await tried(speaker, reply(b"".join(speaker.events()[:-1])))
    assert (outcome.text, outcome.finished, outcome.error) == (TEXT, True, None)


@pytest.mark.parametrize("bad", [b"data: {not json\n\n", b"data: 7\n\n", b"data: []\n\n", b"data: \xff\n\n"])
async def test_an_event_that_is_no_object_ends_the_answer_with_an_error(speaker: Speaker, bad: bytes) -> None:
    events = speaker.events()
    outcome, server, _ = await tried(speaker, reply(b"".join([*events[:3], bad, *events[3:]])))
    assert isinstance(outcome.error, BackendProtocolError)
    assert TEXT.startswith(outcome.text)
    assert outcome.text
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "bad", [event(error_body("ran out of memory")), b'event: error\ndata: {"message": "ran out of memory"}\n\n']
)
async def test_an_error_event_is_the_error(speaker: Speaker, bad: bytes) -> None:
    events = speaker.events()
    outcome, server, _ = await tried(speaker, reply(b"".join([*events[:3], bad, event("[DONE]")])))
    assert isinstance(outcome.error, BackendError)
    assert "ran out of memory" in str(outcome.error)
    assert TEXT.startswith(outcome.text)
    assert len(server.requests) == 1


async def test_comments_and_blocks_without_data_are_passed_over(speaker: Speaker) -> None:
    noise = b": keep-alive\n\nevent: ping\n\nid: 7\n\nretry: 100\n\n:\n\nunknown: 1\n\n"
    outcome, _, _ = await tried(speaker, reply(noise + noise.join(speaker.events()) + noise))
    assert (outcome.text, outcome.error) == (TEXT, None)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "mixed"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
async def test_any_line_end_and_a_byte_order_mark_are_read(speaker: Speaker, end: str, bom: bytes) -> None:
    if end == "mixed":
        ends = [b"\r\n\r\n", b"\r\r", b"\n\n", b"\n\r\n"]
        blocks = [block.removesuffix(b"\n\n") + ends[n % 4] for n, block in enumerate(speaker.events())]
        stream = b"".join(blocks)
    else:
        stream = speaker.stream.replace(b"\n", end.encode())
    outcome, _, _ = await tried(speaker, reply(bom + stream))
    assert (outcome.text, outcome.error) == (TEXT, None)


async def test_characters_split_across_segments_arrive_whole(speaker: Speaker) -> None:
    async def bytewise(connection: Connection) -> None:
        await connection.head()
        start = speaker.stream.index("ö".encode()) - 3
        await connection.send(speaker.stream[:start])
        await connection.pieces(*[speaker.stream[k : k + 1] for k in range(start, start + 16)])
        await connection.send(speaker.stream[start + 16 :])

    outcome, _, _ = await tried(speaker, bytewise)
    assert (outcome.text, outcome.error) == (TEXT, None)


async def test_a_line_of_ten_megabytes_is_refused(speaker: Speaker) -> None:
    events = speaker.events()
    huge = b"data: " + b"x" * 10_000_000 + b"\n\n"
    outcome, _, _ = await tried(speaker, reply(b"".join([*events[:3], huge, *events[3:]])))
    assert isinstance(outcome.error, BackendProtocolError)
    assert "bytes" in str(outcome.error)
    assert TEXT.startswith(outcome.text)


async def test_compression_that_nobody_asked_for_is_refused_unopened(speaker: Speaker) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    before = time.monotonic()
    outcome, server, _ = await tried(speaker, reply(bomb, Content_Encoding="gzip"))
    assert isinstance(outcome.error, BackendProtocolError)
    assert "compressed" in str(outcome.error)
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert time.monotonic() - before < 5


async def test_a_compressed_refusal_is_refused_unopened(speaker: Speaker) -> None:
    outcome, _, _ = await tried(speaker, reply(gzip.compress(b"\0" * 50_000_000), 400, Content_Encoding="gzip"))
    assert isinstance(outcome.error, BackendError)


async def test_a_refusal_without_end_is_read_in_part(speaker: Speaker) -> None:
    async def endless(connection: Connection) -> None:
        await connection.head(400, "text/plain")
        while True:
            await connection.send(b"no! " * 10_000)

    outcome, _, _ = await tried(speaker, endless)
    assert isinstance(outcome.error, BackendRequestError)
    assert len(str(outcome.error)) < 3_000


async def test_an_endless_answer_is_cut_at_the_limit(speaker: Speaker) -> None:
    async def endless(connection: Connection) -> None:
        await connection.head()
        while True:
            await connection.send(b": keep-alive\n\n" * 5_000)

    outcome, _, _ = await tried(speaker, endless, limits=Limits(max_answer_bytes=1_000_000))
    assert isinstance(outcome.error, BackendProtocolError)
    assert "1,000,000 bytes" in str(outcome.error)


async def test_slow_keep_alives_do_not_hold_off_the_first_event_limit(speaker: Speaker) -> None:
    async def endless(connection: Connection) -> None:
        await connection.head()
        while True:
            await connection.send(b": keep-alive\n\n")
            await asyncio.sleep(0.02)

    outcome, server, _ = await tried(speaker, endless, limits=SHORT, clock=None, retries=RetryPolicy(max_retries=0))
    assert isinstance(outcome.error, BackendTimeout)
    assert "first event" in str(outcome.error)
    assert len(server.requests) == 1


async def test_keep_alives_in_a_stream_hold_until_the_deadline(speaker: Speaker) -> None:
    async def endless(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"".join(speaker.events()[:3]))
        while True:
            await connection.send(b": keep-alive\n\n")
            await asyncio.sleep(0.02)

    limits = Limits(between_bytes_s=0.2, total_s=0.6)
    outcome, _, _ = await tried(speaker, endless, limits=limits, clock=None)
    assert isinstance(outcome.error, BackendTimeout)
    assert "not whole after 0.6 s" in str(outcome.error)
    assert TEXT.startswith(outcome.text)
    assert outcome.text


# --- stalls ---------------------------------------------------------------------------------------------------------


async def hang(connection: Connection) -> None:
    await connection.wait_until_left()


async def test_a_stall_before_the_first_byte_is_tried_again_then_a_timeout(speaker: Speaker) -> None:
    outcome, server, sleeps = await tried(speaker, hang, limits=SHORT)
    assert isinstance(outcome.error, BackendTimeout)
    assert "first byte" in str(outcome.error)
    assert (sleeps, len(server.requests)) == ([0.5, 1.0], 3)


async def test_a_stall_between_bytes_is_a_timeout_and_not_tried_again(speaker: Speaker) -> None:
    async def stall(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"".join(speaker.events()[:3]))
        await connection.wait_until_left()

    outcome, server, _ = await tried(speaker, stall, limits=SHORT)
    assert isinstance(outcome.error, BackendTimeout)
    assert "more of the answer" in str(outcome.error)
    assert TEXT.startswith(outcome.text)
    assert outcome.text
    assert len(server.requests) == 1


async def test_a_stall_after_done_does_not_hold_the_answer_up(speaker: Speaker) -> None:
    async def stall(connection: Connection) -> None:
        await connection.head()
        await connection.send(speaker.stream)
        await connection.wait_until_left()

    began = time.monotonic()
    outcome, _, _ = await tried(speaker, stall)
    assert (outcome.text, outcome.error) == (TEXT, None)
    assert time.monotonic() - began < 3


async def test_a_port_where_nobody_listens_is_unavailable(speaker: Speaker) -> None:
    async with upstream(hang) as server:
        origin = server.origin
    clock = FakeClock()
    backend = speaker.backend(origin, clock=clock, retries=NO_JITTER)
    outcome = await outcome_of(backend, speaker.request())
    await backend.close()
    assert isinstance(outcome.error, BackendUnavailable)
    assert "no server answers" in str(outcome.error)
    assert clock.sleeps == [0.5, 1.0]


async def test_a_connection_closed_without_an_answer_is_tried_again(speaker: Speaker) -> None:
    async def slam(connection: Connection) -> None:
        connection.reset()

    async def leave(connection: Connection) -> None:
        pass

    outcome, server, sleeps = await tried(speaker, slam, leave, reply(speaker.stream))
    assert (outcome.text, outcome.error) == (TEXT, None)
    assert (sleeps, len(server.requests)) == ([0.5, 1.0], 3)


# --- redirects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_is_refused_and_the_key_stays_home(speaker: Speaker, status: int) -> None:
    async with upstream(reply(speaker.stream), kind=speaker.kind) as thief:
        target = thief.origin + "/v1/chat/completions"
        outcome, server, _ = await tried(speaker, reply("", status, Location=target))
        assert isinstance(outcome.error, BackendRequestError)
        assert outcome.error.status == status
        assert target in str(outcome.error)
        assert (len(server.requests), thief.requests) == (1, [])


async def test_a_redirect_that_keeps_method_and_origin_is_followed(speaker: Speaker) -> None:
    outcome, server, _ = await tried(speaker, reply("", 307, Location="/elsewhere"), reply(speaker.stream))
    assert (outcome.text, outcome.error) == (TEXT, None)
    first, second = server.requests
    assert second.path == "/elsewhere"
    assert second.body == first.body
    assert second.headers["authorization"] == "Bearer secret"


async def test_redirects_in_a_circle_come_to_an_end(speaker: Speaker) -> None:
    outcome, server, _ = await tried(speaker, reply("", 307, Location="/again"), max_retries=0)
    assert isinstance(outcome.error, BackendError)
    assert len(server.requests) < 100


# --- leaving --------------------------------------------------------------------------------------------------------


async def leaves(speaker: Speaker, how: str) -> Upstream:
    async def stall(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"".join(speaker.events()[:3]))
        await connection.wait_until_left()
        gone.set()

    gone = asyncio.Event()
    async with upstream(stall, kind=speaker.kind) as server:
        backend = speaker.backend(server.origin)
        if how == "close":
            stream: Any = backend.stream(speaker.request())
            await anext(stream)
            await stream.aclose()
        else:
            task = asyncio.create_task(outcome_of(backend, speaker.request()))
            await server.asked.wait()
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait_for(gone.wait(), 2)
        await backend.close()
    return server


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_whoever_leaves_a_stream_closes_its_connection(speaker: Speaker, how: str) -> None:
    server = await leaves(speaker, how)
    assert len(server.requests) == 1


async def test_cancelling_while_waiting_for_the_first_byte_closes_the_connection(speaker: Speaker) -> None:
    gone = asyncio.Event()

    async def silent(connection: Connection) -> None:
        await connection.wait_until_left()
        gone.set()

    async with upstream(silent, kind=speaker.kind) as server:
        backend = speaker.backend(server.origin)
        task = asyncio.create_task(outcome_of(backend, speaker.request()))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 2)
        await backend.close()


# --- content that makes no sense ------------------------------------------------------------------------------------


def one_more(speaker: Speaker, text: str, index: int = 0) -> bytes:
    if speaker.name in ("openai", "vllm"):
        return chat_event(text, index=index)
    count = len(WORDS)
    if speaker.name == "stolon":
        return native_event(text, [99], count + 1, index=index)
    return native_event(TEXT + text, [*range(count), 99], count + 1, index=index)


async def test_text_after_the_finish_is_an_error(speaker: Speaker) -> None:
    events = speaker.events()
    place = next(n for n, e in enumerate(events) if b'"finish_reason": "' in e or b'"finish_reason": {' in e)
    stream = b"".join([*events[: place + 1], one_more(speaker, "more"), *events[place + 1 :]])
    outcome, _, _ = await tried(speaker, reply(stream))
    assert isinstance(outcome.error, BackendProtocolError)
    assert "finished" in str(outcome.error)
    assert (outcome.text, outcome.finished) == (TEXT, False)


@pytest.mark.parametrize("index", [1, -1, 1_000_000_000])
async def test_an_answer_that_was_not_asked_for_is_an_error(speaker: Speaker, index: int) -> None:
    outcome, _, _ = await tried(speaker, reply(one_more(speaker, "x", index) + speaker.stream))
    assert isinstance(outcome.error, BackendProtocolError)
    assert outcome.text == ""


async def test_a_repeated_event_adds_nothing_where_events_can_be_told_apart(speaker: Speaker) -> None:
    events = speaker.events()
    if speaker.name in ("openai", "vllm"):  # only by their ids: a model may well say the same twice
        events = [b"id: %d\n" % n + e for n, e in enumerate(events)]
    for place in range(len(events) - 1):
        stream = b"".join([*events[: place + 1], *events[place:]])
        outcome, _, _ = await tried(speaker, reply(stream))
        assert (outcome.text, outcome.error) == (TEXT, None), place


@pytest.mark.parametrize("reason", ["content_filter", "abort", "whatever"])
async def test_an_answer_that_was_broken_off_does_not_pass_for_a_whole_one(speaker: Speaker, reason: str) -> None:
    def rewritten(e: bytes) -> bytes:
        data = json.loads(e.removeprefix(b"data: "))
        if speaker.name in ("openai", "vllm"):
            data["choices"][0]["finish_reason"] = reason
        else:
            data["meta_info"]["finish_reason"] = {"type": reason, "message": "because"}
        return event(data)

    stream = b"".join(
        rewritten(e) if b'"finish_reason": "' in e or b'"finish_reason": {' in e else e for e in speaker.events()
    )
    outcome, _, _ = await tried(speaker, reply(stream))
    assert isinstance(outcome.error, BackendError)
    assert not outcome.finished
