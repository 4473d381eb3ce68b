"""The model runner: what a plan gives must not depend on how the plan was cut, nor on who else is in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stolon.lang.errors import EngineError, InvalidRequest
from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.cpu_runner import choose_cpu_dtype
from stolon.runtime.memory import GIB, KVShape, free_memory_bytes, size_kv_cache
from stolon.runtime.models.linear import (
    Int8Linear,
    PackedLinear,
    PlainLinear,
    SingleRow,
    bfloat16_is_fast,
    int8_works,
    native_gemv,
    packing_works,
)
from stolon.runtime.runner import ModelRunner, resolve
from stolon.runtime.sequence import Masks, Plan, Row, SharedPrefix
from tests.runtime.families import Driver, make_family, make_runner, random_prompts
from tests.runtime.steps import execute


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of which one layer has a window and one has none."""
    folder = tmp_path_factory.mktemp("qwen3")
    make_family("qwen3", folder)
    return folder


@pytest.fixture(scope="module")
def runner(folder: Path) -> ModelRunner:
    return make_runner(folder)


def alone(runner: ModelRunner, prompt: list[int], count: int, **params: Any) -> list[int]:
    driver = Driver(runner)
    return driver.generate([driver.sequence(prompt, room=count, **params)], count)[0]


PARAMS = [{}, {"temperature": 1.0, "seed": 5}, {"temperature": 0.7, "top_p": 0.9, "seed": 6, "repetition_penalty": 1.2}]


@pytest.mark.parametrize("params", PARAMS, ids=["greedy", "seeded", "filtered"])
@pytest.mark.parametrize("chunk", [1, 13, 1000])
def test_text_depends_neither_on_the_batch_nor_on_the_chunks(
    runner: ModelRunner, chunk: int, params: dict[str, Any]
) -> None:
    prompts = random_prompts([1, 3, 70, 70, 150, 12, 13, 14, 15, 16])
    expected = [alone(runner, prompt, 24, **params) for prompt in prompts]
    driver = Driver(runner, seed=1)
    assert driver.generate([driver.sequence(p, room=24, **params) for p in prompts], 24, chunk=chunk) == expected
    assert len({tuple(tokens) for tokens in expected}) > 5


def test_rows_see_what_other_rows_of_the_same_plan_write(runner: ModelRunner) -> None:
    (prefix, *own) = random_prompts([90, 5, 1, 30])
    expected = [alone(runner, prefix + tail, 10) for tail in own]
    driver = Driver(runner)
    first = driver.sequence(prefix + own[0], room=10)
    others = [driver.sequence(prefix + tail, room=10, prefix=first, shared=90) for tail in own[1:]]
    # one step computes the prefix once, and what all three put after it
    driver.step([*others, first])
    assert driver.generate([first, *others], 10) == expected


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_a_prefix_attended_once_gives_the_same_text(tmp_path: Path, family: str) -> None:
    make_family(family, tmp_path)
    runner = make_runner(tmp_path)
    (prefix, *own) = random_prompts([300, 5, 1, 30, 5, 17])
    driver = Driver(runner)
    first = driver.sequence(prefix + own[0], room=12)
    rows = [first, *(driver.sequence(prefix + tail, room=12, prefix=first, shared=300) for tail in own[1:])]
    driver.step(rows)
    while rows[0].num_output < 12:
        driver.step(rows, shared=[SharedPrefix([0, 1, 2, 3, 4], 300)])
    assert [list(row.tokens[row.num_prompt :]) for row in rows] == [alone(runner, prefix + tail, 12) for tail in own]


