"""Tiny random checkpoints of every supported architecture, and a plain way to run one through the model runner."""

from __future__ import annotations

import dataclasses
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from stolon.lang.types import SamplingParams
from stolon.runtime.config import EngineConfig
from stolon.runtime.runner import ModelRunner
from stolon.runtime.sequence import Plan, Row, RowResult, Sequence, SharedPrefix
from tests.runtime.steps import execute

VOCAB = 480

# what the families do differently: biases, ties, grouped heads, head width, rope scaling, windows shorter than prompts
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "Llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 24,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "mistral": ("Mistral", {"sliding_window": 13, "head_dim": 32, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 24, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3-tied": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 16, "attention_bias": True}),
}


def make_family(family: str, folder: Path, *, seed: int = 0, shard: str = "5GB", **settings: Any) -> Any:
    """Saves a checkpoint to `folder` and returns the `transformers` model. Standard deviation 0.1, and norms and biases
    that are not what they are initialised to, so that none of them can be forgotten unnoticed."""
    name, own = FAMILIES[family]
    fields = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
        **own,
        **settings,
    }
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**fields)).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias") or "norm" in parameter_name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def make_runner(folder: Path, **settings: Any) -> ModelRunner:
    return ModelRunner(EngineConfig(model_path=str(folder), **{"kv_tokens": 8192, "threads": 1, **settings}))


class Driver:
    """Hands out slots at random and computes plans; a scheduler without any judgement."""

    def __init__(self, runner: ModelRunner, seed: int = 0) -> None:
        self.runner = runner
        self._free = np.random.default_rng(seed).permutation(runner.num_slots).astype(np.int32)
        self._taken = 0

    def sequence(
        self, prompt: list[int], *, room: int = 0, prefix: Sequence | None = None, shared: int = 0, **params: Any
    ) -> Sequence:
        """A sequence with slots for its prompt and `room` more tokens, the first `shared` those of `prefix`."""
        number = len(prompt) + room - shared
        own = self._free[self._taken : self._taken + number]
        assert len(own) == number, "the test asks for more slots than there are"
        self._taken += number
        slots = own if prefix is None else np.concatenate((prefix.slots[:shared], own))
        return Sequence(
            id=self._taken,
            tokens=array("i", prompt),
            num_prompt=len(prompt),
            params=SamplingParams(**{"temperature": 0.0, "max_tokens": 64, **params}),
            seed=params.get("seed", 0),
            slots=slots,
            computed=shared,
        )

    def step(
        self, sequences: list[Sequence], *, chunk: int = 1 << 30, shared: list[SharedPrefix] | None = None
    ) -> list[RowResult]:
        """Computes up to `chunk` tokens of each, and appends what was drawn."""
        rows = [
            Row(s, s.computed, length, s.computed + length == len(s.tokens))
            for s in sequences
            for length in [min(chunk, len(s.tokens) - s.computed)]
        ]
        results = execute(self.runner, Plan(rows, shared or []))
        for row, result in zip(rows, results, strict=True):
            row.sequence.computed += row.length
            if result.token is not None:
                row.sequence.tokens.append(result.token)
        return results

    def generate(self, sequences: list[Sequence], count: int, *, chunk: int = 1 << 30) -> list[list[int]]:
        """Draws `count` tokens of each."""
        while any(s.num_output < count for s in sequences):
            self.step([s for s in sequences if s.num_output < count], chunk=chunk)
        return [list(s.tokens[s.num_prompt :]) for s in sequences]


def random_prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in lengths]


def with_params(sequence: Sequence, **changes: Any) -> Sequence:
    sequence.params = dataclasses.replace(sequence.params, **changes)
    return sequence
