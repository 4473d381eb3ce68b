"""Which model to load, where from, and in which number format."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from ..kernels.choose import Operators
from ..lang.errors import CheckpointError, InvalidRequest
from .config import EngineConfig
from .directories import model_directory
from .models.config import ModelConfig, read_model_config
from .models.decoder import Decoder, MakeLinear, TensorSource
from .weights import Checkpoint, Place
from .weights_random import RandomWeights

# Below this many parameters float32 costs nothing that matters, and its text hardly depends on the batch.
SMALL_MODEL = 50_000_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Source(TensorSource, Protocol):
    """Weights of one model, given tensor by tensor."""

    def finish(self) -> None:
        """Raises CheckpointError if a tensor is left that the model has no place for."""
        ...


@dataclass(frozen=True, slots=True)
class Origin:
    """A model's shape, and where its weights come from.

    open: gives them as a type, on a device; `place` copies a tensor from the host there, None where it is there
    """

    name: str
    model: ModelConfig
    open: Callable[[torch.dtype, torch.device, Place | None], AbstractContextManager[Source]]


def find_model(config: EngineConfig) -> Origin:
    """The model that the settings name. Raises CheckpointError, InvalidRequest for wrong overrides."""
    directory: Path = model_directory(config)
    model = read_model_config(directory, _overrides(config))

    def open_files(dtype: torch.dtype, device: torch.device, place: Place | None) -> Checkpoint:
        return Checkpoint(directory, dtype, tied=model.tied, place=place)

    def make(dtype: torch.dtype, device: torch.device, place: Place | None) -> RandomWeights:
        return RandomWeights(dtype, device)

    return Origin(str(directory), model, make if config.load_format == "dummy" else open_files)


def _overrides(config: EngineConfig) -> dict[str, Any]:
    try:
        found: Any = json.loads(config.hf_overrides or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest(
            f"hf_overrides must be a JSON object of fields of config.json, got {config.hf_overrides!r}",
            param="hf_overrides",
        )
    return cast("dict[str, Any]", found)


@dataclass(frozen=True, slots=True)
class Setup:
    """A model and how it is to be computed; what was "auto" is worked out.

    dtype: of the weights as they are loaded
    """

    config: EngineConfig
    origin: Origin
    dtype: torch.dtype
    context_length: int
    eos_token_ids: frozenset[int]

    @property
    def model(self) -> ModelConfig:
        return self.origin.model


def context_length(config: EngineConfig, most: int, default: int) -> int:
    """What the flag says, else `default`; most: what the model can read. Raises InvalidRequest."""
    if config.context_length is None:
        return default
    if not 1 <= config.context_length <= most:
        raise InvalidRequest(
            f"context_length must be in [1, {most}] for this model, got {config.context_length}",
            param="context_length",
        )
    return config.context_length


def load_decoder(
    setup: Setup,
    make_linear: MakeLinear,
    operators: Operators,
    flow: torch.dtype,
    device: torch.device,
    place: Place | None = None,
) -> Decoder:
    """flow: the type of what flows between the layers. Raises CheckpointError."""
    origin = setup.origin
    with origin.open(setup.dtype, device, place) as source:
        try:
            decoder = Decoder(origin.model, source, make_linear, flow, operators)
        except (MemoryError, RuntimeError) as error:
            raise CheckpointError(f"{origin.name}: the model could not be loaded: {error}") from error
        source.finish()
    return decoder
