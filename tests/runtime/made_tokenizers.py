"""Tokenizers that tests train for themselves, one of each kind, and the folders they are saved in."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "You are a helpful assistant. What is the capital of France? The capital of France is Paris.",
    "system user assistant tool: [INST] Once upon a time there was a small town near the sea. [/INST]",
    "def f(x):\n    return x * 2\n\n\n1 2 3 10 20 2024 im_start im_end <s> </s> <|user|>",
    "Größe naïve 東京 Москва 数学 😀 👍🏽 👩‍👩‍👧 é ü ß नमस्ते",
] * 3


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it; `<think>` is an added token but no control token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in ("<think>", "</think>", " é ")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )


def with_bos() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose tokenizer puts a bos token before every text, as Llama 3 has it."""
    made = byte_level()
    inner = made.backend_tokenizer
    inner.add_special_tokens(["<|begin|>", "<|header|>", "<|/header|>", "<|eot|>"])
    begin = inner.token_to_id("<|begin|>")
    inner.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", begin)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|begin|>", eos_token="<|eot|>")


@lru_cache(maxsize=1)
def _pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A SentencePiece-like vocabulary: control pieces, 256 bytes, characters and merges."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(
        CORPUS[:3], trainers.BpeTrainer(vocab_size=300, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"])
    )
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [name for name in model["vocab"] if name not in names]
    return {name: id for id, name in enumerate(names)}, [tuple(pair) for pair in model["merges"]]


def sentencepiece(kind: str = "prepend", right: bool = False) -> PreTrainedTokenizerFast:
    """BPE with byte fallback. kind: how a text gets the space before it: "prepend" (Llama 2: before every run),
    "first" (later conversions: before the text only) or "never" (Gemma). right: `<|user|>` swallows what follows."""
    vocab, merges = _pieces()
    tokenizer = Tokenizer(models.BPE(dict(vocab), list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in ("<unk>", "<s>", "</s>")]
    )
    tokenizer.add_special_tokens([AddedToken("<|user|>", normalized=False, special=True, rstrip=right, lstrip=right)])
    replace = normalizers.Replace(" ", "▁")
    strip = [] if kind == "never" else [decoders.Strip(" ", 1, 0)]
    if kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    elif kind == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = replace
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """Unigram with a Metaspace decoder (T5): control tokens are ordinary pieces of the model as well."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=160, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    """WordPiece: a decoder that looks at more than one token at a time."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[SEP]"], show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[SEP]", unk_token="[UNK]")


def saved(made: PreTrainedTokenizerFast, folder: Path, *, template: str | None = None, **files: Any) -> Path:
    """Write a tokenizer as a checkpoint has it, and further JSON files by name."""
    made.chat_template = template
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(str(folder))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder
