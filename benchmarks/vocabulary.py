"""A vocabulary of the size that models have, trained as theirs are: byte-level BPE on the Python files at hand.

    python -m benchmarks.vocabulary FILE [--tokens 150000] [--megabytes 60]
    python -m benchmarks.vocabulary FILE --tiktoken qwen.tiktoken

Writes a tokenizer.json to FILE, for `benchmarks.structured`; takes a minute or two. The second form takes a vocabulary
of a model from a file of ranks, such as the one in the package dashscope.
"""

from __future__ import annotations

import argparse
import base64
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|end|>"


def texts(megabytes: int) -> Iterator[str]:
    """Sources and notes of the standard library and of what is installed, in an order drawn from a seed."""
    folders = {sysconfig.get_paths()[name] for name in ("stdlib", "purelib")}
    files = sorted({path for folder in folders for path in Path(folder).rglob("*.[pmr][yds]*")})
    random.Random(0).shuffle(files)
    left = megabytes * 1_000_000
    for path in files:
        if path.suffix in (".py", ".md", ".rst") and path.stat().st_size < 400_000:
            text = path.read_text(encoding="utf-8", errors="ignore")
            left -= len(text)
            yield text
            if left < 0:
                return


def trained(tokens: int, megabytes: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tokens,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(megabytes), trainer)
    return tokenizer


def from_ranks(file: Path) -> Tokenizer:
    """A token is merged from the two shorter tokens whose later one came first, which is how its training found it."""
    lines = (line.split() for line in file.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    alphabet = byte_alphabet()
    spelled = {token: "".join(alphabet[byte] for byte in token) for token in ranks}
    merges: list[tuple[str, str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [pair for pair in halves if pair[0] in ranks and pair[1] in ranks]
        known.sort(key=lambda pair: (max(ranks[pair[0]], ranks[pair[1]]), ranks[pair[0]]))
        merges += [(spelled[left], spelled[right]) for left, right in known[:1]]
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


def byte_alphabet() -> list[str]:
    """What stands for each byte in byte-level BPE: its character where that can be seen, else one from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in seen else chr(next(others)) for byte in range(256)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--tiktoken", type=Path, help="file of base64 tokens and ranks")
    given = parser.parse_args()
    tokenizer = from_ranks(given.tiktoken) if given.tiktoken else trained(given.tokens, given.megabytes)
    tokenizer.save(str(given.file))
    print(f"{tokenizer.get_vocab_size()} tokens in {given.file}")


if __name__ == "__main__":
    main()
