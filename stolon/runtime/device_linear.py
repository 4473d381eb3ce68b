"""Matrix products with fixed weights on a device."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.choose import Operators
from ..kernels.reference_linear import Weight, to_float8, to_int8
from .config import EngineConfig
from .models.decoder import MakeLinear
from .models.linear import Linear, PlainLinear


class KernelLinear:
    """The product of our own kernel: of small weights, or with the same sum for a row whatever its company."""

    def __init__(self, weight: Weight, operators: Operators) -> None:
        self.weight = weight
        self._linear = operators.linear

    def __call__(self, x: Tensor) -> Tensor:
        return self._linear(x, self.weight)


def device_linear(config: EngineConfig, operators: Operators) -> MakeLinear:
    """How to hold weights as the settings ask."""

    def make(weight: Tensor, bias: Tensor | None) -> Linear:
        match config.quantization:
            case "int8":
                return KernelLinear(to_int8(weight, bias), operators)
            case "fp8":
                return KernelLinear(to_float8(weight, bias), operators)
            case "none":
                return (
                    KernelLinear(Weight(weight, None, bias), operators)
                    if config.deterministic
                    else PlainLinear(weight, bias)
                )

    return make


def weight_bytes(linear_size: int, config: EngineConfig, dtype: torch.dtype) -> int:
    return linear_size * (dtype.itemsize if config.quantization == "none" else 1)
