"""A vocabulary of the size that models have, trained as theirs are: byte-level BPE on the Python files at hand.

    python -m benchmarks.vocabulary FILE [--tokens 150000] [--megabytes 60]

Writes a tokenizer.json to FILE, for `benchmarks.structured`. Takes a minute or two.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--megabytes", type=int, default=60)
    given = parser.parse_args()
    tokenizer = trained(given.tokens, given.megabytes)
    tokenizer.save(str(given.file))
    print(f"{tokenizer.get_vocab_size()} tokens in {given.file}")


if __name__ == "__main__":
    main()
