"""The network while it is trained: a plain Llama whose parameters carry the names transformers expects.

Training packs several documents into a row, so `forward` takes positions and a mask; `export.py` writes the folder that
transformers and the runtime read.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """2.83 million parameters with a vocabulary of 2,048, the embedding shared with the output."""

    vocabulary: int = 2048
    width: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 3
    feed_forward: int = 512
    rope_theta: float = 10_000.0

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.size(-1),), self.weight.to(x.dtype), NORM_EPSILON)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The two halves of a head are turned together, as Llama does."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.width, kv_width, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        rows, length, width = x.shape
        shape = self.shape

        def split(projected: Tensor, heads: int) -> Tensor:
            return projected.view(rows, length, heads, shape.head_width).transpose(1, 2)

        groups = shape.heads // shape.kv_heads
        query = _rotated(split(self.q_proj(x), shape.heads), cos, sin)
        key = _rotated(split(self.k_proj(x), shape.kv_heads), cos, sin).repeat_interleave(groups, 1)
        value = split(self.v_proj(x), shape.kv_heads).repeat_interleave(groups, 1)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, width))


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.down_proj = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.width)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.width)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)


class TinyLlama(nn.Module):
    """The whole model; the output layer is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, 0.0, 0.02 / math.sqrt(2 * shape.layers) if into_stream else 0.02)

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Logits.

        tokens, positions: [rows, length] int64; mask: [rows, 1, length, length] bool, True where a token may look
        returns: [rows, length, vocabulary] in the compute dtype of autocast
        """
        shape = self.shape
        hidden = self.model.embed_tokens(tokens)
        if torch.is_autocast_enabled(tokens.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(tokens.device.type))
        exponents = torch.arange(0, shape.head_width, 2, device=tokens.device).float() / shape.head_width
        angles = positions[..., None].float() * shape.rope_theta**-exponents
        angles = torch.cat((angles, angles), -1)[:, None]
        cos, sin = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)
        for layer in self.model.layers:
            hidden = layer(hidden, cos, sin, mask)
        return functional.linear(self.model.norm(hidden), self.model.embed_tokens.weight)
