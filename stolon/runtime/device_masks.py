"""The masks of a step's constrained rows: filled in the very buffer that is sent, while the forward pass runs."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..kernels.drawing import Allowed
from .accelerator import Accelerator
from .sequence import Masks
from .staging import Layout, Parcel, Staging


class MaskStaging:
    """Buffers for one bitmask a row, in memory that the device copies from by itself.

    They are not those of the launch: that is on its way before the first bit is known.
    """

    def __init__(self, accelerator: Accelerator, vocab_size: int, most_rows: int) -> None:
        self._words = -(-vocab_size // 32)
        self._most_rows = most_rows
        self._staging = Staging(accelerator, self._layout(most_rows).total)
        self._parcel: Parcel | None = None
        self._bits = np.empty((0, self._words), np.int32)

    def _layout(self, rows: int) -> Layout:
        return Layout({"lines": self._most_rows, "bits": rows * self._words})

    def open(self, rows: int) -> NDArray[np.int32]:
        """int32 [rows, words], to be filled before the next `send`; what it held is not wiped."""
        self._parcel = self._staging.open(self._layout(rows))
        self._bits = self._parcel.host.int32("bits").reshape(rows, self._words)
        return self._bits

    def send(self, masks: Masks, draws: list[int]) -> Allowed:
        """Enqueue the one copy. masks: their bits are what `open` gave; draws: the plan's row of each draw"""
        parcel, self._parcel = self._parcel, None
        assert parcel is not None, "masks are sent once"
        assert masks.bits is self._bits, "the bits of masks are filled where `mask_bits` says"
        lines = parcel.host.int32("lines")
        lines[:] = -1
        place = {row: i for i, row in enumerate(draws)}
        lines[[place[row] for row in masks.rows]] = np.arange(len(masks.rows))
        parcel.send()
        return Allowed(
            parcel.device.int32("bits").view(len(masks.rows), self._words), parcel.device.int32("lines")[: len(draws)]
        )
