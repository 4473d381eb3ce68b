"""Loads a model and computes the scheduler's plans."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..lang.errors import CheckpointError, InvalidRequest
from .batch import PagedAttention, make_batch
from .config import EngineConfig
from .cpu_step import CpuStep, Wanted
from .kv import KVCache
from .memory import GIB, KVShape, free_memory_bytes, size_kv_cache
from .models.config import ModelConfig, read_model_config
from .models.decoder import Decoder
from .models.linear import Linear, LinearOptions, bfloat16_is_fast, int8_works, make_linear, native_gemv, packing_works
from .sequence import Plan
from .weights import Checkpoint, model_directory

# Below this many parameters float32 costs nothing that matters, and its text hardly depends on the batch.
SMALL_MODEL = 50_000_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A second copy of the weights, for single rows, may take this share of what is free once they are loaded.
PLAIN_COPY_SHARE = 0.25


class ModelRunner:
    """One model and its KV cache on one device.

    num_slots: size of the KV cache in tokens; context_length: longest prompt and answer
    memory_report: what weights and KV cache take and why, for people to read
    """

    def __init__(self, config: EngineConfig, *, end_token_ids: frozenset[int] = frozenset()) -> None:
        """Load the weights and make the cache.

        end_token_ids: further tokens that end an answer, which only the tokenizer knows; `min_tokens` hides them too
        Raises CheckpointError where the checkpoint is wrong, InvalidRequest where the settings are.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = _device(config)
        directory = model_directory(config.model_path)
        self.model_config = read_model_config(directory)
        self.context_length = _context_length(config, self.model_config)
        self.vocab_size = self.model_config.vocab_size
        self.eos_token_ids = self.model_config.eos_token_ids | end_token_ids
        self.dtype = choose_dtype(config, self.model_config)
        with torch.inference_mode():
            options = _linear_options(config, self.model_config, self.dtype)
            self._decoder = _load(directory, self.model_config, self.dtype, options)
            budget = size_kv_cache(
                _kv_shape(self.model_config, self.dtype),
                free_bytes=free_memory_bytes(),
                fraction=config.memory_fraction,
                asked=config.kv_tokens,
                useful=config.scheduler.max_running_requests * self.context_length,
                page_size=config.scheduler.page_size,
            )
            self.num_slots = budget.tokens
            self._cache = KVCache(self.model_config, budget.tokens, self.dtype)
        self._drawn: list[int] = []  # by row of the step launched last, once that has sampled
        self.memory_report = "\n".join((_weights_report(self.model_config, self.dtype, options), budget.report))

    def launch(self, plan: Plan) -> CpuStep:
        """The forward pass; it is over when this returns. A row's own fault will be its result's error."""
        with torch.inference_mode(), native_gemv():
            batch = make_batch(plan, self._drawn)
            wanted = Wanted.of(plan)
            attention = PagedAttention(batch, self._cache, self.model_config.windows)
            keep = torch.tensor(wanted.indices, dtype=torch.int64)
            hidden = self._decoder.hidden(batch.ids, batch.positions, attention, keep)
        step = CpuStep(plan, wanted, hidden, self._decoder, self.eos_token_ids)
        self._drawn = step.drawn
        return step


def _device(config: EngineConfig) -> torch.device:
    if config.device == "cuda":
        raise InvalidRequest("device cuda is not supported yet; use cpu", param="device")
    return torch.device("cpu")


def choose_dtype(config: EngineConfig, model: ModelConfig) -> torch.dtype:
    """float16 is never computed with on a CPU: its products are 10 to 30 times slower than bfloat16's."""
    if config.dtype == "float16":
        raise InvalidRequest("dtype float16 is too slow on a CPU; use bfloat16, float32 or auto", param="dtype")
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    if model.num_parameters < SMALL_MODEL or model.dtype not in ("bfloat16", "float16"):
        return torch.float32
    return torch.bfloat16 if bfloat16_is_fast() else torch.float32


def _context_length(config: EngineConfig, model: ModelConfig) -> int:
    if config.context_length is None:
        return model.context_length
    if not 1 <= config.context_length <= model.context_length:
        raise InvalidRequest(
            f"context_length must be in [1, {model.context_length}] for this model, got {config.context_length}",
            param="context_length",
        )
    return config.context_length


def _linear_options(config: EngineConfig, model: ModelConfig, dtype: torch.dtype) -> LinearOptions:
    if config.quantization == "int8":
        if not int8_works():
            raise InvalidRequest(
                "quantization int8 needs operators that this torch lacks; use none", param="quantization"
            )
        return LinearOptions(packed=False, int8=True)
    options = LinearOptions(packed=packing_works(dtype))
    extra = model.linear_size * dtype.itemsize
    if (
        dtype == torch.bfloat16
        and extra < (free_memory_bytes() - _weight_bytes(model, dtype, options)) * PLAIN_COPY_SHARE
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


def _load(directory: Path, model: ModelConfig, dtype: torch.dtype, options: LinearOptions) -> Decoder:
    def linear(weight: Tensor, bias: Tensor | None) -> Linear:
        return make_linear(weight, bias, options)

    with Checkpoint(directory, dtype, tied=model.tied) as checkpoint:
        try:
            decoder = Decoder(model, checkpoint, linear, torch.float32 if options.int8 else dtype)
        except (MemoryError, RuntimeError) as error:
            raise CheckpointError(f"{directory}: the model could not be loaded: {error}") from error
        checkpoint.finish()
    return decoder


def _kv_shape(model: ModelConfig, dtype: torch.dtype) -> KVShape:
    return KVShape(
        layers=model.num_layers, kv_heads=model.num_kv_heads, head_dim=model.head_dim, item_bytes=dtype.itemsize
    )


def _weights_report(model: ModelConfig, dtype: torch.dtype, options: LinearOptions) -> str:
    kind = "int8" if options.int8 else str(dtype).removeprefix("torch.")
    size = _weight_bytes(model, dtype, options) / GIB
    text = f"weights: {model.architecture}, {model.num_parameters / 1e6:.1f} M parameters, {kind}, {size:.2f} GiB"
    return text + (", with a plain copy that batch 1 reads faster" if options.plain_copy else "")
