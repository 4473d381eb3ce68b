"""Text to tokens and back, against the library's own answers."""

from __future__ import annotations

import ast
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from stolon.lang.errors import CheckpointError, InvalidRequest
from stolon.runtime.tokenizer import Place, Tokenizer, TokenRun
from tests.runtime import made_tokenizers as made

PACKAGE = Path(__file__).parents[2] / "stolon"
MAKERS = {
    "byte_level": made.byte_level,
    "with_bos": made.with_bos,
    "prepend": made.sentencepiece,
    "first": lambda: made.sentencepiece("first"),
    "never": lambda: made.sentencepiece("never"),
    "swallowing": lambda: made.sentencepiece("prepend", right=True),
    "swallowing_first": lambda: made.sentencepiece("first", right=True),
    "unigram": made.unigram,
    "word_piece": made.word_piece,
}
Pair = tuple[Tokenizer, Any]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Ours and the library's, of each kind."""
    loaded: dict[str, Pair] = {}
    for name, make in MAKERS.items():
        folder = made.saved(make(), tmp_path_factory.mktemp(name))
        loaded[name] = (Tokenizer.load(folder), AutoTokenizer.from_pretrained(str(folder)))
    return loaded


def words(special: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Text in which control tokens, their fragments and odd white space are frequent."""
    bits = ["a", " ", "  ", "\n", "The capital", "é", "😀", "<", "|", "im_", "▁", "<0x41>", "<think>", "\t"]
    return st.lists(st.sampled_from([*bits, *special]) | st.text(max_size=4), max_size=8).map("".join)


def test_plain_text_gives_the_library_s_tokens(pairs: dict[str, Pair]) -> None:
    @settings(max_examples=80, deadline=None)
    @given(words(()))
    def check(text: str) -> None:
        for name, (ours, theirs) in pairs.items():
            if not any(token in text for token in ours.special_tokens):
                assert ours.encode(text) == theirs(text)["input_ids"], name
                assert ours.encode(text, bos=False) == theirs(text, add_special_tokens=False)["input_ids"], name

    check()


@pytest.mark.parametrize("name", MAKERS)
def test_a_user_s_text_never_becomes_a_control_token(pairs: dict[str, Pair], name: str) -> None:
    ours, _ = pairs[name]

    @settings(max_examples=40, deadline=None)
    @given(words(ours.special_tokens))
    def check(text: str) -> None:
        ids = ours.encode(text, bos=False)
        unknown = {"<unk>", "[UNK]"}
        assert not {id for id in ids if id in ours.special_ids and ours.token_text(id) not in unknown}
        if name not in ("unigram", "word_piece"):
            spaced = text if ours.decode(ids) == text else " " + text  # a space that the tokenizer itself adds
            assert b"".join(map(ours.token_bytes, ids)).decode() in (
                spaced,
                text.replace("▁", " "),
                " " + text.replace("▁", " "),
            )

    check()


@pytest.mark.parametrize("name", MAKERS)
def test_trusted_text_gives_the_library_s_tokens_with_control_tokens(pairs: dict[str, Pair], name: str) -> None:
    ours, theirs = pairs[name]

    @settings(max_examples=40, deadline=None)
    @given(words(ours.special_tokens))
    def check(text: str) -> None:
        assert ours.encode_scaffold(text) == theirs(text, add_special_tokens=False)["input_ids"]

    check()


@pytest.mark.parametrize("name", ["byte_level", "with_bos", "prepend", "first", "never"])
def test_decoding_is_the_library_s(pairs: dict[str, Pair], name: str) -> None:
    ours, theirs = pairs[name]

    @settings(max_examples=150, deadline=None)
    @given(words(ours.special_tokens), st.booleans(), st.lists(st.integers(0, ours.vocab_size + 3), max_size=8))
    def check(text: str, skip: bool, more: list[int]) -> None:
        ids = ours.encode(text) + more
        expected = theirs.decode(ids, skip_special_tokens=skip)
        decoded = ours.decode(ids, skip_special_tokens=skip)
        if name in ("byte_level", "with_bos") or "\ufffd" not in decoded + expected:
            assert decoded == expected

    check()


def test_a_bad_byte_does_not_spoil_the_good_characters_beside_it(pairs: dict[str, Pair]) -> None:
    ours, theirs = pairs["prepend"]
    ids = [ours.encode_scaffold("x")[0], *(3 + byte for byte in "é東".encode()), 3 + 0xFF]
    assert theirs.decode(ids).endswith("\ufffd" * 6)
    assert ours.decode(ids).endswith("é東\ufffd")


def test_token_bytes_are_exact(pairs: dict[str, Pair]) -> None:
    for name in ("byte_level", "prepend", "first", "never"):
        ours, _ = pairs[name]
        ids = ours.encode("naïve 😀\n", bos=False)
        assert b"".join(map(ours.token_bytes, ids)).strip(b" ") == "naïve 😀\n".encode()
        assert ours.token_bytes(ours.vocab_size) == ours.token_bytes(-1) == b""
    prepend = pairs["prepend"][0]
    assert prepend.token_bytes(3 + 0xE2) == b"\xe2"
    assert prepend.token_text(3 + 0xE2) == "\ufffd"
    assert prepend.token_text(2) == "</s>"


def test_parts_keep_their_tokens_and_text_joins_without_an_extra_space(pairs: dict[str, Pair]) -> None:
    for name in ("byte_level", "with_bos", "prepend", "first", "never"):
        ours, _ = pairs[name]
        run = TokenRun(" Paris", (11, 12, 300))
        ids = ours.encode_parts(["The ", "capital", run, "\nand", " so on"])
        head = ours.encode("The capital")
        assert ids[: len(head) + 3] == [*head, 11, 12, 300]
        assert b"".join(map(ours.token_bytes, ids[len(head) + 3 :])) == b"\nand so on"
        assert ours.encode_parts(["The ", "capital"]) == head
        assert ours.encode_parts(["a"], bos=False) == ours.encode("a", bos=False)


def test_of_a_text_that_is_cut_no_more_is_read_than_is_kept(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    for tokenizer, _ in pairs.values():
        text = "One two three, 東京 and Москва; 0 1 2 3 4.\n" * 400
        whole, _ = tokenizer.encode_framed(text)
        sizes: list[int] = []
        encode_run = tokenizer.encode_run

        def measured(text: str, place: Place, encode_run: Any = encode_run, sizes: list[int] = sizes) -> list[int]:
            sizes.append(len(text))
            return encode_run(text, place)

        monkeypatch.setattr(tokenizer, "encode_run", measured)
        ids, _ = tokenizer.encode_framed(text, longest=50)
        assert len(ids) == 50
        assert ids[:40] == whole[:40]  # what the tokenizer puts behind a text stands behind a cut one, too
        assert max(sizes) < len(text) / 5
        monkeypatch.undo()


def test_facts_about_control_tokens(pairs: dict[str, Pair]) -> None:
    ours, theirs = pairs["with_bos"]
    assert ours.bos_token_id == theirs.bos_token_id == ours.encode("x")[0]
    assert ours.special_ids == set(theirs.all_special_ids) | {
        theirs.convert_tokens_to_ids(t) for t in ours.special_tokens
    }
    assert pairs["byte_level"][0].encode("") == []
    assert "<think>" not in pairs["byte_level"][0].special_tokens


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {"<|im_end|>"}),
        ({"config": {"eos_token_id": 0}}, {"<|im_end|>", "<|endoftext|>"}),
        ({"generation_config": {"eos_token_id": [0, 1]}}, {"<|im_end|>", "<|endoftext|>", "<|im_start|>"}),
        ({"generation_config": {}, "config": {"eos_token_id": 1}}, {"<|im_end|>", "<|im_start|>"}),
        ({"generation_config": {"eos_token_id": 0}, "config": {"eos_token_id": 1}}, {"<|im_end|>", "<|endoftext|>"}),
    ],
)
def test_what_ends_an_answer_comes_from_the_checkpoint(
    tmp_path: Path, files: dict[str, Any], expected: set[str]
) -> None:
    config = {"model_type": "llama", **files.pop("config", {})}
    ours = Tokenizer.load(made.saved(made.byte_level(), tmp_path, config=config, **files))
    assert {ours.token_text(id) for id in ours.eos_ids} == expected


@pytest.mark.parametrize("eos", ["x", -1, [0, -5], 1.5, True, 10**9])
def test_an_absurd_end_token_is_refused(tmp_path: Path, eos: object) -> None:
    folder = made.saved(made.byte_level(), tmp_path, generation_config={"eos_token_id": eos})
    with pytest.raises(CheckpointError, match="eos_token_id"):
        Tokenizer.load(folder)


def test_a_missing_or_broken_tokenizer_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        Tokenizer.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty has no tokenizer\.json; copy it there"):
        Tokenizer.load(tmp_path / "empty")
    for content in ("", "{", "[]", '{"model": 5}', "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")):
        folder = made.saved(made.byte_level(), tmp_path / "broken")
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(CheckpointError, match="broken"):
            Tokenizer.load(folder)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    folder = made.saved(made.byte_level(), tmp_path / "hostile")
    sentinel = tmp_path / "sentinel"
    (folder / "tokenization_x.py").write_text(f"open({str(sentinel)!r}, 'w')\nclass X: pass\n")
    settings_file = folder / "tokenizer_config.json"
    config = json.loads(settings_file.read_text())
    config |= {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["tokenization_x.X", "tokenization_x.X"]}}
    settings_file.write_text(json.dumps(config))
    with suppress(CheckpointError):  # whether it is refused or read without that code is the library's choice
        Tokenizer.load(folder)
    assert not sentinel.exists()


@pytest.mark.parametrize("text", ["\ud800", "a\udc00b", "ok \ud83d"])
def test_an_unpaired_surrogate_is_refused(pairs: dict[str, Pair], text: str) -> None:
    for ours, _ in pairs.values():
        for encode in (ours.encode, ours.encode_scaffold, lambda t, o=ours: o.encode_parts([t])):
            with pytest.raises(InvalidRequest, match="unpaired surrogate"):
                encode(text)


def test_no_module_trusts_remote_code_and_one_renders_templates() -> None:
    renderers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant)
                assert node.value.value is False, path
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "jinja2" for name in names):
                renderers.add(path.name)
    assert renderers == {"chat_render.py"}
