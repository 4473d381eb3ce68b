"""The hot operators of a device, chosen once at start."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from torch import Tensor

from . import reference, reference_attention, reference_linear, reference_sample
from .drawing import Drawn, Draws
from .paged import DecodeWork, ExtendWork, PagedKV
from .reference import HeadNorm, Places
from .reference_linear import Weight


class RmsNorm(Protocol):
    def __call__(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor: ...


class AddRmsNorm(Protocol):
    def __call__(self, x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]: ...


class RotaryWrite(Protocol):
    def __call__(
        self, qkv: Tensor, turns: Tensor, places: Places, cache: PagedKV, norm: HeadNorm | None = None
    ) -> Tensor: ...


class SiluMul(Protocol):
    def __call__(self, gate_up: Tensor) -> Tensor: ...


class Linear(Protocol):
    def __call__(self, x: Tensor, weight: Weight) -> Tensor: ...


class ExtendAttention(Protocol):
    def __call__(
        self, query: Tensor, cache: PagedKV, work: ExtendWork, *, window: int | None = None, scale: float | None = None
    ) -> Tensor: ...


class DecodeAttention(Protocol):
    def __call__(self, query: Tensor, cache: PagedKV, work: DecodeWork, *, scale: float | None = None) -> Tensor: ...


class Sample(Protocol):
    def __call__(self, logits: Tensor, draws: Draws) -> Drawn: ...


class TopLogprobs(Protocol):
    def __call__(self, logits: Tensor, normalizers: Tensor, count: int) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Operators:
    """What each does is said in the module of its plain form: reference, reference_attention, _linear, _sample."""

    rms_norm: RmsNorm
    add_rms_norm: AddRmsNorm
    rotary_write: RotaryWrite
    silu_mul: SiluMul
    linear: Linear
    extend_attention: ExtendAttention
    decode_attention: DecodeAttention
    sample: Sample
    top_logprobs: TopLogprobs


def operators(device: Literal["cpu", "cuda"], *, deterministic: bool = False) -> Operators:
    """Triton's on a GPU, plain PyTorch's on a CPU.

    deterministic: a row's bits depend on its own tokens only, provided that each row goes through extend_attention; the
        plain forms are not made for that
    """
    return _triton(deterministic) if device == "cuda" else _PLAIN


_PLAIN = Operators(
    rms_norm=reference.rms_norm,
    add_rms_norm=reference.add_rms_norm,
    rotary_write=reference.rotary_write,
    silu_mul=reference.silu_mul,
    linear=reference_linear.linear,
    extend_attention=reference_attention.extend_attention,
    decode_attention=reference_attention.decode_attention,
    sample=reference_sample.sample,
    top_logprobs=reference_sample.top_logprobs,
)


def _triton(uniform: bool) -> Operators:
    # here, because Triton is an optional dependency, of the extra `gpu`
    from . import attention_decode, attention_extend, likeliest, linear_gpu, norm, rotary, sample, silu_mul

    return Operators(
        rms_norm=norm.rms_norm,
        add_rms_norm=norm.add_rms_norm,
        rotary_write=rotary.rotary_write,
        silu_mul=silu_mul.silu_mul,
        linear=partial(linear_gpu.linear, uniform=uniform),
        extend_attention=partial(attention_extend.extend_attention, uniform=uniform),
        decode_attention=attention_decode.decode_attention,
        sample=sample.sample,
        top_logprobs=likeliest.top_logprobs,
    )
