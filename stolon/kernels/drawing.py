"""What the sampling kernels are told about each row, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Penalties:
    """float32 [rows] each, and what they count; the draw counts its token.

    counts: int32 [lines, vocab], how often each token is in the output, times two, plus one if it is in the prompt
    lines: int32 [rows], of `counts`; -1 for a row without penalties
    """

    repetition: Tensor
    frequency: Tensor
    presence: Tensor
    counts: Tensor
    lines: Tensor


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to single logits after the penalties: row i has entries firsts[i] .. firsts[i + 1].

    firsts: int32 [rows + 1]; tokens: int32 [n]; values: float32 [n], -inf forbids
    """

    firsts: Tensor
    tokens: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Allowed:
    """bits: int32 [m, ceil(vocab / 32)]: bit i % 32 of word i // 32 = token i may come; lines: int32 [rows], of `bits`,
    -1 for a row where any token may come"""

    bits: Tensor
    lines: Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """How each row draws.

    temperature: float32 [rows], 0 takes the likeliest; top_k: int32 [rows], 0 for all; top_p, min_p: float32 [rows], 1
    and 0 for all; keys: int32 [rows, 2], of `draw_keys`
    filters: whether any row has one of the three; without, nothing is looked for
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    keys: Tensor
    filters: bool = True
    penalties: Penalties | None = None
    bias: Bias | None = None
    allowed: Allowed | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """tokens: int64 [rows], -1 where the logits are not numbers or nothing may come

    logprobs: float32 [rows], of the tokens by the logits as they came; normalizers: float32 [rows], the logarithms of
    those logits' sums of exponentials, not finite where the logits are not numbers
    """

    tokens: Tensor
    logprobs: Tensor
    normalizers: Tensor
