"""The tokenizer: byte-level BPE of 2,048 tokens with every digit alone, and the chat template.

`python -m stolon.runtime.tiny.tokenizer --out DIR` trains it on the corpus and writes the files transformers reads.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .corpus import documents
from .dialog import TEXT_END, TOOLS_AFTER, TOOLS_BEFORE, TURN_END, TURN_START, written

VOCABULARY = 2048
PADDING = "<|pad|>"
SPECIAL = (TEXT_END, TURN_START, TURN_END, PADDING)
MAX_TOKENS = 2048
CORPUS_DOCUMENTS = 40_000
TOKENIZER_SEED = 7

CHAT_TEMPLATE = (
    """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages and messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- """
    + json.dumps(TOOLS_BEFORE.rstrip("\n"))
    + """ }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- """
    + json.dumps(TOOLS_AFTER)
    + """ + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (loop.first and tools and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content %}{{- message.content }}{%- endif %}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
{%- set function = call.function if call.function else call %}
{%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}
{{- '<tool_call>\\n{"name": ' + (function.name | tojson) + ', "arguments": ' }}
{%- if function.arguments is string %}{{- function.arguments }}{%- else %}{{- function.arguments | tojson }}{%- endif %}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
)


def _training_texts(seed: int) -> Iterator[str]:
    for document in islice(documents(seed), CORPUS_DOCUMENTS):
        text = "".join(span.text for span in written(document))
        for special in SPECIAL:
            text = text.replace(special, "\n")
        yield text


def train_tokenizer(seed: int) -> Tokenizer:
    """Takes about ten seconds."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(seed), trainer)
    return tokenizer


def token_id(tokenizer: Tokenizer, special: str) -> int:
    number = tokenizer.token_to_id(special)
    if number is None:
        raise ValueError(f"the tokenizer lacks {special}; train it with this module")
    return number


def save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": TURN_END,
        "pad_token": PADDING,
        "bos_token": None,
        "unk_token": None,
        "model_max_length": MAX_TOKENS,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tokenizer of the tiny model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--seed", type=int, default=TOKENIZER_SEED)
    arguments = parser.parse_args()
    save_tokenizer(train_tokenizer(arguments.seed), arguments.out)


if __name__ == "__main__":
    main()
