"""Embeddings are those of `transformers`, whatever the batch; and the engine around them answers as it should."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from stolon.lang.errors import (
    BackendTimeout,
    CheckpointError,
    ContextLengthError,
    EngineClosedError,
    EngineError,
    InvalidRequest,
    OverloadedError,
)
from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.embed import EmbeddingEngine
from stolon.runtime.embed_loop import EmbeddingThread
from stolon.runtime.packed import Tokens, embeds
from tests.runtime.embedders import MODELS, make_embedder, write_pooling

TEXTS = [
    "Once upon a time",
    "the capital of France is Paris",
    "x",
    "[INST] Once upon a time there was a small town near the sea. 東京 😀 naïve [/INST]",
    "one text of just as many",
    "Once upon a time",
]
PLAIN = [name for name in MODELS if not name.endswith("classifier")]


@dataclass
class Pair:
    """The same weights in `transformers` and in our engine."""

    folder: Path
    model: Any
    tokenizer: Any
    engine: EmbeddingEngine


def make_engine(folder: Path, **settings: Any) -> EmbeddingEngine:
    return EmbeddingEngine(EngineConfig(model_path=str(folder), threads=1, **settings))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    made: dict[str, Pair] = {}
    for name in MODELS:
        folder = tmp_path_factory.mktemp(name)
        model = make_embedder(name, folder)
        made[name] = Pair(folder, model, transformers.AutoTokenizer.from_pretrained(folder), make_engine(folder))
    yield made
    for pair in made.values():
        pair.engine.shutdown()


def expected(pair: Pair, text: str, mode: str | None) -> np.ndarray:
    """What `transformers` makes of one text, pooled and normalised by hand."""
    asked = pair.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    body = getattr(pair.model, "model", pair.model)
    with torch.no_grad():
        hidden = body(**asked).last_hidden_state[0]
    vector = {"mean_tokens": hidden.mean(0), "cls_token": hidden[0]}.get(mode or "", hidden[-1])
    return (vector / vector.norm()).numpy()


@pytest.mark.parametrize("name", PLAIN)
async def test_vectors_are_those_of_transformers(pairs: dict[str, Pair], name: str) -> None:
    pair = pairs[name]
    got = await pair.engine.embed([pair.engine.frame(text) for text in TEXTS])
    wanted = np.stack([expected(pair, text, MODELS[name][3]) for text in TEXTS])
    assert np.abs(got - wanted).max() < 1e-4
    assert np.abs(got[0] - got[1]).max() > 0.01, "the texts are told apart"


@pytest.mark.parametrize("name", PLAIN)
async def test_a_vector_does_not_depend_on_its_company(pairs: dict[str, Pair], name: str) -> None:
    engine = pairs[name].engine
    together = await engine.embed([engine.frame(text) for text in TEXTS])
    alone = [await engine.embed([engine.frame(text)]) for text in TEXTS]
    assert np.abs(together - np.concatenate(alone)).max() < 1e-5


async def test_a_budget_for_whole_prompts_is_one_for_the_longest_text(pairs: dict[str, Pair]) -> None:
    engine = make_engine(pairs["bert-mean"].folder, scheduler=SchedulerConfig(token_budget=-1, max_running_requests=1))
    longest = Tokens([5] * engine.context_length)
    await engine.embed([longest, Tokens([5]), Tokens([5])])
    assert engine.stats()["steps"] == 2  # the budget is of one token more
    engine.shutdown()


@pytest.mark.parametrize("name", ["bert-classifier", "roberta-classifier"])
async def test_a_classifier_reads_pairs_as_transformers_does(pairs: dict[str, Pair], name: str) -> None:
    pair = pairs[name]
    documents = TEXTS[1:4]
    asked = [pair.tokenizer(TEXTS[0], document, return_tensors="pt") for document in documents]
    with torch.no_grad():
        wanted = torch.cat([pair.model(**each).logits for each in asked]).numpy()
    got = await pair.engine.embed([pair.engine.frame(TEXTS[0], document) for document in documents])
    assert pair.engine.is_classifier
    assert np.abs(got - wanted).max() < 1e-4


@pytest.mark.parametrize("name", PLAIN)
def test_texts_are_framed_as_the_tokenizer_does_it(pairs: dict[str, Pair], name: str) -> None:
    pair = pairs[name]
    for text in TEXTS[:3]:
        assert list(pair.engine.frame(text).ids) == pair.tokenizer(text)["input_ids"]


def test_control_tokens_in_a_text_are_plain_text(pairs: dict[str, Pair]) -> None:
    engine = pairs["qwen2"].engine
    special = engine.tokenizer.special_ids
    assert sum(id in special for id in engine.frame("a <|endoftext|> b <|im_end|>").ids) == 1


def test_a_long_text_is_cut_only_where_that_is_asked_for(pairs: dict[str, Pair]) -> None:
    engine = pairs["bert-mean"].engine
    whole = engine.frame(TEXTS[1]).ids
    cut = engine.frame(TEXTS[1], longest=5).ids
    assert len(cut) == 5
    assert cut == [*whole[:4], whole[-1]]
    with pytest.raises(InvalidRequest, match="leave no room"):
        engine.frame(TEXTS[1], longest=2)


async def test_what_the_model_cannot_read_is_refused(pairs: dict[str, Pair]) -> None:
    engine = pairs["bert-mean"].engine
    assert engine.context_length == 130
    with pytest.raises(ContextLengthError, match="131 tokens, but the model reads at most 130"):
        await engine.embed([Tokens([5] * 131)])
    with pytest.raises(InvalidRequest, match="no tokens"):
        await engine.embed([Tokens([5]), Tokens([])])
    with pytest.raises(InvalidRequest, match="0 to 229, got 230"):
        await engine.embed([Tokens([230])])
    assert len(await engine.embed([Tokens([5] * 130)])) == 1


def test_the_pooling_flag_wins_over_the_checkpoint(pairs: dict[str, Pair]) -> None:
    pair = pairs["bert-mean"]
    engine = make_engine(pair.folder, pooling="cls")
    got = asyncio.run(engine.embed([engine.frame(TEXTS[0])]))
    assert np.abs(got[0] - expected(pair, TEXTS[0], "cls_token")).max() < 1e-4
    engine.shutdown()


@pytest.mark.parametrize(("name", "does"), [(name, True) for name in MODELS] + [("tiny", False)])
def test_embedding_models_are_known_from_their_files(
    pairs: dict[str, Pair], tiny_checkpoint: Path, name: str, does: bool
) -> None:
    assert embeds(tiny_checkpoint if name == "tiny" else pairs[name].folder) is does


async def test_a_model_that_generates_embeds_where_it_is_told_to(tiny_checkpoint: Path) -> None:
    engine = make_engine(tiny_checkpoint, is_embedding=True)
    (vector,) = await engine.embed([engine.frame("Once upon a time")])
    assert np.linalg.norm(vector) == pytest.approx(1)
    engine.shutdown()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: write_pooling(folder, "max_tokens"), "got max_tokens"),
        (lambda folder: write_pooling(folder, "mean_tokens", "cls_token"), "got mean_tokens and cls_token"),
        (lambda folder: (folder / "1_Pooling" / "config.json").unlink(), "1_Pooling/config.json is missing"),
        (lambda folder: (folder / "modules.json").write_text("{"), "modules.json cannot be read"),
        (lambda folder: (folder / "modules.json").write_text('[{"type": "a.Dense", "path": "2_Dense"}]'), "'Dense'"),
        (lambda folder: (folder / "modules.json").write_text('[{"type": "Pooling", "path": "../x"}]'), "beside it"),
        (lambda folder: rewrite(folder, num_attention_heads=5), "multiple of num_attention_heads"),
        (lambda folder: rewrite(folder, hidden_act="swish"), "hidden_act 'swish'"),
        (lambda folder: rewrite(folder, position_embedding_type="relative_key"), "position_embedding_type"),
        (lambda folder: rewrite(folder, num_hidden_layers=3), "tensor bert.encoder.layer.2"),
        (lambda folder: rewrite(folder, num_hidden_layers=1), "has no place"),
        (lambda folder: rewrite(folder, is_decoder=True), "is_decoder"),
    ],
)
def test_a_wrong_checkpoint_is_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    make_embedder("bert-mean", tmp_path)
    change(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        make_engine(tmp_path)


def rewrite(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


class Held:
    """A model that waits to be let go; its vectors are the texts' first tokens."""

    width = 1
    vocab_size = 1000
    context_length = 1000
    is_classifier = False
    report = ""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[int] = []

    def vectors(self, texts: Sequence[Tokens]) -> torch.Tensor:
        self.go.wait(5)
        self.batches.append(len(texts))
        if any(text.ids[0] == 13 for text in texts):
            raise ValueError("thirteen")
        return torch.tensor([[float("nan") if text.ids[0] == 7 else float(text.ids[0])] for text in texts])