def test_a_row_that_does_not_reach_the_end_draws_nothing(runner: ModelRunner) -> None:
    driver = Driver(runner)
    sequence = driver.sequence(random_prompts([20])[0], logprobs=3)
    (result,) = driver.step([sequence], chunk=19)
    assert (result.token, result.logprob, result.prompt_logprobs, result.error) == (None, None, [], None)


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("start", [0, 1, 12, 39, 40, 100])
def test_prompt_logprobs_come_from_the_asked_position_on(runner: ModelRunner, start: int, chunk: int) -> None:
    (prompt,) = random_prompts([40])
    driver = Driver(runner)
    whole = driver.sequence(prompt, prompt_logprobs=2, logprob_token_ids=(7,))
    (result,) = driver.step([whole])
    assert [entry.token for entry in result.prompt_logprobs] == prompt[1:]
    part = driver.sequence(prompt, prompt_logprobs=2, logprob_token_ids=(7,), logprob_start=start)
    got = [entry for _ in range(0, 40, chunk) for entry in driver.step([part], chunk=chunk)[0].prompt_logprobs]
    expected = result.prompt_logprobs[max(start - 1, 0) :]
    assert [(e.token, [t for t, _ in e.top]) for e in got] == [(e.token, [t for t, _ in e.top]) for e in expected]
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-5)
        assert ours.extra[0][1] == pytest.approx(theirs.extra[0][1], abs=1e-5)


def test_logits_of_a_long_prompt_are_worked_out_in_pieces(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    (prompt,) = random_prompts([100])
    driver = Driver(runner)
    (whole,) = driver.step([driver.sequence(prompt, prompt_logprobs=0)])
    monkeypatch.setattr("stolon.runtime.cpu_step.CHUNK_ITEMS", 480 * 8)
    heights: list[int] = []
    logits = runner.decoder.logits

    def counting(hidden: torch.Tensor) -> torch.Tensor:
        heights.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(runner.decoder, "logits", counting)
    (pieces,) = driver.step([driver.sequence(prompt, prompt_logprobs=0)])
    assert heights == [1, *[8] * 12, 3]
    assert [e.logprob for e in pieces.prompt_logprobs] == pytest.approx([e.logprob for e in whole.prompt_logprobs])


def test_a_sequence_that_turns_nan_fails_alone(folder: Path) -> None:
    runner = make_runner(folder)
    prompts = random_prompts([20, 21, 22])
    expected = [alone(runner, prompt, 8) for prompt in prompts]
    driver = Driver(runner)
    rows = [driver.sequence(prompt, room=8) for prompt in prompts]
    driver.step(rows)
    with torch.inference_mode():
        runner.cache.keys[0][rows[1].slots[4].item()] = torch.nan
    (_, spoilt, _) = driver.step(rows)
    assert isinstance(spoilt.error, EngineError)
    assert spoilt.error.code == "nan_logits"
    assert driver.generate([rows[0], rows[2]], 8) == [expected[0], expected[2]]


def test_min_tokens_keeps_away_every_end_token_of_checkpoint_and_tokenizer(folder: Path) -> None:
    config = EngineConfig(model_path=str(folder), kv_tokens=512, threads=1)
    (prompt,) = random_prompts([30])
    free = alone(make_runner(folder), prompt, 8)
    ended = ModelRunner(config, end_token_ids=frozenset(free))
    assert ended.eos_token_ids == {2, *free}
    assert not set(alone(ended, prompt, 8, min_tokens=8)) & set(free)
    assert alone(ended, prompt, 8) == free


def test_the_whole_cache_can_be_used(folder: Path) -> None:
    runner = make_runner(folder, kv_tokens=64)
    assert runner.num_slots == 64
    (prompt,) = random_prompts([60])
    assert alone(runner, prompt, 4) == alone(make_runner(folder), prompt, 4)


def test_an_empty_plan_gives_nothing(runner: ModelRunner) -> None:
    assert execute(runner, Plan([])) == []


def test_a_step_leaves_the_settings_of_torch_as_they_were(runner: ModelRunner) -> None:
    driver = Driver(runner)
    before = torch._C._get_mkldnn_enabled()
    driver.step([driver.sequence([5])])
    assert torch._C._get_mkldnn_enabled() == before
    with pytest.raises(IndexError):  # a token that does not exist is the scheduler's fault, not one row's
        execute(runner, Plan([Row(driver.sequence([10**6]), 0, 1, True)]))
    assert torch._C._get_mkldnn_enabled() == before


DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_product_is_the_plain_one_and_a_row_does_not_depend_on_the_others(
    dtype: torch.dtype, bias: bool
) -> None:
    if not packing_works(dtype):
        pytest.skip(f"this CPU has no packed products of {dtype}")
    weight, x = torch.randn(96, 352).to(dtype) * 0.1, torch.randn(70, 352).to(dtype)
    shift = torch.randn(96).to(dtype) if bias else None
    packed = PackedLinear(weight, shift, plain_copy=False)
    whole = packed(x)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(whole, PlainLinear(weight, shift)(x), rtol=0, atol=tolerance)
    for rows in (1, 2, 3, 4, 5, 31):
        assert torch.equal(packed(x[:rows]), whole[:rows])
    with native_gemv():
        single = PackedLinear(weight, shift, plain_copy=True)(x[:1])
    torch.testing.assert_close(single, whole[:1], rtol=0, atol=tolerance)
    assert packed(x[:0]).shape == (0, 96)


@pytest.mark.skipif(not packing_works(torch.bfloat16), reason="this CPU has no packed products of bfloat16")
def test_how_many_rows_a_single_one_is_padded_to_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = torch.randn(96, 352).bfloat16(), torch.randn(3, 352).bfloat16()
    results: list[torch.Tensor] = []
    for rows in (1, 4):
        measured = SingleRow(packed_rows=rows, plain_gain=1.0)
        monkeypatch.setattr(SingleRow, "measured", lambda measured=measured: measured)
        product = PackedLinear(weight, None, plain_copy=False)
        assert product.least_rows == rows
        results += [product(x[:count]) for count in (1, 2, 3)]
    for count in range(3):
        assert torch.equal(results[count], results[2][: count + 1])
        assert torch.equal(results[3 + count], results[2][: count + 1])


@pytest.mark.parametrize(("gain", "copies"), [(0.7, False), (1.05, False), (1.3, True)])
def test_weights_are_kept_twice_only_where_that_is_faster(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gain: float, copies: bool
) -> None:
    measured = SingleRow(packed_rows=1, plain_gain=gain)
    monkeypatch.setattr(SingleRow, "measured", lambda: measured)
    assert ("plain copy" in make_runner(folder, dtype="bfloat16").memory_report) == copies
    assert "plain copy" not in make_runner(folder, dtype="bfloat16", deterministic=True).memory_report
    assert "plain copy" not in make_runner(folder, dtype="float32").memory_report


@pytest.mark.skipif(not packing_works(torch.bfloat16), reason="this CPU has no packed products of bfloat16")
def test_how_a_single_row_is_fastest_is_measured() -> None:
    measured = SingleRow.measured()
    assert measured.packed_rows in (1, 4)
    assert 0.05 < measured.plain_gain < 20
    assert SingleRow.measured() is measured


def test_a_torch_without_the_packing_operators_computes_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prompt,) = random_prompts([40])
    expected = alone(make_runner(folder), prompt, 16)

    def never(dtype: torch.dtype | None = None) -> bool:
        return False

    monkeypatch.setattr("stolon.runtime.cpu_runner.packing_works", never)
    monkeypatch.setattr("stolon.runtime.cpu_runner.int8_works", never)
    plain = make_runner(folder)
    assert isinstance(plain.decoder.head, PlainLinear)
    assert alone(plain, prompt, 16) == expected
    with pytest.raises(InvalidRequest, match="int8"):
        make_runner(folder, quantization="int8")


