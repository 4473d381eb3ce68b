"""What a step is told, in one buffer: filled on the host, copied to the device in one piece, cut into arrays there."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .accelerator import Accelerator, Marker

Arrays = dict[str, NDArray[np.int32]]

# Arrays begin at multiples of 16 bytes, the widest load of a GPU's thread.
ALIGNMENT = 4
# The device may be so many steps behind the host: the one it computes and the one that is enqueued.
BUFFERS = 2


class Layout:
    """Where arrays of 4-byte numbers lie in a buffer, one after another.

    sizes: of each array, in numbers; total: numbers in all
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.places: dict[str, slice] = {}
        at = 0
        for name, size in sizes.items():
            self.places[name] = slice(at, at + size)
            at += -(-size // ALIGNMENT) * ALIGNMENT
        self.total = at


class HostArrays:
    """The arrays of one layout on the host, to be filled."""

    __slots__ = ("_buffer", "_places")

    def __init__(self, buffer: NDArray[np.int32], layout: Layout) -> None:
        self._buffer = buffer
        self._places = layout.places

    def int32(self, name: str) -> NDArray[np.int32]:
        return self._buffer[self._places[name]]

    def float32(self, name: str) -> NDArray[np.float32]:
        return self._buffer[self._places[name]].view(np.float32)


class DeviceArrays:
    """The same arrays on the device; they hold what was sent last."""

    __slots__ = ("_buffer", "_places")

    def __init__(self, buffer: Tensor, layout: Layout) -> None:
        self._buffer = buffer
        self._places = layout.places

    def int32(self, name: str) -> Tensor:
        return self._buffer[self._places[name]]

    def float32(self, name: str) -> Tensor:
        return self._buffer[self._places[name]].view(torch.float32)


class Staging:
    """Buffers of one size: one on the device, at an address that never changes, and a few in turn on the host.

    A layout may be larger than that; it gets buffers of its own, which last as long as its arrays do.
    """

    def __init__(self, accelerator: Accelerator, capacity: int) -> None:
        """capacity: in 4-byte numbers"""
        self._accelerator = accelerator
        self.capacity = capacity
        self.device = torch.zeros(capacity, dtype=torch.int32, device=accelerator.device)
        self._hosts = [_HostBuffer(accelerator, capacity) for _ in range(BUFFERS)]
        self._turn = 0

    def owns(self, parcel: Parcel) -> bool:
        """Whether its arrays lie at the address that never changes."""
        return parcel.buffer is self.device

    def open(self, layout: Layout) -> Parcel:
        """Arrays to fill, in a buffer that no copy is reading any more."""
        if layout.total > self.capacity:
            device = torch.empty(layout.total, dtype=torch.int32, device=self._accelerator.device)
            return Parcel(_HostBuffer(self._accelerator, layout.total), device, layout)
        self._turn = (self._turn + 1) % BUFFERS
        host = self._hosts[self._turn]
        host.wait()
        return Parcel(host, self.device, layout)


class Parcel:
    """One step's arrays: fill `host`, then `send`, then use `device`."""

    __slots__ = ("_host", "_total", "buffer", "device", "host")

    def __init__(self, host: _HostBuffer, buffer: Tensor, layout: Layout) -> None:
        """buffer: on the device"""
        self._host = host
        self._total = layout.total
        self.buffer = buffer
        self.host = HostArrays(host.numbers, layout)
        self.device = DeviceArrays(buffer, layout)

    def send(self) -> None:
        """Enqueue the one copy."""
        self.buffer[: self._total].copy_(self._host.tensor[: self._total], non_blocking=True)
        self._host.sent()


class _HostBuffer:
    def __init__(self, accelerator: Accelerator, capacity: int) -> None:
        self._accelerator = accelerator
        self.tensor = accelerator.host_bytes(capacity * 4).view(torch.int32)
        self.numbers: NDArray[np.int32] = self.tensor.numpy()
        self._copied: Marker | None = None

    def sent(self) -> None:
        self._copied = self._accelerator.mark()

    def wait(self) -> None:
        if self._copied is not None:
            self._copied.wait()
            self._copied = None


class Outbox:
    """What a step answers: put together on the device, copied to the host in one piece, read there later."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._parts: list[Tensor] = []
        self._host = torch.empty(0, dtype=torch.int32)
        self._sent: Marker | None = None

    @property
    def is_empty(self) -> bool:
        return not self._parts

    def put(self, tensor: Tensor) -> int:
        """tensor: of 4-byte numbers; returns what `take` asks for"""
        self._parts.append(tensor.reshape(-1).view(torch.int32))
        return len(self._parts) - 1

    def send(self) -> None:
        """Enqueue the one copy."""
        together = torch.cat(self._parts)
        self._host = self._accelerator.host_bytes(together.shape[0] * 4).view(torch.int32)
        self._host.copy_(together, non_blocking=True)
        self._sent = self._accelerator.mark()

    def wait(self) -> None:
        assert self._sent is not None, "nothing was sent"
        self._sent.wait()

    def take(self, part: int) -> NDArray[np.int32]:
        """Its numbers, flat; use `view` for others than int32. Only after `wait`."""
        at = sum(p.shape[0] for p in self._parts[:part])
        return self._host.numpy()[at : at + self._parts[part].shape[0]]
