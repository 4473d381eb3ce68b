"""A model on a GPU: loading, measuring what a step takes, sizing the KV cache, recording graphs."""

from __future__ import annotations

import gc
import time

import numpy as np
import torch
from numpy.typing import NDArray

from ..kernels.attention_plan import Heads
from ..kernels.choose import operators
from ..kernels.reference import rotations
from ..lang.errors import InvalidRequest
from .accelerator import Accelerator
from .config import EngineConfig
from .device_attention import AttentionPlans
from .device_linear import device_linear
from .device_step import DeviceStep
from .device_steps import DeviceModel, DeviceSteps
from .device_warmup import decode_trial, largest_trial, run, warm_trials
from .graphs import bucket_sizes
from .kv import KVCache
from .loading import DTYPES, SMALL_MODEL, Setup, load_decoder
from .memory import GIB, KVShape, asked_tokens, size_kv_cache
from .models.config import ModelConfig
from .models.rotary import inverse_frequencies
from .oom import out_of_memory
from .sequence import OutOfMemory, Plan
from .slot_table import SlotTable
from .weights_upload import Uploader

# Of what is free once weights and steps have what they need: the rest is for what was not measured.
MEMORY_FRACTION = 0.95
# More rows than this take long enough that launches do not show.
MOST_GRAPH_ROWS = 512


class DeviceRunner:
    """One model and its KV cache on an accelerator; launches return before the work is done.

    num_slots: size of the KV cache in tokens; memory_report: what weights, steps and KV cache take and why
    """

    def __init__(self, setup: Setup, accelerator: Accelerator) -> None:
        """When this returns all kernels that steps may need are compiled, and the graphs recorded."""
        began = time.monotonic()
        _refuse_unsupported(setup.config, accelerator)
        before = accelerator.free_bytes()
        model = _load(setup, accelerator)
        weights = before - accelerator.free_bytes()
        loaded = time.monotonic()
        cache_dtype = _cache_dtype(setup.config, setup.dtype)
        reserve = _measure(setup, model, cache_dtype)
        gc.collect()  # steps refer to themselves, and what was measured with would keep its cache for a while
        shape = KVShape.of(setup.model, cache_dtype.itemsize)
        config = setup.config
        budget = size_kv_cache(
            shape,
            free_bytes=max(accelerator.free_bytes() - sum(reserve.values()), 0),
            fraction=MEMORY_FRACTION if config.memory_fraction is None else config.memory_fraction,
            asked=asked_tokens(config, shape),
            useful=config.scheduler.max_running_requests * setup.context_length,
            page_size=config.scheduler.page_size,
        )
        self.decoder = model.decoder
        self.num_slots = budget.tokens
        self.cache = KVCache(setup.model, budget.tokens, cache_dtype, accelerator.device)
        self._steps = DeviceSteps(model, self.cache)
        if config.cuda_graph:
            self._steps.graphs.record(
                bucket_sizes(_graph_rows(config)), shared=not config.deterministic, seconds=config.cuda_graph_seconds
            )
        for trial in warm_trials(setup, self.num_slots):
            run(self._steps, trial)
        ready = time.monotonic()
        self.memory_report = "\n".join(
            (
                f"device: {accelerator.describe()}",
                f"weights: {setup.model.architecture}, {setup.model.num_parameters / 1e6:.1f} M parameters, "
                f"{_kind(setup)}, {weights / GIB:.2f} GiB, loaded in {loaded - began:.1f} s",
                *(f"{what}: {size / GIB:.2f} GiB at most, measured" for what, size in reserve.items()),
                budget.report,
                f"{self._steps.graphs.report}; ready after {ready - began:.1f} s",
            )
        )

    def launch(self, plan: Plan) -> DeviceStep:
        return self._steps.launch(plan)

    def mask_bits(self, rows: int) -> NDArray[np.int32]:
        return self._steps.masks.open(rows)