def test_an_int8_product_is_close_and_a_row_does_not_depend_on_the_others() -> None:
    assert int8_works()
    weight, x = torch.randn(96, 352) * 0.1, torch.randn(20, 352)
    x[3] *= 100
    x[4] = 0
    shift = torch.randn(96)
    product = Int8Linear(weight, shift)
    whole, exact = product(x), x @ weight.T + shift
    assert torch.equal(whole[4], shift)
    error = (whole - exact).norm(dim=1) / exact.norm(dim=1)
    # a CPU whose 8-bit sums saturate gets one bit less of every input
    assert error.max() < (0.03 if product.halve else 0.015)
    for rows in (1, 2, 3, 7):
        assert torch.equal(product(x[:rows]), whole[:rows])


def test_int8_answers_are_close_to_those_of_bfloat16(tmp_path: Path) -> None:
    make_family("llama", tmp_path, hidden_size=256, intermediate_size=512, num_hidden_layers=4)
    (prompt,) = random_prompts([400])

    def log_probabilities(**settings: Any) -> torch.Tensor:
        driver = Driver(make_runner(tmp_path, **settings))
        (result,) = driver.step([driver.sequence(prompt, prompt_logprobs=0, logprob_token_ids=tuple(range(480)))])
        return torch.tensor([[value for _, value in entry.extra] for entry in result.prompt_logprobs])

    exact = log_probabilities(dtype="float32")
    rounded, quantized = log_probabilities(dtype="bfloat16"), log_probabilities(dtype="bfloat16", quantization="int8")

    def compare(got: torch.Tensor) -> tuple[float, float]:
        cosine = torch.cosine_similarity(got - got.mean(1, keepdim=True), exact - exact.mean(1, keepdim=True)).min()
        return cosine.item(), (got.argmax(1) == exact.argmax(1)).float().mean().item()

    cosine, agreement = compare(quantized)
    # measured: at worst 0.984 (bfloat16: 0.996), 84 % (bfloat16: 96 %). Random weights are the hardest case: their
    # likeliest tokens are hardly likelier than the next, and errors grow with the layers. Where 8-bit sums saturate,
    # inputs have one bit less: 0.959, 78 %
    halved = Int8Linear(torch.eye(8), None).halve
    assert cosine > (0.94 if halved else 0.975)
    assert agreement > (0.7 if halved else 0.8)
    assert compare(rounded)[1] > 0.93


