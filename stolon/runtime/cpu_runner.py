"""Computes plans on a CPU, with the fastest form of every operator that it has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.choose import operators
from ..lang.errors import InvalidRequest
from .batch import PagedAttention, make_batch
from .config import EngineConfig
from .cpu_step import CpuStep, Wanted
from .kv import KVCache
from .loading import DTYPES, SMALL_MODEL, Setup, load_decoder
from .memory import GIB, KVShape, asked_tokens, free_memory_bytes, size_kv_cache
from .models.config import ModelConfig
from .models.linear import (
    Linear,
    LinearOptions,
    SingleRow,
    bfloat16_is_fast,
    int8_works,
    make_linear,
    native_gemv,
    packing_works,
)
from .models.rotary import TurnedAttention, cos_sin, inverse_frequencies
from .sequence import Plan

# A second copy of the weights, for single rows, may take this share of what is free once they are loaded, and must make
# their products so many times faster.
PLAIN_COPY_SHARE = 0.25
PLAIN_COPY_GAIN = 1.1
# Of what is free once the weights are loaded, for the KV cache: others use the machine's memory, too.
MEMORY_FRACTION = 0.6


class CpuRunner:
    """One model and its KV cache in the host's memory; a step is over when its launch returns.

    num_slots: size of the KV cache in tokens; memory_report: what weights and KV cache take and why
    """

    def __init__(self, setup: Setup) -> None:
        config, model, dtype = setup.config, setup.model, setup.dtype
        _refuse_unsupported(config)
        if config.deterministic:
            # where threads part, some numbers are rounded as a vector's are not, and the batch decides which
            torch.set_num_threads(1)
        options = _linear_options(config, model, dtype)

        def linear(weight: Tensor, bias: Tensor | None) -> Linear:
            return make_linear(weight, bias, options)

        flow = torch.float32 if options.int8 else dtype
        self.decoder = load_decoder(setup, linear, operators("cpu"), flow, torch.device("cpu"))
        fraction = config.memory_fraction
        shape = KVShape.of(model, dtype.itemsize)
        budget = size_kv_cache(
            shape,
            free_bytes=free_memory_bytes(),
            fraction=MEMORY_FRACTION if fraction is None else fraction,
            asked=asked_tokens(config, shape),
            useful=config.scheduler.max_running_requests * setup.context_length,
            page_size=config.scheduler.page_size,
        )
        self.num_slots = budget.tokens
        self.cache = KVCache(model, budget.tokens, dtype)
        self.memory_report = "\n".join((_weights_report(model, dtype, options), budget.report))
        self._frequencies = inverse_frequencies(model.rope, model.head_dim)
        self._angles: tuple[Tensor, Tensor] | None = None
        if config.deterministic:
            # looked up: how many are computed at once may decide how they are rounded
            self._angles = cos_sin(torch.arange(setup.context_length), self._frequencies, flow)
        self._eos = setup.eos_token_ids
        self._drawn: list[int] = []  # by row of the step launched last, once that has sampled
        self._bits = np.empty((0, -(-model.vocab_size // 32)), np.int32)  # of the masks of a step

    def _turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        if self._angles is None:
            return cos_sin(positions, self._frequencies, self.decoder.dtype)
        cos, sin = self._angles
        return cos[positions], sin[positions]

    def launch(self, plan: Plan) -> CpuStep:
        """The forward pass; it is over when this returns. A row's own fault will be its result's error."""
        decoder = self.decoder
        with torch.inference_mode(), native_gemv():
            batch = make_batch(plan, self._drawn)
            wanted = Wanted.of(plan)
            paged = PagedAttention(batch, self.cache, decoder.config.windows, fixed=self._angles is not None)
            cos, sin = self._turns(batch.positions)
            attention = TurnedAttention(decoder.config, cos, sin, paged)
            keep = torch.tensor(wanted.indices, dtype=torch.int64)
            hidden = decoder.hidden(batch.ids, attention, keep)
        step = CpuStep(plan, wanted, hidden, decoder, self._eos)
        self._drawn = step.drawn
        return step

    def mask_bits(self, rows: int) -> NDArray[np.int32]:
        if rows > len(self._bits):
            self._bits = np.empty((max(rows, 2 * len(self._bits)), self._bits.shape[1]), np.int32)
        return self._bits[:rows]


def _refuse_unsupported(config: EngineConfig) -> None:
    if config.deterministic and config.threads not in (None, 1):
        raise InvalidRequest(
            f"deterministic computes on one thread of a CPU, got threads={config.threads}; leave one of them out",
            param="threads",
        )
    if config.quantization == "fp8":
        raise InvalidRequest("quantization fp8 needs a GPU; use int8 or none on a CPU", param="quantization")
    if config.kv_cache_dtype != "auto":
        raise InvalidRequest(f"kv_cache_dtype {config.kv_cache_dtype} needs a GPU; use auto", param="kv_cache_dtype")


def choose_cpu_dtype(config: EngineConfig, model: ModelConfig) -> torch.dtype:
    """float16 is never computed with on a CPU: its products are 10 to 30 times slower than bfloat16's."""
    if config.dtype == "float16":
        raise InvalidRequest("dtype float16 is too slow on a CPU; use bfloat16, float32 or auto", param="dtype")
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    if model.num_parameters < SMALL_MODEL or model.dtype not in ("bfloat16", "float16"):
        return torch.float32
    return torch.bfloat16 if bfloat16_is_fast() else torch.float32


def _linear_options(config: EngineConfig, model: ModelConfig, dtype: torch.dtype) -> LinearOptions:
    if config.quantization == "int8":
        if not int8_works():
            raise InvalidRequest(
                "quantization int8 needs operators that this torch lacks; use none", param="quantization"
            )
        return LinearOptions(packed=False, int8=True)
    options = LinearOptions(packed=packing_works(dtype))
    if config.deterministic:
        # a second, plain copy would compute single rows in another order
        if not options.packed:
            raise InvalidRequest(
                "deterministic needs operators that this torch lacks for its CPU; leave it out", param="deterministic"
            )
        return options
    extra = model.linear_size * dtype.itemsize
    if (
        dtype == torch.bfloat16
        and extra < (free_memory_bytes() - _weight_bytes(model, dtype, options)) * PLAIN_COPY_SHARE
        and SingleRow.measured().plain_gain > PLAIN_COPY_GAIN
    ):
        return replace(options, plain_copy=True)
    return options


def _weight_bytes(model: ModelConfig, dtype: torch.dtype, options: LinearOptions) -> int:
    """Of the embedding, and of all products in the forms that are kept of them."""
    table = model.table_size * dtype.itemsize
    if options.int8:
        return table + model.linear_size
    linear = model.linear_size * dtype.itemsize
    if not options.packed:
        return linear + (0 if model.tied else table)
    plain = linear - (table if model.tied else 0) if options.plain_copy else 0
    return table + linear + plain


def _weights_report(model: ModelConfig, dtype: torch.dtype, options: LinearOptions) -> str:
    kind = "int8" if options.int8 else str(dtype).removeprefix("torch.")
    size = _weight_bytes(model, dtype, options) / GIB
    text = f"weights: {model.architecture}, {model.num_parameters / 1e6:.1f} M parameters, {kind}, {size:.2f} GiB"
    return text + (", with a plain copy that batch 1 reads faster" if options.plain_copy else "")
