"""The corpus of the tiny model: repeatable, true to its chat template, and honest about what is held out."""

import json
from itertools import islice
from random import Random

import pytest
from tokenizers import Tokenizer

from stolon.runtime.tiny import MODEL_DIR, corpus_world
from stolon.runtime.tiny.corpus import MIX, Maker, documents
from stolon.runtime.tiny.corpus_sums import Sum, draw_sum
from stolon.runtime.tiny.dialog import Chat, Document, written
from stolon.runtime.tiny.facts import COUNTRIES, FACTS, MORE_COUNTRIES
from stolon.runtime.tiny.packing import batches, encode
from stolon.runtime.tiny.tokenizer import VOCABULARY
from stolon.runtime.tiny.words import EXAM_NAMES


def _text(document: Document) -> str:
    return "".join(span.text for span in written(document))


def _many(seed: int, count: int = 4000) -> list[str]:
    return [_text(document) for document in islice(documents(seed), count)]


def test_the_same_seed_gives_the_same_documents() -> None:
    assert _many(5) == _many(5)
    assert _many(5) != _many(6)


def test_held_out_wordings_and_names_never_occur() -> None:
    text = "\n".join(_many(11))
    for name in EXAM_NAMES:
        assert name not in text
    for fact in FACTS:
        assert fact.wordings[-1] not in text
    for country in COUNTRIES:
        for wording in (*corpus_world.CAPITAL.exam, *corpus_world.LANGUAGE.exam, *corpus_world.CONTINENT.exam):
            assert wording.format(c=country.phrase) not in text
    assert "felt" not in text
    assert "turned out" not in text


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))


@pytest.mark.parametrize("make", MIX, ids=lambda make: make.__name__)
def test_every_maker_says_something_to_learn_in_512_tokens(make: Maker, tokenizer: Tokenizer) -> None:
    rng = Random(3)
    for _ in range(40):
        example = encode(tokenizer, make(rng))
        assert 1.0 in example.weights
        assert len(example.tokens) == len(example.weights) <= 512


def test_the_tokenizer_keeps_digits_apart_and_text_whole(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == VOCABULARY
    assert tokenizer.encode("1984").tokens == ["1", "9", "8", "4"]
    for text in _many(31, 200):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_countries_are_distinct_and_complete() -> None:
    names = [country.name for country in (*COUNTRIES, *MORE_COUNTRIES)]
    assert len(names) == len(set(names))
    for country in COUNTRIES:
        assert len(country.sights) == len(set(country.sights)) == 4
        assert country.languages
        assert country.currency


def test_sums_are_right_and_never_negative() -> None:
    rng = Random(1)
    for _ in range(500):
        exercise = draw_sum(rng)
        assert exercise.result == eval(str(exercise))
        assert exercise.result >= 0
    assert str(Sum(7, "-", 2)) == "7 - 2"


def test_json_answers_parse() -> None:
    rng = Random(2)
    object_chat = next(make for make in MIX if make.__name__ == "object_chat")
    for _ in range(200):
        document = object_chat(rng)
        assert isinstance(document, Chat)
        assert isinstance(json.loads(document.messages[-1].text), dict)


def test_packed_documents_see_only_themselves(tokenizer: Tokenizer) -> None:
    rows = next(batches(tokenizer, seed=4, tokens_per_batch=512))
    seen = rows.mask[:, 0].sum(-1)
    inside = rows.positions > 0
    assert inside.any()
    assert (seen[inside] == rows.positions[inside] + 1).all()
