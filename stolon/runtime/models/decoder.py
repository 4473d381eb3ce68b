"""One parametrised decoder for Llama, Mistral, Qwen2 and Qwen3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.reference import rms_norm, rotate, silu_mul
from .config import ModelConfig
from .linear import Linear
from .rotary import cos_sin, inverse_frequencies

MakeLinear = Callable[[Tensor, "Tensor | None"], Linear]


class TensorSource(Protocol):
    """Where weights come from; `take` gives each tensor once, checked and in the type to compute in."""

    def take(self, name: str, *shape: int) -> Tensor: ...


class Attention(Protocol):
    """Writes a layer's keys and values of all tokens, then attends; bound to one batch.

    query: [tokens, heads, head_dim]; key, value: [tokens, kv_heads, head_dim]; returns [tokens, heads * head_dim]
    """

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; query, key and value share a product, as do gate and up."""

    attention_norm: Tensor
    qkv: Linear
    qk_norm: Tensor | None  # [heads + kv_heads, head_dim]
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class Decoder:
    """Computes hidden states and logits; keeps no state between calls."""

    def __init__(self, config: ModelConfig, source: TensorSource, make_linear: MakeLinear, dtype: torch.dtype) -> None:
        """dtype: of what flows between the layers"""
        self.config = config
        self.embedding = source.take("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        self.layers = [_load_layer(config, source, make_linear, dtype, i) for i in range(config.num_layers)]
        self.norm = source.take("model.norm.weight", config.hidden_size).to(dtype)
        head = self.embedding
        if not config.tied:
            head = source.take("lm_head.weight", config.vocab_size, config.hidden_size)
        self.head = make_linear(head, None)
        self.frequencies = inverse_frequencies(config.rope, config.head_dim)
        self.dtype = dtype

    def hidden(self, ids: Tensor, positions: Tensor, attend: Attention, keep: Tensor) -> Tensor:
        """Normalised final hidden states of the tokens whose indices are `keep`: [len(keep), hidden_size].

        ids, positions: int64 [tokens]; keep: int64 [n]. All tokens' keys and values are written.
        """
        cos, sin = cos_sin(positions, self.frequencies, self.dtype)
        x = functional.embedding(ids, self.embedding).to(self.dtype)
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            normed = rms_norm(x, layer.attention_norm, self.config.rms_norm_eps)
            attended = attend(index, *self._query_key_value(layer, normed, cos, sin))
            if index == last:
                # what follows in the last layer is needed only where logits are
                x, attended = x[keep], attended[keep]
                if not keep.shape[0]:
                    return x
            x = x + layer.output(attended)
            normed = rms_norm(x, layer.mlp_norm, self.config.rms_norm_eps)
            x = x + layer.down(silu_mul(layer.gate_up(normed)))
        return rms_norm(x, self.norm, self.config.rms_norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [n, hidden_size], from `hidden`; returns float32 [n, vocab_size]"""
        return self.head(hidden).float()

    def _query_key_value(self, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        turned = config.num_heads + config.num_kv_heads
        qkv = layer.qkv(x).view(x.shape[0], turned + config.num_kv_heads, config.head_dim)
        query_key = qkv[:, :turned]
        if layer.qk_norm is not None:
            query_key = functional.rms_norm(query_key, (config.head_dim,), None, config.rms_norm_eps) * layer.qk_norm
        query_key = rotate(query_key, cos, sin)
        return query_key[:, : config.num_heads], query_key[:, config.num_heads :], qkv[:, turned:]


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
        qk_norm=_load_qk_norm(config, source, prefix).to(dtype) if config.qk_norm else None,
        output=fused(("self_attn.o_proj",), (hidden,), query, config.output_bias),
        mlp_norm=source.take(f"{prefix}.post_attention_layernorm.weight", hidden).to(dtype),
        gate_up=fused(("mlp.gate_proj", "mlp.up_proj"), (width, width), hidden, config.mlp_bias),
        down=fused(("mlp.down_proj",), (hidden,), width, config.mlp_bias),
    )


def _load_qk_norm(config: ModelConfig, source: TensorSource, prefix: str) -> Tensor:
    query = source.take(f"{prefix}.self_attn.q_norm.weight", config.head_dim)
    key = source.take(f"{prefix}.self_attn.k_norm.weight", config.head_dim)
    return torch.cat((query.expand(config.num_heads, -1), key.expand(config.num_kv_heads, -1)))