def choose_device_dtype(config: EngineConfig, model: ModelConfig) -> torch.dtype:
    """The checkpoint's own type, where there is no other wish."""
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    if model.num_parameters < SMALL_MODEL:
        return torch.float32
    return DTYPES.get(model.dtype, torch.bfloat16)


def _refuse_unsupported(config: EngineConfig, accelerator: Accelerator) -> None:
    wanted = {"quantization": config.quantization == "fp8", "kv_cache_dtype": config.kv_cache_dtype != "auto"}
    for name, asked in wanted.items():
        if asked and not accelerator.has_float8:
            raise InvalidRequest(
                f"{name}: 8-bit floats need a GPU of compute capability 8.9 or newer; this is {accelerator.describe()}",
                param=name,
            )


def _load(setup: Setup, accelerator: Accelerator) -> DeviceModel:
    config, model, device = setup.config, setup.model, accelerator.device
    chosen = operators("cuda" if device.type == "cuda" else "cpu", deterministic=config.deterministic)
    place = None if device.type == "cpu" else Uploader(accelerator)
    decoder = load_decoder(setup, device_linear(config, chosen), chosen, setup.dtype, device, place)
    cache_dtype = _cache_dtype(config, setup.dtype)
    heads = Heads(model.num_heads, model.num_kv_heads, model.head_dim, setup.dtype.itemsize, cache_dtype.itemsize)
    frequencies = inverse_frequencies(model.rope, model.head_dim).to(device)
    return DeviceModel(
        accelerator=accelerator,
        operators=chosen,
        decoder=decoder,
        plans=AttentionPlans(heads, accelerator.chip, model.windows, fixed=config.deterministic),
        turns=rotations(frequencies, setup.context_length),
        table=SlotTable(accelerator, config.scheduler.most_rows, setup.context_length),
        eos_token_ids=setup.eos_token_ids,
        most_rows=config.scheduler.most_rows,
        most_tokens=config.scheduler.step_tokens,
    )


def _measure(setup: Setup, model: DeviceModel, cache_dtype: torch.dtype) -> dict[str, int]:
    """What steps take besides weights and KV cache, by doing the largest there can be.

    Raises InvalidRequest if there is no memory for that one.
    """
    accelerator, config = model.accelerator, setup.config
    largest = largest_trial(setup)
    what = f"a step of {largest.plan.num_tokens:,} tokens"
    try:
        with out_of_memory():
            steps = DeviceSteps(model, KVCache(setup.model, largest.plan.num_tokens, cache_dtype, accelerator.device))
            found = {what: accelerator.peak_bytes(lambda: run(steps, largest))}
    except OutOfMemory as error:
        raise InvalidRequest(
            f"{what} does not fit into the device's memory; lower token_budget", param="token_budget"
        ) from error
    if config.cuda_graph:
        rows = _graph_rows(config)
        decode = decode_trial(rows)
        found[f"CUDA graphs of {rows} rows"] = accelerator.peak_bytes(lambda: run(steps, decode))
    return found


def _graph_rows(config: EngineConfig) -> int:
    most = min(config.scheduler.most_rows, config.scheduler.step_tokens)
    return min(most, MOST_GRAPH_ROWS if config.cuda_graph_max_bs is None else config.cuda_graph_max_bs)


def _cache_dtype(config: EngineConfig, dtype: torch.dtype) -> torch.dtype:
    if config.kv_cache_dtype == "auto":
        return dtype
    if dtype == torch.float32:
        raise InvalidRequest(
            "kv_cache_dtype fp8_e4m3 is for models in bfloat16 or float16; this one is computed in float32",
            param="kv_cache_dtype",
        )
    return torch.float8_e4m3fn


def _kind(setup: Setup) -> str:
    quantization = setup.config.quantization
    name = str(setup.dtype).removeprefix("torch.")
    return name if quantization == "none" else f"{quantization} (computed in {name})"
