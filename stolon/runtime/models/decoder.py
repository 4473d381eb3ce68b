"""One parametrised decoder for Llama, Mistral, Qwen2 and Qwen3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.choose import Operators
from ...kernels.reference import HeadNorm
from .attention import RotaryAttention
from .config import ModelConfig
from .linear import Linear

MakeLinear = Callable[[Tensor, "Tensor | None"], Linear]


class TensorSource(Protocol):
    """Where weights come from; `take` gives each tensor once, checked and in the type to compute in."""

    def take(self, name: str, *shape: int) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; query, key and value share a product, as do gate and up."""

    attention_norm: Tensor
    qkv: Linear
    qk_norm: HeadNorm | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class Decoder:
    """Computes hidden states and logits; keeps no state between calls."""

    def __init__(
        self,
        config: ModelConfig,
        source: TensorSource,
        make_linear: MakeLinear,
        dtype: torch.dtype,
        operators: Operators,
    ) -> None:
        """dtype: of what flows between the layers"""
        self.config = config
        self.embedding = source.take("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        self.layers = [_load_layer(config, source, make_linear, dtype, i) for i in range(config.num_layers)]
        self.norm = source.take("model.norm.weight", config.hidden_size).to(dtype)
        head = self.embedding
        if not config.tied:
            head = source.take("lm_head.weight", config.vocab_size, config.hidden_size)
        self.head = make_linear(head, None)
        self.dtype = dtype
        self._operators = operators

    def hidden(self, ids: Tensor, attend: RotaryAttention, keep: Tensor) -> Tensor:
        """Normalised final hidden states of the tokens whose indices are `keep`: [len(keep), hidden_size].

        ids: integers [tokens]; keep: integers [n]. All tokens' keys and values are written.
        """
        operators, epsilon = self._operators, self.config.rms_norm_eps
        residual = functional.embedding(ids, self.embedding).to(self.dtype)
        x = operators.rms_norm(residual, self.layers[0].attention_norm, epsilon)
        heads, last = self.config.num_heads + 2 * self.config.num_kv_heads, len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            attended = attend(index, layer.qkv(x).view(-1, heads, self.config.head_dim), layer.qk_norm)
            if index == last:
                # what follows in the last layer is needed only where logits are
                residual, attended = residual[keep], attended[keep]
                if not keep.shape[0]:
                    return residual
            x, residual = operators.add_rms_norm(layer.output(attended), residual, layer.mlp_norm, epsilon)
            x = layer.down(operators.silu_mul(layer.gate_up(x)))
            following = self.norm if index == last else self.layers[index + 1].attention_norm
            x, residual = operators.add_rms_norm(x, residual, following, epsilon)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [n, hidden_size], from `hidden`; returns float32 [n, vocab_size]"""
        return self.head(hidden).float()


def _load_layer(
    config: ModelConfig, source: TensorSource, make_linear: MakeLinear, dtype: torch.dtype, index: int
) -> Layer:
    prefix = f"model.layers.{index}"
    hidden, width = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

    def fused(names: tuple[str, ...], sizes: tuple[int, ...], inputs: int, bias: bool) -> Linear:
        named = list(zip(names, sizes, strict=True))
        weights = [source.take(f"{prefix}.{name}.weight", size, inputs) for name, size in named]
        biases = [source.take(f"{prefix}.{name}.bias", size) for name, size in named] if bias else None
        return make_linear(torch.cat(weights), None if biases is None else torch.cat(biases))

    attention = tuple(f"self_attn.{name}_proj" for name in "qkv")
    return Layer(
        attention_norm=source.take(f"{prefix}.input_layernorm.weight", hidden).to(dtype),
        qkv=fused(attention, (query, key, key), hidden, config.qkv_bias),
        qk_norm=_load_qk_norm(config, source, prefix, dtype) if config.qk_norm else None,
        output=fused(("self_attn.o_proj",), (hidden,), query, config.output_bias),
        mlp_norm=source.take(f"{prefix}.post_attention_layernorm.weight", hidden).to(dtype),
        gate_up=fused(("mlp.gate_proj", "mlp.up_proj"), (width, width), hidden, config.mlp_bias),
        down=fused(("mlp.down_proj",), (hidden,), width, config.mlp_bias),
    )


def _load_qk_norm(config: ModelConfig, source: TensorSource, prefix: str, dtype: torch.dtype) -> HeadNorm:
    query = source.take(f"{prefix}.self_attn.q_norm.weight", config.head_dim)
    key = source.take(f"{prefix}.self_attn.k_norm.weight", config.head_dim)
    weight = torch.cat((query.expand(config.num_heads, -1), key.expand(config.num_kv_heads, -1)))
    return HeadNorm(weight.to(dtype), config.rms_norm_eps)
