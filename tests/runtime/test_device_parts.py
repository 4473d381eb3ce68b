"""The parts of a device's step, each beside something simpler that does the same."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file

from stolon.kernels.drawing import Draws, Penalties
from stolon.kernels.reference_sample import scale_logits
from stolon.lang.errors import CheckpointError, InvalidRequest
from stolon.lang.types import SamplingParams
from stolon.runtime.accelerator import HostAccelerator, Marker, cuda_accelerator
from stolon.runtime.device_masks import MaskStaging
from stolon.runtime.device_penalties import CountLine, TokenCounts
from stolon.runtime.graphs import DecodeGraphs, bucket_sizes
from stolon.runtime.sampler import sample
from stolon.runtime.sequence import Masks, Row, Sequence
from stolon.runtime.slot_table import SlotTable
from stolon.runtime.staging import DeviceArrays, Layout, Outbox, Staging
from stolon.runtime.weights import Checkpoint
from stolon.runtime.weights_random import RandomWeights
from stolon.runtime.weights_upload import Uploader


def sequence(id: int, tokens: list[int], num_prompt: int, **params: Any) -> Sequence:
    return Sequence(
        id=id,
        tokens=array("i", tokens),
        num_prompt=num_prompt,
        params=SamplingParams(**params),
        seed=0,
        slots=np.empty(64, np.int32),
    )


def send(staging: Staging, arrays: dict[str, NDArray[np.int32]]) -> DeviceArrays:
    parcel = staging.open(Layout({name: array.size for name, array in arrays.items()}))
    for name, numbers in arrays.items():
        parcel.host.int32(name)[:] = numbers
    parcel.send()
    return parcel.device


# -- staging


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9), min_size=1, max_size=5))
def test_what_is_put_into_a_parcel_is_what_arrives(arrays: list[list[int]]) -> None:
    staging = Staging(HostAccelerator(), 16)  # some layouts do not fit, and get buffers of their own
    parcel = staging.open(Layout({str(i): len(numbers) for i, numbers in enumerate(arrays)}))
    for i, numbers in enumerate(arrays):
        parcel.host.int32(str(i))[:] = numbers
    parcel.send()
    assert [parcel.device.int32(str(i)).tolist() for i in range(len(arrays))] == arrays


def test_arrays_begin_where_a_wide_load_can_and_floats_keep_their_bits() -> None:
    layout = Layout({"a": 1, "b": 5, "c": 2})
    assert [place.start % 4 for place in layout.places.values()] == [0, 0, 0]
    parcel = Staging(HostAccelerator(), 64).open(layout)
    parcel.host.float32("c")[:] = [0.1, -np.inf]
    parcel.send()
    assert parcel.device.float32("c").tolist() == [np.float32(0.1), -np.inf]


class Queue(HostAccelerator):
    """Notes which of its places in the queue of work were waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.marked = 0
        self.waited: list[int] = []

    def mark(self) -> Marker:
        self.marked += 1
        return Place(self, self.marked)


class Place:
    def __init__(self, queue: Queue, number: int) -> None:
        self._queue, self._number = queue, number

    def wait(self) -> None:
        self._queue.waited.append(self._number)


def test_a_host_buffer_is_filled_again_only_when_its_last_copy_is_done() -> None:
    queue = Queue()
    staging = Staging(queue, 16)
    for step in range(1, 6):
        parcel = staging.open(Layout({"a": 4}))
        assert queue.waited == list(range(1, step - 1))  # two buffers in turn
        parcel.send()
    staging.open(Layout({"a": 4}))  # not sent, so there is nothing to wait for
    staging.open(Layout({"a": 4}))
    staging.open(Layout({"a": 4}))
    assert queue.waited == [1, 2, 3, 4, 5]


def test_an_outbox_gives_back_what_was_put_in() -> None:
    outbox = Outbox(HostAccelerator())
    assert outbox.is_empty
    numbers = outbox.put(torch.arange(6, dtype=torch.int32).view(2, 3))
    floats = outbox.put(torch.tensor([0.5, torch.nan]))
    outbox.send()
    outbox.wait()
    assert outbox.take(numbers).tolist() == [0, 1, 2, 3, 4, 5]
    assert outbox.take(floats).view(np.float32)[0] == 0.5
    assert np.isnan(outbox.take(floats).view(np.float32)[1])


# -- the slot table

STEPS = st.lists(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 3), st.booleans(), st.integers(0, 6)),
        max_size=4,
        unique_by=lambda row: row[0],
    ),
    max_size=15,
)


