"""Every kernel as models launch it, on tensors that take no memory; for `kernel_check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from stolon.kernels import attention_decode, attention_extend, likeliest, linear_gpu, norm, rotary, sample, silu_mul
from stolon.kernels.drawing import Allowed, Bias, Draws, Penalties
from stolon.kernels.paged import DecodeWork, ExtendWork, PagedKV
from stolon.kernels.reference import HeadNorm, Places
from stolon.kernels.reference_linear import Weight

Case = tuple[str, Callable[[], object]]

# query heads, key heads, head size
MODELS = {
    "llama-8b": (32, 8, 128),
    "qwen3-0.6b": (16, 8, 128),
    "qwen2-0.5b": (14, 2, 64),
    "head 80": (32, 32, 80),
    "head 96": (32, 32, 96),
    "head 256": (16, 1, 256),
}
KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def cases(*, brief: bool = False) -> Iterator[Case]:
    """brief: each kernel once, as Llama-3.1-8B in bfloat16 with 8-bit weights and cache has it"""
    if brief:
        wanted = ("extend llama-8b bf16", "decode llama-8b bf16", "rotary llama-8b bf16 fp8 cache")
        wanted += ("add_rms_norm bf16", "silu_mul bf16", "linear bf16 x fp8, 1 rows", "sample bf16 with everything")
        wanted += ("top_logprobs bf16",)
        yield from ((name, launch) for name, launch in cases() if name in wanted)
        return
    forms = [(model, kind, False) for model in MODELS for kind in KINDS] + [("llama-8b", "bf16", True)]
    for model, kind, float8 in forms:
        yield from _attention(model, kind, float8)
        yield from _rotary(model, kind, float8)
    for kind in KINDS:
        yield from _rows(kind)
        yield from _linear(kind)
        yield from _sample(kind)


def _rotary(model: str, kind: str, float8: bool) -> Iterator[Case]:
    heads, kv_heads, head_dim = MODELS[model]
    dtype = KINDS[kind]
    keys, values = (empty(4096, kv_heads, head_dim, dtype=torch.float8_e4m3fn if float8 else dtype) for _ in range(2))
    long = empty(16, dtype=torch.int64)
    qkv = empty(16, heads + 2 * kv_heads, head_dim, dtype=dtype)
    turns = empty(4096, head_dim, dtype=torch.float32)
    norm = HeadNorm(empty(heads + kv_heads, head_dim, dtype=dtype), 1e-6)
    cache = PagedKV(keys, values, empty(1, 1))
    name = f"{model} {kind}" + (" fp8 cache" if float8 else "")
    yield f"rotary {name}", partial(rotary.rotary_write, qkv, turns, Places(long, long), cache, norm)


def _rows(kind: str) -> Iterator[Case]:
    x, weight = empty(16, 4096, dtype=KINDS[kind]), empty(4096, dtype=KINDS[kind])
    yield f"rms_norm {kind}", partial(norm.rms_norm, x, weight, 1e-5)
    yield f"add_rms_norm {kind}", partial(norm.add_rms_norm, x, x.clone(), weight, 1e-5)
    yield f"silu_mul {kind}", partial(silu_mul.silu_mul, empty(16, 28672, dtype=KINDS[kind]))


def _linear(kind: str) -> Iterator[Case]:
    dtype = KINDS[kind]
    for count in (1, 64, 4096):
        x = empty(count, 4096, dtype=dtype)
        for form, stored in {"plain": dtype, "int8": torch.int8, "fp8": torch.float8_e4m3fn}.items():
            scales = None if form == "plain" else empty(4096, dtype=torch.float32)
            weight = Weight(empty(4096, 4096, dtype=stored), scales, empty(4096, dtype=dtype))
            yield f"linear {kind} x {form}, {count} rows", partial(linear_gpu.linear, x, weight)
    weight = Weight(empty(4096, 4096, dtype=dtype))
    yield f"linear {kind} uniform", partial(linear_gpu.linear, empty(64, 4096, dtype=dtype), weight, uniform=True)


def _sample(kind: str) -> Iterator[Case]:
    vocab = 128256
    number, whole = empty(16, dtype=torch.float32), empty(16)
    penalties = Penalties(number, number, number, empty(16, vocab), whole)
    bias = Bias(empty(17), whole, number)
    allowed = Allowed(empty(16, vocab // 32), whole)
    draws = Draws(number, whole, number, number, empty(16, 2), True, penalties, bias, allowed)
    plain = Draws(number, whole, number, number, empty(16, 2), False)
    logits = empty(16, vocab, dtype=KINDS[kind])
    yield f"sample {kind} with everything", partial(sample.sample, logits, draws)
    yield f"sample {kind} without filters", partial(sample.sample, logits, plain)
    yield f"top_logprobs {kind}", partial(likeliest.top_logprobs, logits, number, 20)


def _attention(model: str, kind: str, float8: bool) -> Iterator[Case]:
    heads, kv_heads, head_dim = MODELS[model]
    dtype = KINDS[kind]
    cached = torch.float8_e4m3fn if float8 else dtype
    query = empty(1024, heads + 2 * kv_heads, head_dim, dtype=dtype)[:, :heads]
    keys, values = (empty(4096, kv_heads, head_dim, dtype=cached) for _ in range(2))
    cache = PagedKV(keys, values, empty(64, 2048))
    name = f"{model} {kind}" + (" fp8 cache" if float8 else "")
    row = empty(16)
    work = ExtendWork(row, row, row, row, empty(32, 2))
    for label, options in {"": {}, " window": {"window": 512}, " uniform": {"uniform": True}}.items():
        yield f"extend {name}{label}", partial(attention_extend.extend_attention, query, cache, work, **options)
    decode = DecodeWork(row, empty(64, 4), empty(17), empty(64, 5), row, 1000)
    yield f"decode {name}", partial(attention_decode.decode_attention, query[:16], cache, decode)
