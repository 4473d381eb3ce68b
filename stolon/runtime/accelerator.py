"""The device that steps are enqueued on: memory, the order of work, graphs. A GPU, or a CPU that plays its part.

The CPU computes at once, so that everything written for a GPU runs, and is tested, without one.
"""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.attention_plan import Chip
from ..lang.errors import InvalidRequest
from .memory import free_memory_bytes

# Below it there is no bfloat16.
LEAST_CAPABILITY = (8, 0)
# Few units, so that small batches are split as large ones are on a GPU.
SMALL_CHIP = Chip(units=4, bandwidth=1e11, cache_bytes=1 << 20)


class Marker(Protocol):
    """A place in the queue of work."""

    def wait(self) -> None:
        """Return once all that was enqueued before it is done."""
        ...


class Replay(Protocol):
    """Work that was recorded once and is done again, on the same memory."""

    def __call__(self) -> None: ...


class Accelerator(Protocol):
    """One device with one queue of work; what is enqueued is done in order."""

    device: torch.device
    chip: Chip
    has_float8: bool

    def host_bytes(self, count: int) -> Tensor:
        """uint8 [count] on the host, which the device can copy from and to while the host goes on."""
        ...

    def mark(self) -> Marker: ...

    def record(self, work: Callable[[], None]) -> Replay:
        """Do `work` once to warm up, then record it: its kernels must not depend on values that the host reads."""
        ...

    def free_bytes(self) -> int: ...

    def peak_bytes(self, work: Callable[[], None]) -> int:
        """By how much memory in use grows at most while `work` is done; 0 where the host's memory hides that."""
        ...

    def describe(self) -> str: ...


class CudaAccelerator:
    """A GPU of NVIDIA's, through torch. All graphs take memory from one pool."""

    def __init__(self, index: int = 0) -> None:
        self.device = torch.device("cuda", index)
        self.chip = _chip(self.device)
        self.has_float8 = torch.cuda.get_device_capability(self.device) >= (8, 9)
        torch.cuda.set_device(self.device)
        self._stream = torch.cuda.current_stream(self.device)
        self._pool = torch.cuda.graph_pool_handle()

    def host_bytes(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.uint8, pin_memory=True)

    def mark(self) -> Marker:
        return _CudaMarker(self._stream)

    def record(self, work: Callable[[], None]) -> Replay:
        work()
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        # thread-local: other threads (a server, a compiler of grammars) may call CUDA meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def free_bytes(self) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        # what torch keeps for itself and does not use is free for us
        return free + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)

    def peak_bytes(self, work: Callable[[], None]) -> int:
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        reserved = torch.cuda.memory_reserved(self.device)
        work()
        torch.cuda.synchronize(self.device)
        torch_grew = torch.cuda.max_memory_reserved(self.device) - reserved
        # libraries take memory of their own, past torch's books: workspaces, code of kernels
        taken = free - torch.cuda.mem_get_info(self.device)[0]
        others = max(taken - (torch.cuda.memory_reserved(self.device) - reserved), 0)
        torch.cuda.empty_cache()
        return torch_grew + others

    def describe(self) -> str:
        properties = torch.cuda.get_device_properties(self.device)
        return f"{properties.name}, {properties.total_memory / (1 << 30):.0f} GiB, CUDA {torch.version.cuda}"


class _CudaMarker:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._event = torch.cuda.Event(blocking=True)  # a waiting thread sleeps; others need the processor
        self._event.record(stream)

    def wait(self) -> None:
        self._event.synchronize()


class HostAccelerator:
    """A CPU in the place of a GPU: slower than the CPU's own path, and the same code as on a GPU."""

    def __init__(self, chip: Chip = SMALL_CHIP) -> None:
        """chip: the one whose plans of attention it follows"""
        self.device = torch.device("cpu")
        self.chip = chip
        self.has_float8 = True

    def host_bytes(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.uint8)

    def mark(self) -> Marker:
        return _Done()

    def record(self, work: Callable[[], None]) -> Replay:
        work()
        return work

    def free_bytes(self) -> int:
        return free_memory_bytes()

    def peak_bytes(self, work: Callable[[], None]) -> int:
        work()
        return 0

    def describe(self) -> str:
        return "a CPU in the place of a GPU"


class _Done:
    def wait(self) -> None:
        pass


def _chip(device: torch.device) -> Chip:
    """Its memory's rate is measured, with a copy that the cache cannot hold: no driver tells it."""
    properties = torch.cuda.get_device_properties(device)
    size = 1 << 29
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times: list[float] = []
    for _ in range(5):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return Chip(properties.multi_processor_count, 2 * size / min(times), properties.L2_cache_size)


def usable_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= LEAST_CAPABILITY


def cuda_accelerator() -> CudaAccelerator:
    """Raises InvalidRequest with the reason where no GPU can be used."""
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise InvalidRequest(
            f"device cuda: no GPU can be used (torch {torch.__version__}, {built}); use cpu, or a torch for CUDA with "
            "the driver it needs",
            param="device",
        )
    if importlib.util.find_spec("triton") is None:
        raise InvalidRequest("device cuda needs Triton: pip install 'stolon[gpu]', or use cpu", param="device")
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < LEAST_CAPABILITY:
        raise InvalidRequest(
            f"device cuda: the kernels need compute capability 8.0 or newer, this GPU has {major}.{minor}; use cpu",
            param="device",
        )
    return CudaAccelerator()
