"""Checkpoints that tests make for themselves: random weights, a trained tokenizer, a chat template; no network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# what the tokenizer learns its merges from: English, digits, code and a little of other scripts
CORPUS = [
    "What is the capital of the United States? The capital of the United States is Washington.",
    "List two local attractions. The Lincoln Memorial and the National Mall are two local attractions.",
    "You are a helpful assistant. A helpful assistant answers the question that was asked, in a few words.",
    "One two three four five six seven eight nine ten; 0 1 2 3 4 5 6 7 8 9, and 10 20 30 40 50.",
    'def f(x):\n    return {"name": x, "value": [1, 2, 3]}\n',
    "Grüße aus Köln, 東京 and Москва: 😀 👍 é à ü ß.",
] * 4

CheckpointMaker = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    """Triton's kernels run in its interpreter, on a CPU, except where the tests of a GPU are asked for. It must be said
    before anything imports Triton."""
    if config.getoption("markexpr") != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a GPU run where they are asked for, with `-m gpu`."""
    if not config.getoption("markexpr"):
        gpu = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]


def _save_tokenizer(folder: Path, *, chat: bool) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=["<s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(str(folder))
    return len(fast)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointMaker:
    """Makes the folder of a tiny random Llama. Standard deviation 0.1 and untied, so that greedy output does not
    repeat one token (with the default initialisation every equality test would pass without proving anything)."""

    def make(name: str = "tiny", *, chat: bool = True, seed: int = 0, **settings: object) -> Path:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        folder = tmp_path_factory.mktemp(name)
        vocab_size = _save_tokenizer(folder, chat=chat)
        config = LlamaConfig(
            **{
                "vocab_size": vocab_size,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 1024,
                "tie_word_embeddings": False,
                "initializer_range": 0.1,
                "bos_token_id": 0,
                "eos_token_id": 2,
                "dtype": "float32",
                **settings,
            }
        )
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(str(folder))
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: CheckpointMaker) -> Path:
    """A random Llama of 2 layers with a chat template; `<|im_end|>` (id 2) ends an answer."""
    return make_checkpoint("tiny")


@pytest.fixture(scope="session")
def plain_checkpoint(make_checkpoint: CheckpointMaker) -> Path:
    """A random Llama without a chat template."""
    return make_checkpoint("plain", chat=False)
