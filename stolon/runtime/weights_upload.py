"""Weights on their way from files to a device."""

from __future__ import annotations

import torch
from torch import Tensor

from .accelerator import Accelerator, Marker

# Large enough that a copy's fixed cost does not show, small enough that pinning it takes no time.
PIECE_BYTES = 32 << 20


class Uploader:
    """Copies tensors to the device piece by piece: while one piece travels, the next is read from its file.

    Without the detour through memory that the device can reach by itself, torch would make it, in small pieces and one
    after another.
    """

    def __init__(self, accelerator: Accelerator, piece_bytes: int = PIECE_BYTES) -> None:
        self._accelerator = accelerator
        self._pieces = [accelerator.host_bytes(piece_bytes) for _ in range(2)]
        self._sent: list[Marker | None] = [None, None]
        self._turn = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        """tensor: on the host; returns a copy of it on the device, of the same type"""
        source = tensor.contiguous().view(-1).view(torch.uint8)
        target = torch.empty(source.shape, dtype=torch.uint8, device=self._accelerator.device)
        size = self._pieces[0].shape[0]
        for low in range(0, source.shape[0], size):
            self._send(source[low : low + size], target[low : low + size])
        return target.view(tensor.dtype).view(tensor.shape)

    def _send(self, source: Tensor, target: Tensor) -> None:
        turn = self._turn = 1 - self._turn
        sent = self._sent[turn]
        if sent is not None:
            sent.wait()
        piece = self._pieces[turn][: source.shape[0]]
        piece.copy_(source)
        target.copy_(piece, non_blocking=True)
        self._sent[turn] = self._accelerator.mark()
