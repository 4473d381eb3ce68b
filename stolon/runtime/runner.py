"""Loads a model onto a device and computes the scheduler's plans there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..lang.errors import InvalidRequest
from .accelerator import Accelerator, cuda_accelerator, usable_gpu
from .config import WHOLE_PROMPT, EngineConfig
from .cpu_runner import CpuRunner, choose_cpu_dtype
from .device_runner import DeviceRunner, choose_device_dtype
from .loading import Setup, context_length, find_model
from .oom import MemoryGuarded, out_of_memory
from .sequence import Plan, Step

GPU_STEP_TOKENS = 8192
GPU_GUESS_ROWS = 64


class ModelRunner:
    """One model and its KV cache on one device.

    num_slots: size of the KV cache in tokens; context_length: longest prompt and answer
    is_asynchronous: a launch returns before its step is done, so that other work can be done meanwhile
    memory_report: what weights and KV cache take and why, for people to read
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        end_token_ids: frozenset[int] = frozenset(),
        accelerator: Accelerator | None = None,
    ) -> None:
        """Load the weights and make the cache.

        end_token_ids: further tokens that end an answer, which only the tokenizer knows; `min_tokens` hides them too
        accelerator: the device, instead of `config.device`
        Raises CheckpointError where the checkpoint is wrong, InvalidRequest where the settings are.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if accelerator is None and wants_gpu(config):
            accelerator = cuda_accelerator()
        origin = find_model(config)
        model = origin.model
        setup = Setup(
            config=config,
            origin=origin,
            dtype=choose_cpu_dtype(config, model) if accelerator is None else choose_device_dtype(config, model),
            context_length=context_length(config, model.context_length, model.context_length),
            eos_token_ids=model.eos_token_ids | end_token_ids,
        )
        with torch.inference_mode():
            self._runner = CpuRunner(setup) if accelerator is None else DeviceRunner(setup, accelerator)
        self.device = torch.device("cpu") if accelerator is None else accelerator.device
        self.is_asynchronous = accelerator is not None
        self.dtype = setup.dtype
        self.model_config = model
        self.context_length = setup.context_length
        self.vocab_size = model.vocab_size
        self.eos_token_ids = setup.eos_token_ids
        self.num_slots = self._runner.num_slots
        self.memory_report = self._runner.memory_report
        self.decoder = self._runner.decoder
        self.cache = self._runner.cache

    def launch(self, plan: Plan) -> Step:
        """Begin the forward pass. A row's own fault will be its result's error, any other fails the step."""
        with out_of_memory():
            return MemoryGuarded(self._runner.launch(plan))

    def mask_bits(self, rows: int) -> NDArray[np.int32]:
        return self._runner.mask_bits(rows)


def resolve(config: EngineConfig) -> EngineConfig:
    """With pages of the KV cache as tokens, with a budget for whole prompts as a number, and with what a GPU makes of
    settings that were left open.

    A step's fixed cost is small there beside its work only if it has thousands of tokens; and a step of 8,192 is short
    enough for those who wait for their next one. 64 rows take hardly longer than one.
    Raises InvalidRequest for more than one size of the KV cache; of whole prompts, what `find_model` raises, too.
    """
    sizes = {"kv_tokens": config.kv_tokens, "kv_bytes": config.kv_bytes, "kv_pages": config.kv_pages}
    given = [name for name, size in sizes.items() if size is not None]
    if len(given) > 1:
        raise InvalidRequest(f"the KV cache has one size; give one of {', '.join(given)}", param=given[1])
    if config.kv_pages is not None:
        config = replace(config, kv_tokens=config.kv_pages * config.scheduler.page_size, kv_pages=None)
    asked = config.scheduler
    if wants_gpu(config):
        budget = GPU_STEP_TOKENS if asked.token_budget is None else asked.token_budget
        rows = GPU_GUESS_ROWS if asked.speculative_rows is None else asked.speculative_rows
        asked = replace(asked, token_budget=budget, speculative_rows=rows)
    if asked.token_budget == WHOLE_PROMPT:
        model = find_model(config).model
        longest = context_length(config, model.context_length, model.context_length)
        asked = asked.with_whole_prompts(longest if config.kv_tokens is None else min(longest, config.kv_tokens))
    return replace(config, scheduler=asked)


def wants_gpu(config: EngineConfig) -> bool:
    """`auto` is a GPU where there is one that the kernels can use."""
    if config.threads is not None and config.device == "cuda":
        raise InvalidRequest("threads is for device cpu; leave it out with cuda", param="threads")
    return config.device == "cuda" or (config.device == "auto" and usable_gpu())
