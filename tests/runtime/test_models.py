"""Our decoder computes what `transformers` computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stolon.runtime.models.linear import round_rows
from stolon.runtime.runner import ModelRunner
from tests.runtime.families import FAMILIES, VOCAB, Driver, make_family, make_runner, random_prompts

Pair = tuple[Any, ModelRunner]


@pytest.fixture(scope="module", params=list(FAMILIES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same weights in `transformers` and in our runner."""
    folder = tmp_path_factory.mktemp(request.param)
    return make_family(request.param, folder), make_runner(folder)


def log_probabilities(runner: ModelRunner, prompt: list[int], *, chunk: int = 1 << 30) -> torch.Tensor:
    """Of every token of the vocabulary at every position: [len(prompt), VOCAB]."""
    driver = Driver(runner)
    every = tuple(range(VOCAB))
    sequence = driver.sequence(prompt, prompt_logprobs=0, logprob_token_ids=every)
    entries: list[Any] = []
    while sequence.num_output == 0:
        (result,) = driver.step([sequence], chunk=chunk)
        entries += result.prompt_logprobs
        entries += [result.logprob] if result.logprob else []
    assert [entry.token for entry in entries] == list(sequence.tokens[1:])
    return torch.tensor([[value for _, value in entry.extra] for entry in entries])


def test_log_probabilities_are_those_of_transformers(pair: Pair) -> None:
    model, runner = pair
    for prompt in random_prompts([1, 2, 40, 150]):
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        torch.testing.assert_close(log_probabilities(runner, prompt), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_prompt_computed_in_chunks_gives_the_same(pair: Pair, chunk: int) -> None:
    _, runner = pair
    (prompt,) = random_prompts([70], seed=1)
    whole = log_probabilities(runner, prompt)
    torch.testing.assert_close(log_probabilities(runner, prompt, chunk=chunk), whole, rtol=0, atol=1e-4)


def test_64_greedy_tokens_of_20_prompts_are_those_of_generate(pair: Pair) -> None:
    model, runner = pair
    lengths = [length for length in (1, 5, 23, 60) for _ in range(5)]
    prompts = random_prompts(lengths, seed=2)
    expected: list[list[int]] = []
    for low in range(0, 20, 5):
        ids = torch.tensor(prompts[low : low + 5])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=64,
                min_new_tokens=64,
                eos_token_id=None,
                pad_token_id=0,
            )
        expected += out[:, ids.shape[1] :].tolist()
    driver = Driver(runner)
    got = driver.generate([driver.sequence(prompt, room=64) for prompt in prompts], 64)
    assert got == expected
    # a model that repeats itself would prove little
    assert len({tuple(tokens) for tokens in got}) > 10
    assert len({token for tokens in got for token in tokens}) > 24


def test_a_sharded_checkpoint_gives_the_same(tmp_path: Path) -> None:
    make_family("qwen2", tmp_path / "one")
    make_family("qwen2", tmp_path / "many", shard="50KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    (prompt,) = random_prompts([30])
    one, many = make_runner(tmp_path / "one"), make_runner(tmp_path / "many")
    assert torch.equal(log_probabilities(one, prompt), log_probabilities(many, prompt))


def test_many_row_counts_come_down_to_few_and_no_row_is_lost() -> None:
    counts = {round_rows(rows) for rows in range(1, 513)}
    assert len(counts) < 100
    assert all(rows <= round_rows(rows) <= rows * 1.13 for rows in range(1, 5000))
