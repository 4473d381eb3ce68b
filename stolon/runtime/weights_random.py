"""Weights that no file holds: random ones, in the shape of any model, for measuring."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

import torch
from torch import Tensor

# Of every weight that is no norm: small enough that activations stay within bfloat16 through any depth.
STANDARD_DEVIATION = 0.02


class RandomWeights(AbstractContextManager["RandomWeights"]):
    """Gives tensors as a checkpoint does, made on the device where they are used."""

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int = 0) -> None:
        self._dtype = dtype
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def take(self, name: str, *shape: int) -> Tensor:
        if "norm" in name:
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        return tensor.normal_(0.0, STANDARD_DEVIATION, generator=self._generator)

    def finish(self) -> None:
        """Nothing is left over: what is not asked for is not made."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