@settings(deadline=None)
@given(STEPS)
def test_the_slot_table_says_at_every_step_what_the_sequences_say(
    steps: list[list[tuple[int, int, bool, int]]],
) -> None:
    """Six sequences share four lines; they grow, and now and then go back and get other slots."""
    accelerator = HostAccelerator()
    table, staging = SlotTable(accelerator, 4, 64), Staging(accelerator, 4096)
    rng = np.random.default_rng(0)
    sequences = [sequence(i, [0], 1) for i in range(6)]
    for step in steps:
        rows: list[Row] = []
        for number, length, moves, back in step:
            one = sequences[number]
            if moves:
                one.computed = max(one.computed - back, 0)
                one.relocated += 1
                one.slots = rng.integers(0, 1000, 64).astype(np.int32)
            else:
                one.slots[one.computed : one.computed + length] = rng.integers(0, 1000, length)
            length = min(length, 64 - one.computed)
            if length:
                rows.append(Row(one, one.computed, length, True))
                one.computed += length
        lines, news = table.assign(rows)
        table.write(send(staging, dict(zip(table.ARRAYS, (news.lines, news.positions, news.slots), strict=True))))
        assert len(set(lines)) == len(rows)
        for row, line in zip(rows, lines, strict=True):
            end = row.start + row.length
            assert table.tensor[line, :end].tolist() == row.sequence.slots[:end].tolist()


def test_a_sequence_that_goes_on_sends_one_slot_a_step() -> None:
    table = SlotTable(HostAccelerator(), 2, 64)
    one = sequence(0, [0], 1)
    table.assign([Row(one, 0, 40, True)])
    _, news = table.assign([Row(one, 40, 1, True)])
    assert news.positions.tolist() == [40]
    table.forget()
    _, news = table.assign([Row(one, 41, 1, True)])
    assert news.positions.tolist() == list(range(42))


# -- counts for penalties

VOCAB = 40
KINDS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.7, "presence_penalty": -0.2},
    {},
    {"repetition_penalty": 0.8, "frequency_penalty": 1.0},
    {"presence_penalty": 2.0},
]