@pytest.fixture
def held() -> Iterator[tuple[Held, EmbeddingThread]]:
    model = Held()
    thread = EmbeddingThread(model, token_budget=4, most_waiting=5)
    yield model, thread
    model.go.set()
    thread.stop()


def text(first: int, length: int = 1) -> Tokens:
    return Tokens([first] * length)


async def test_a_batch_holds_what_the_budget_allows(held: tuple[Held, EmbeddingThread]) -> None:
    model, thread = held
    first = asyncio.create_task(thread.vectors([text(1)]))
    await asyncio.sleep(0.05)  # it is being computed
    second = asyncio.create_task(thread.vectors([text(2, 2), text(3, 2), text(4, 9), text(5)]))
    await asyncio.sleep(0)
    model.go.set()
    assert (await first).tolist() == [[1]]
    assert (await second).tolist() == [[2], [3], [4], [5]]
    assert model.batches == [1, 2, 1, 1]


async def test_a_full_queue_refuses_and_an_empty_one_takes_any_batch(held: tuple[Held, EmbeddingThread]) -> None:
    model, thread = held
    running = asyncio.create_task(thread.vectors([text(1)]))
    await asyncio.sleep(0.05)
    many = asyncio.create_task(thread.vectors([text(2)] * 8))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="8 texts wait already, and 5 may"):
        await thread.vectors([text(3)])
    many.cancel()
    await asyncio.sleep(0)
    late = asyncio.create_task(thread.vectors([text(4)]))  # those who gave up make room
    await asyncio.sleep(0)
    model.go.set()
    assert (await late).tolist() == [[4]]
    await running
    assert sum(model.batches) == 2