def test_auto_keeps_float32_and_bfloat16_but_computes_small_models_in_float32(runner: ModelRunner) -> None:
    small = runner.model_config
    large = replace(small, hidden_size=1024, vocab_size=100_000)
    config = EngineConfig(model_path="x")
    assert choose_cpu_dtype(config, replace(small, dtype="bfloat16")) == torch.float32
    assert choose_cpu_dtype(config, replace(large, dtype="float32")) == torch.float32
    for dtype in ("bfloat16", "float16"):
        fast = torch.bfloat16 if bfloat16_is_fast() else torch.float32
        assert choose_cpu_dtype(config, replace(large, dtype=dtype)) == fast
    with pytest.raises(InvalidRequest, match="float16"):
        choose_cpu_dtype(EngineConfig(model_path="x", dtype="float16"), large)


def test_a_context_longer_than_the_models_is_refused(folder: Path) -> None:
    assert make_runner(folder, context_length=100).context_length == 100
    with pytest.raises(InvalidRequest, match=r"\[1, 1024\].*1025"):
        make_runner(folder, context_length=1025)


def test_the_report_shows_the_arithmetic(folder: Path) -> None:
    runner = make_runner(folder, kv_tokens=None, scheduler=SchedulerConfig(max_running_requests=3))
    # no request could ever fill more than that
    assert runner.num_slots == 3 * 1024
    assert "2 layers x 2 (keys, values) x 2 heads x 24 x 4 bytes = 768 bytes a token" in runner.memory_report
    assert "3,072 tokens" in runner.memory_report


SHAPE = KVShape(layers=2, kv_heads=2, head_dim=16, item_bytes=4)
SIZING = {"free_bytes": 512 * 1000, "fraction": 0.5, "asked": None, "useful": 10**9, "page_size": 1}


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [({}, 500), ({"page_size": 16}, 496), ({"useful": 30}, 30), ({"asked": 1000}, 1000), ({"fraction": 1.0}, 1000)],
)
def test_the_cache_is_sized_from_free_memory(changes: dict[str, Any], tokens: int) -> None:
    assert SHAPE.token_bytes == 512
    assert size_kv_cache(SHAPE, **{**SIZING, **changes}).tokens == tokens


