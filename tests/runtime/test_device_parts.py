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
from safetensors.torch import save_file

from stolon.kernels.drawing import Draws
from stolon.kernels.reference_sample import scale_logits
from stolon.lang.errors import CheckpointError
from stolon.lang.types import SamplingParams
from stolon.runtime.accelerator import HostAccelerator
from stolon.runtime.device_penalties import TokenCounts
from stolon.runtime.device_step import send
from stolon.runtime.graphs import DecodeGraphs, bucket_sizes
from stolon.runtime.sampler import sample
from stolon.runtime.sequence import Row, Sequence
from stolon.runtime.slot_table import SlotTable
from stolon.runtime.staging import Layout, Outbox, Staging
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


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 4), st.sampled_from(["draw", "force", "rewrite"])),
            max_size=3,
            unique_by=lambda t: t[0],
        ),
        max_size=10,
    ),
    st.integers(0, 2**32 - 1),
)
def test_penalties_from_counts_are_those_of_the_cpu(steps: list[list[tuple[int, str]]], seed: int) -> None:
    """Sequences draw tokens, are given others, or come to say something else; some have no penalties."""
    rng = np.random.default_rng(seed)
    accelerator = HostAccelerator()
    counts, staging = TokenCounts(accelerator, VOCAB), Staging(accelerator, 16)
    kinds: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 0.7, "presence_penalty": -0.2},
        {},
        {"repetition_penalty": 0.8, "frequency_penalty": 1.0},
        {"presence_penalty": 2.0},
    ]
    sequences = [
        sequence(i, rng.integers(0, VOCAB, 5).tolist(), 3, temperature=0, **kind) for i, kind in enumerate(kinds)
    ]
    for step in steps:
        asked = [sequences[i] for i, _ in step]
        planned, lines = counts.plan(asked)
        logits = torch.from_numpy(rng.normal(size=(len(asked), VOCAB)).astype(np.float32) * 3)
        expected = sample(logits.clone(), asked, frozenset())
        penalties = counts.penalties(send(staging, planned)) if planned else None
        if asked:
            ones, zeros = torch.ones(len(asked)), torch.zeros(len(asked))
            draws = Draws(
                zeros, zeros.int(), ones, zeros, torch.zeros((len(asked), 2), dtype=torch.int32), penalties=penalties
            )
            found = scale_logits(logits, draws).argmax(1).tolist()
            assert found == [result.token for result in expected]
        for (i, event), line in zip(step, lines, strict=True):
            token = int(rng.integers(0, VOCAB))
            if line is not None:
                # what the kernel does with its draw, and whoever reads it
                counts._counts[line.number, token] += 2
                line.counted.append(token)
            match event:
                case "draw":
                    sequences[i].tokens.append(token)
                case "force":
                    sequences[i].tokens.extend([token, *rng.integers(0, VOCAB, 2).tolist()])
                case _:
                    sequences[i].tokens[-1] = (sequences[i].tokens[-1] + 1) % VOCAB


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