class Counted:
    """Sequences with and without penalties, of which steps draw tokens at random; a step may be launched before the
    one before was read, and tells then where its tokens come from."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.counts, self.staging = TokenCounts(HostAccelerator(), VOCAB), Staging(HostAccelerator(), 16)
        self.sequences = [sequence(i, self.tokens(5), 3, temperature=0, **kind) for i, kind in enumerate(KINDS)]
        self.flight: list[tuple[Row, CountLine | None, int]] = []

    def tokens(self, count: int) -> list[int]:
        return self.rng.integers(0, VOCAB, count).tolist()

    def step(self, asked: list[int], forced: set[int], *, overlap: bool) -> None:
        """forced: sequences to which something else happens than the draw of the step before this one"""
        if not overlap:
            self.land(forced)
            for one in (self.sequences[i] for i in forced if i % 2):
                one.tokens[-1] = (one.tokens[-1] + 1) % VOCAB
        # the rows whose draws are their sequences' next tokens
        source = {row.sequence.id: i for i, (row, _, _) in enumerate(self.flight) if row.draws_next}
        rows: list[Row] = []
        for one in (self.sequences[i] for i in asked):
            end = len(one.tokens)
            drawing = source.get(one.id)
            rows.append(Row(one, end if drawing is not None else end - 1, 1, True, drawing))
        planned, lines = self.counts.plan(rows)
        arrays = send(self.staging, planned)
        if planned:
            self.counts.update(arrays)
        if overlap:
            self.land(forced)
        self.draw(rows, lines, self.counts.penalties(arrays) if planned else None)

    def draw(self, rows: list[Row], lines: list[CountLine | None], penalties: Penalties | None) -> None:
        """Penalties of rows whose draw counts are those of the CPU."""
        logits = torch.from_numpy(self.rng.normal(size=(len(rows), VOCAB)).astype(np.float32) * 3)
        if rows:
            ones, zeros = torch.ones(len(rows)), torch.zeros(len(rows))
            keys = torch.zeros((len(rows), 2), dtype=torch.int32)
            draws = Draws(zeros, zeros.int(), ones, zeros, keys, penalties=penalties)
            found = scale_logits(logits, draws).argmax(1).tolist()
            expected = sample(logits.clone(), rows, frozenset())
            for row, token, result in zip(rows, found, expected, strict=True):
                assert token == result.token or not row.draws_next
        for row, line in zip(rows, lines, strict=True):
            if line is not None and row.draws_next:
                assert self.counts._counts[line.number].tolist() == counted_anew(row.sequence)
        self.flight = list(zip(rows, lines, self.tokens(len(rows)), strict=True))
        for _, line, token in self.flight:
            if line is not None:  # as the kernel counts its draw
                self.counts._counts[line.number, token] += 2
                line.drawing += 1

    def land(self, forced: set[int]) -> None:
        for row, line, token in self.flight:
            one = row.sequence
            if line is not None:
                line.read(token)
            if row.draws_next:
                one.tokens.append(token)
                if one.id in forced:
                    one.tokens.extend(self.tokens(2))
        self.flight = []


def counted_anew(one: Sequence) -> list[int]:
    prompt, output = one.tokens[: one.num_prompt], one.tokens[one.num_prompt :]
    return [2 * output.count(token) + (token in prompt) for token in range(VOCAB)]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 4), max_size=4, unique=True), st.sets(st.integers(0, 4)), st.booleans()),
        max_size=12,
    ),
    st.integers(0, 2**32 - 1),
)
def test_penalties_from_counts_are_those_of_the_cpu(steps: list[tuple[list[int], set[int], bool]], seed: int) -> None:
    counted = Counted(seed)
    for asked, forced, overlap in steps:
        counted.step(asked, forced, overlap=overlap)


def test_a_sequence_that_draws_token_by_token_sends_nothing_to_be_counted() -> None:
    """Neither where each step is read before the next, nor where it is not; a forced run sends it all again."""
    counted = Counted(0)
    counted.step([0], set(), overlap=False)
    line = counted.counts._lines[0]
    for overlap in (False, True):
        for _ in range(4):
            counted.step([0], set(), overlap=overlap)
            assert counted.counts._lines[0] is line
    counted.step([0], {0}, overlap=True)
    counted.step([0], set(), overlap=True)
    assert counted.counts._lines[0] is not line


# -- masks


def test_masks_are_sent_from_where_they_were_filled() -> None:
    """Rows 3 and 0 of a plan, in a step that draws for its rows 0, 2 and 3."""
    staging = MaskStaging(HostAccelerator(), 70, most_rows=5)
    for seed in range(3):
        bits = staging.open(2)
        bits[:] = np.random.default_rng(seed).integers(-(2**31), 2**31, (2, 3))
        allowed = staging.send(Masks([3, 0], bits), [0, 2, 3])
        assert allowed.lines.tolist() == [1, -1, 0]
        assert allowed.bits.tolist() == bits.tolist()
        with pytest.raises(AssertionError, match="sent once"):
            staging.send(Masks([3, 0], bits), [0, 2, 3])
    staging.open(1)
    with pytest.raises(AssertionError, match="filled where"):
        staging.send(Masks([0], np.zeros((1, 3), np.int32)), [0])


# -- graphs


def test_no_step_is_padded_by_more_than_half_and_large_ones_by_a_quarter_at_most() -> None:
    for most in (1, 3, 64, 100, 512):
        sizes = bucket_sizes(most)
        assert sizes[-1] == most
        assert sizes == sorted(set(sizes))
        for rows in range(1, most + 1):
            size = min(s for s in sizes if s >= rows)
            assert size <= max(2 * rows - 1, rows)
            assert rows < 64 or size <= 1.25 * rows
    assert len(bucket_sizes(512)) < 30


def test_a_replay_reads_what_the_buffer_holds_now() -> None:
    buffer = torch.zeros(8)
    prepared: list[tuple[int, bool]] = []

    def prepare(rows: int, shares: bool) -> Any:
        prepared.append((rows, shares))
        return lambda: buffer[:rows] * 2

    graphs = DecodeGraphs(HostAccelerator(), prepare)
    assert graphs.size_for(1) is None
    graphs.record([1, 2, 8], shared=True, seconds=10.0)
    assert prepared == [(8, False), (1, False), (2, False), (8, True), (2, True)]
    assert [graphs.size_for(rows) for rows in (1, 2, 3, 8, 9)] == [1, 2, 8, 8, None]
    buffer += 1
    assert graphs.replay(2, shares=False).tolist() == [2.0, 2.0]
    assert not graphs.has(1, shares=True)


def test_recording_stops_when_its_time_is_up_and_the_largest_serves_for_all() -> None:
    times = iter([0.0, 0.0, 1.0, 2.0, 3.0])
    graphs = DecodeGraphs(HostAccelerator(), lambda rows, shares: lambda: torch.zeros(rows))
    graphs.record([1, 2, 4, 8], shared=True, seconds=2.0, clock=lambda: next(times))
    assert graphs.sizes == [1, 8]
    assert graphs.size_for(2) == 8


# -- weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_uploaded_weights_are_those_of_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.randn(70, 33).to(dtype), "b": torch.randn(3).to(dtype), "c": torch.randn(128, 16).to(dtype)}
    save_file(tensors, tmp_path / "model.safetensors")
    place = Uploader(HostAccelerator(), piece_bytes=1024)
    with Checkpoint(tmp_path, torch.float32, tied=False, place=place) as checkpoint:
        for name, tensor in tensors.items():
            assert torch.equal(checkpoint.take(name, *tensor.shape), tensor.float())
        checkpoint.finish()


def test_an_uploaded_tensor_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([1.0, torch.nan])}, tmp_path / "model.safetensors")
    with (
        Checkpoint(tmp_path, torch.float32, tied=False, place=Uploader(HostAccelerator())) as checkpoint,
        pytest.raises(CheckpointError, match="tensor a holds NaN"),
    ):
        checkpoint.take("a", 2)


def test_random_weights_repeat_with_their_seed_and_norms_are_one() -> None:
    one, same, other = (RandomWeights(torch.bfloat16, torch.device("cpu"), seed) for seed in (1, 1, 2))
    assert torch.equal(one.take("a.weight", 4, 5), same.take("a.weight", 4, 5))
    assert not torch.equal(one.take("b.weight", 4, 5), other.take("b.weight", 4, 5))
    assert one.take("x.norm.weight", 3).tolist() == [1.0, 1.0, 1.0]


def test_where_there_is_no_gpu_the_error_says_what_else_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidRequest, match=r"no GPU can be used .*; use cpu") as caught:
        cuda_accelerator()
    assert caught.value.param == "device"
