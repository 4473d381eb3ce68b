"""Every kernel as models launch it, on tensors that take no memory; for `kernel_check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from stolon.kernels import attention_decode, attention_extend
from stolon.kernels.paged import DecodeWork, ExtendWork, PagedKV

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
    """brief: each kernel once, as Llama-3.1-8B in bfloat16 has it"""
    forms = [(model, kind, False) for model in MODELS for kind in KINDS] + [("llama-8b", "bf16", True)]
    for model, kind, float8 in [("llama-8b", "bf16", False)] if brief else forms:
        yield from _attention(model, kind, float8)


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