@pytest.mark.parametrize(("fraction", "said"), [(0.004, "(0.4% of"), (0.29, "(29% of"), (1, "(100% of")])
def test_the_share_of_memory_is_told_as_it_was_asked(fraction: float, said: str) -> None:
    assert said in size_kv_cache(SHAPE, **{**SIZING, "fraction": fraction}).report


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"asked": 1001}, ["1,001 tokens", "1,000 tokens"]),
        ({"asked": 0}, ["0 tokens"]),
        ({"asked": 15, "page_size": 16}, ["pages are of 16"]),
        ({"free_bytes": 100}, ["free memory"]),
        ({"fraction": 0.0}, ["memory_fraction"]),
        ({"fraction": 1.5}, ["memory_fraction", "1.5"]),
    ],
)
def test_a_cache_that_cannot_be_is_refused_with_the_numbers(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        size_kv_cache(SHAPE, **{**SIZING, **changes})
    for word in words:
        assert word in str(caught.value)


def test_the_cache_may_be_asked_for_in_bytes(folder: Path) -> None:
    assert make_runner(folder, kv_tokens=None, kv_bytes=768 * 100 + 767).num_slots == 100
    with pytest.raises(InvalidRequest, match="0 tokens"):
        make_runner(folder, kv_tokens=None, kv_bytes=767)


def test_the_cache_may_be_asked_for_in_pages_and_in_one_unit_only() -> None:
    config = EngineConfig(model_path="x", device="cpu", kv_pages=7, scheduler=SchedulerConfig(page_size=16))
    assert resolve(config) == replace(config, kv_tokens=112, kv_pages=None)
    with pytest.raises(InvalidRequest, match="one size; give one of kv_tokens, kv_pages"):
        resolve(replace(config, kv_tokens=112))


@pytest.mark.parametrize(
    ("settings", "longest"),
    [
        ({}, 1024),
        ({"context_length": 100}, 100),
        ({"kv_tokens": 48}, 48),
        ({"kv_pages": 3}, 48),
        ({"kv_tokens": 9999}, 1024),
    ],
)
def test_a_budget_for_whole_prompts_is_what_context_and_cache_can_hold(
    folder: Path, settings: dict[str, Any], longest: int
) -> None:
    scheduler = SchedulerConfig(token_budget=-1, max_running_requests=7, page_size=16)
    config = resolve(EngineConfig(model_path=str(folder), device="cpu", scheduler=scheduler, **settings))
    assert config.scheduler == replace(scheduler, token_budget=longest + 7)
    with pytest.raises(InvalidRequest, match=r"context_length must be in \[1, 1024\]"):
        resolve(replace(config, context_length=1025, scheduler=scheduler))


def test_a_cache_larger_than_memory_is_refused_at_start(folder: Path) -> None:
    tokens = free_memory_bytes() * 2 // 768
    with pytest.raises(InvalidRequest, match="GiB are free"):
        make_runner(folder, kv_tokens=tokens)
    assert 0 < free_memory_bytes() < 1 << 50
    assert GIB == 1 << 30


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0, "seed": 3}])
def test_a_token_may_come_from_a_row_of_the_step_before(runner: ModelRunner, params: dict[str, Any]) -> None:
    prompts = random_prompts([20, 9, 14])
    expected = [alone(runner, prompt, 6, **params) for prompt in prompts]
    driver = Driver(runner)
    sequences = [driver.sequence(prompt, room=6, **params) for prompt in prompts]
    rows = [Row(s, 0, len(s.tokens), True) for s in sequences]
    step = runner.launch(Plan(rows))
    step.sample(None)
    for _ in range(6):
        order = [2, 0, 1]
        ahead = [Row(rows[i].sequence, rows[i].start + rows[i].length, 1, True, source=i) for i in order]
        after = runner.launch(Plan(ahead))  # before the tokens of `step` are known
        for row, result in zip(rows, step.results(), strict=True):
            assert result.token is not None
            row.sequence.tokens.append(result.token)
        after.sample(None)
        rows, step = ahead, after
    assert [list(s.tokens[s.num_prompt :]) for s in sequences] == expected


def test_a_mask_reaches_its_row(runner: ModelRunner) -> None:
    driver = Driver(runner)
    rows = [Row(driver.sequence(prompt), 0, 9, True) for prompt in random_prompts([9, 9, 9])]
    rows.insert(1, Row(driver.sequence(random_prompts([9])[0]), 0, 5, False))
    bits = np.zeros((1, 15), np.int32)
    bits[0, 3] = 1 << 7
    free = [r.token for r in execute(runner, Plan(rows))]
    masked = [r.token for r in execute(runner, Plan(rows), Masks([2], bits))]
    assert masked == [*free[:2], 3 * 32 + 7, free[3]]
