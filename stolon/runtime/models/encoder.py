"""One parametrised encoder for BERT, RoBERTa and XLM-RoBERTa."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .attention import Attention
from .decoder import MakeLinear, TensorSource
from .encoder_config import Activation, EncoderConfig
from .linear import Linear


@dataclass(frozen=True, slots=True)
class Norm:
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """Weights of one layer; query, key and value share a product. Norms stand behind the residual additions."""

    qkv: Linear
    output: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    mlp_norm: Norm


class Encoder:
    """Computes hidden states of packed texts, and what a classifier makes of them; keeps no state between calls.

    Source: arXiv:1810.04805, section 3, and arXiv:1907.11692 for where RoBERTa's positions start.
    """

    def __init__(self, config: EncoderConfig, source: TensorSource, make_linear: MakeLinear) -> None:
        self.config = config
        width = config.hidden_size
        self.words = source.take("embeddings.word_embeddings.weight", config.vocab_size, width)
        self.positions = source.take("embeddings.position_embeddings.weight", config.num_positions, width)
        self.types = source.take("embeddings.token_type_embeddings.weight", config.num_types, width)
        self.norm = _norm(source, "embeddings.LayerNorm", width)
        self.layers = [_layer(config, source, make_linear, index) for index in range(config.num_layers)]

    def hidden(self, ids: Tensor, positions: Tensor, types: Tensor, attend: Attention) -> Tensor:
        """Final hidden states of all tokens: [tokens, hidden_size].

        ids, types: int64 [tokens]; positions: int64 [tokens], from 0 in each text
        """
        config = self.config
        at = positions + config.first_position
        x = self.words[ids] + self.positions[at] + self.types[types]
        x = self._normed(x, self.norm)
        heads, head_dim = config.num_heads, config.hidden_size // config.num_heads
        for index, layer in enumerate(self.layers):
            query, key, value = layer.qkv(x).view(x.shape[0], 3, heads, head_dim).unbind(1)
            x = self._normed(x + layer.output(attend(index, query, key, value)), layer.attention_norm)
            x = self._normed(x + layer.down(_activated(layer.up(x), config.activation)), layer.mlp_norm)
        return x

    def _normed(self, x: Tensor, norm: Norm) -> Tensor:
        return functional.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, self.config.layer_norm_eps)


class Classifier:
    """From the hidden state of a text's first token to the labels' logits: two products with a tanh between them."""

    def __init__(self, config: EncoderConfig, source: TensorSource, make_linear: MakeLinear) -> None:
        dense, out = {
            "bert": ("pooler.dense", "classifier"),
            "roberta": ("classifier.dense", "classifier.out_proj"),
        }[config.body]
        width = config.hidden_size
        self.dense = _linear(source, make_linear, dense, width, width)
        self.out = _linear(source, make_linear, out, config.labels, width)

    def __call__(self, first: Tensor) -> Tensor:
        """first: [n, hidden_size]; returns [n, labels]"""
        return self.out(torch.tanh(self.dense(first)))


def _activated(x: Tensor, activation: Activation) -> Tensor:
    if activation == "relu":
        return functional.relu(x)
    return functional.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def _norm(source: TensorSource, name: str, width: int) -> Norm:
    return Norm(source.take(f"{name}.weight", width), source.take(f"{name}.bias", width))


def _linear(source: TensorSource, make_linear: MakeLinear, name: str, outputs: int, inputs: int) -> Linear:
    return make_linear(source.take(f"{name}.weight", outputs, inputs), source.take(f"{name}.bias", outputs))


def _layer(config: EncoderConfig, source: TensorSource, make_linear: MakeLinear, index: int) -> EncoderLayer:
    prefix, width, inner = f"encoder.layer.{index}", config.hidden_size, config.intermediate_size
    parts = [f"{prefix}.attention.self.{name}" for name in ("query", "key", "value")]
    weights = [source.take(f"{part}.weight", width, width) for part in parts]
    biases = [source.take(f"{part}.bias", width) for part in parts]
    return EncoderLayer(
        qkv=make_linear(torch.cat(weights), torch.cat(biases)),
        output=_linear(source, make_linear, f"{prefix}.attention.output.dense", width, width),
        attention_norm=_norm(source, f"{prefix}.attention.output.LayerNorm", width),
        up=_linear(source, make_linear, f"{prefix}.intermediate.dense", inner, width),
        down=_linear(source, make_linear, f"{prefix}.output.dense", width, inner),
        mlp_norm=_norm(source, f"{prefix}.output.LayerNorm", width),
    )
