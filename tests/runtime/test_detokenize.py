"""Text as it comes is the text of the whole, however the tokens arrive."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from transformers import AutoTokenizer

from stolon.runtime.detokenize import Detokenizer
from stolon.runtime.stops import StopMatcher
from stolon.runtime.tokenizer import Tokenizer
from tests.runtime import made_tokenizers as made

MAKERS = {
    "byte_level": made.byte_level,
    "prepend": made.sentencepiece,
    "first": lambda: made.sentencepiece("first"),
    "never": lambda: made.sentencepiece("never"),
    "unigram": made.unigram,
    "word_piece": made.word_piece,
}
TEXTS = [
    "a",
    " ",
    "The sea",
    "é",
    "日本",
    "😀",
    "👩‍👩‍👧",
    "👍🏽",
    "e\u0301",
    "नम",
    "\n\n",
    "▁",
    "x" * 9,
    "\u200d",
    "\ufffd",
    "½",
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Any]]:
    pairs: dict[str, tuple[Tokenizer, Any]] = {}
    for name, make in MAKERS.items():
        folder = made.saved(make(), tmp_path_factory.mktemp(name))
        pairs[name] = (Tokenizer.load(folder), AutoTokenizer.from_pretrained(str(folder)))
    return pairs


def byte_ids(tokenizer: Tokenizer) -> dict[int, int]:
    """The token of each single byte, where there is one."""
    return {b[0]: id for id in range(tokenizer.vocab_size) if len(b := tokenizer.token_bytes(id)) == 1}


def random_ids(rng: random.Random, pools: list[list[int]], bytes_of: dict[int, int], size: int) -> list[int]:
    """Words, texts spelled byte by byte and cut anywhere, wild bytes, control tokens, ids without a token."""
    ids: list[int] = []
    for _ in range(rng.randrange(size)):
        kind = rng.random()
        if kind < 0.5 or not bytes_of:
            ids.extend(rng.choice(pools))
        elif kind < 0.75:
            spelled = [bytes_of[byte] for byte in rng.choice(TEXTS).encode() if byte in bytes_of]
            ids.extend(spelled[: rng.randrange(1, 6)])
        else:
            ids.append(bytes_of.get(rng.randrange(256), 0))
    return ids


def pools_of(tokenizer: Tokenizer) -> list[list[int]]:
    whole = [tokenizer.encode(text, bos=False) for text in TEXTS]
    return [*whole, *([id] for id in tokenizer.special_ids), [tokenizer.vocab_size + 5], [tokenizer.vocab_size - 1]]


def streamed(detokenizer: Detokenizer, ids: list[int], rng: random.Random) -> list[str]:
    pieces: list[str] = []
    at = 0
    while at < len(ids):
        step = rng.choice((1, 1, 1, 2, 5))
        pieces.append(detokenizer.push(ids[at : at + step]))
        at += step
    return [*pieces, detokenizer.flush()]


@pytest.mark.parametrize("name", MAKERS)
def test_deltas_make_up_the_text_of_the_whole(loaded: dict[str, tuple[Tokenizer, Any]], name: str) -> None:
    ours, theirs = loaded[name]
    rng = random.Random(name)
    pools, bytes_of = pools_of(ours), byte_ids(ours)
    until = time.monotonic() + 1.5
    cases = 0
    while time.monotonic() < until and cases < 50_000:
        cases += 1
        ids, skip = random_ids(rng, pools, bytes_of, 6), rng.random() < 0.7
        pieces = streamed(Detokenizer(ours, skip_special_tokens=skip), ids, rng)
        whole = ours.decode(ids, skip_special_tokens=skip)
        assert "".join(pieces) == whole, ids
        assert "".join(pieces).encode().decode() == whole  # each delta is text, whole characters only
        if cases % 20 == 0 and (ours.rule is None or name == "byte_level" or "\ufffd" not in whole):
            expected = theirs.decode(ids, skip_special_tokens=skip)
            assert whole == expected or "\ufffd" in expected, ids
    assert cases > 500


@pytest.mark.parametrize("name", ["byte_level", "prepend", "first", "never"])
def test_generated_text_continues_the_prompt_s(loaded: dict[str, tuple[Tokenizer, Any]], name: str) -> None:
    ours, _ = loaded[name]
    rng = random.Random(name)
    pools, bytes_of = pools_of(ours), byte_ids(ours)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        prompt, ids = random_ids(rng, pools, bytes_of, 5), random_ids(rng, pools, bytes_of, 5)
        skip = rng.random() < 0.7
        certain = Detokenizer(ours, skip_special_tokens=skip).push(prompt)
        pieces = streamed(Detokenizer(ours, prompt, skip_special_tokens=skip), ids, rng)
        assert certain + "".join(pieces) == ours.decode([*prompt, *ids], skip_special_tokens=skip), (prompt, ids)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=24), st.lists(st.integers(0, 3), max_size=12))
def test_any_bytes_in_any_pieces_decode_as_python_decodes_them(
    loaded: dict[str, tuple[Tokenizer, Any]], data: bytes, sizes: list[int]
) -> None:
    for name in ("byte_level", "never"):
        ours, _ = loaded[name]
        bytes_of = byte_ids_cached(ours)
        ids = [bytes_of[byte] for byte in data if byte in bytes_of]
        detokenizer = Detokenizer(ours)
        at, out = 0, ""
        for size in [*sizes, len(ids)]:
            out += detokenizer.push(ids[at : at + size])
            at = min(at + size, len(ids))
            held = len(bytes(data_of(ours, ids[:at]))) - len(out.encode())
            assert "\ufffd" in out or 0 <= held <= 3  # nothing but an unfinished character is held back
        assert out + detokenizer.flush() == data_of(ours, ids).decode(errors="replace")


_CACHE: dict[int, dict[int, int]] = {}


def byte_ids_cached(tokenizer: Tokenizer) -> dict[int, int]:
    return _CACHE.setdefault(id(tokenizer), byte_ids(tokenizer))


def data_of(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


def test_a_character_comes_whole_and_as_soon_as_it_is_there(loaded: dict[str, tuple[Tokenizer, Any]]) -> None:
    ours, _ = loaded["never"]
    detokenizer = Detokenizer(ours)
    assert [detokenizer.push([3 + byte]) for byte in "€😀".encode()] == ["", "", "€", "", "", "", "😀"]
    assert detokenizer.push([3 + 0xE2]) == ""
    assert detokenizer.push([3 + ord("a")]) == "\ufffda"
    assert detokenizer.push([3 + 0xF0, 3 + 0x9F]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_a_space_at_the_start_is_dropped_only_where_the_text_starts(loaded: dict[str, tuple[Tokenizer, Any]]) -> None:
    ours, _ = loaded["prepend"]
    ids = ours.encode("The sea", bos=False)
    assert Detokenizer(ours).push(ids) == "The sea"
    assert Detokenizer(ours, [1]).push(ids) == "The sea"  # <s> adds no text
    assert Detokenizer(ours, [1], skip_special_tokens=False).push(ids) == " The sea"
    assert Detokenizer(ours, ours.encode("x")).push(ids) == " The sea"


class StreamMachine(RuleBasedStateMachine):
    """Tokens and stops together: what is given out never shrinks, never leaks a stop, and in the end is all of it."""

    STOPS = ("\n\n", "é日", "</s>", "The sea")
    tokenizer: Tokenizer

    def __init__(self) -> None:
        super().__init__()
        self.detokenizer = Detokenizer(self.tokenizer)
        self.matcher = StopMatcher(self.STOPS, (), False)
        self.ids: list[int] = []
        self.out = ""
        self.matched: str | None = None

    @rule(text=st.sampled_from([*TEXTS, *STOPS, "</", "s>", "The "]), bytewise=st.booleans())
    def say(self, text: str, bytewise: bool) -> None:
        bytes_of = byte_ids_cached(self.tokenizer)
        ids = [bytes_of[b] for b in text.encode()] if bytewise else self.tokenizer.encode(text, bos=False)
        for id in ids:
            if self.matched is not None:
                assert self.matcher.push(self.detokenizer.push([id])) == ("", None)
                continue
            self.ids.append(id)
            piece, self.matched = self.matcher.push(self.detokenizer.push([id]))
            self.out += piece

    @invariant()
    def what_is_out_is_a_beginning_of_the_text(self) -> None:
        whole = self.tokenizer.decode(self.ids)
        assert whole.startswith(self.out)
        if self.matched is not None:
            assert self.out + self.matched == whole[: len(self.out) + len(self.matched)]
        assert not any(stop in self.out for stop in self.STOPS)

    def teardown(self) -> None:
        if self.matched is None:
            piece, matched = self.matcher.push(self.detokenizer.flush())
            assert matched is None
            assert self.out + piece + self.matcher.flush() == self.tokenizer.decode(self.ids)


def test_detokenizer_and_stops_together(loaded: dict[str, tuple[Tokenizer, Any]]) -> None:
    StreamMachine.tokenizer = loaded["byte_level"][0]
    run_state_machine_as_test(StreamMachine, settings=settings(max_examples=50, stateful_step_count=12, deadline=None))