async def test_a_text_at_fault_harms_no_other(held: tuple[Held, EmbeddingThread]) -> None:
    model, thread = held
    running = asyncio.create_task(thread.vectors([text(1)]))
    await asyncio.sleep(0.05)
    calls = [asyncio.create_task(thread.vectors([text(first)])) for first in (2, 13, 7, 3)]
    await asyncio.sleep(0)
    model.go.set()
    good, bad, odd, other = await asyncio.gather(*calls, return_exceptions=True)
    assert (np.asarray(good).tolist(), np.asarray(other).tolist()) == ([[2]], [[3]])
    assert isinstance(bad, EngineError)
    assert "thirteen" in str(bad)
    assert isinstance(odd, EngineError)
    assert odd.code == "nan_vector"
    await running


async def test_stopping_ends_who_waits(held: tuple[Held, EmbeddingThread]) -> None:
    model, thread = held
    running = asyncio.create_task(thread.vectors([text(1)]))
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(thread.vectors([text(2)]))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.1, model.go.set)
    await asyncio.to_thread(thread.stop)
    await running
    with pytest.raises(EngineClosedError):
        await waiting
    with pytest.raises(EngineClosedError):
        await thread.vectors([text(3)])


async def test_a_late_request_ends_with_a_timeout(pairs: dict[str, Pair]) -> None:
    engine = pairs["bert-mean"].engine
    with pytest.raises(BackendTimeout):
        await engine.embed([Tokens([5] * 130)] * 500, timeout_s=0.0001)
