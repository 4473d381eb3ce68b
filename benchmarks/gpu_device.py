"""What the device itself can do: copies, products, and our attention by itself."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from stolon.kernels.attention_plan import DecodePlanner, Heads
from stolon.kernels.choose import operators
from stolon.kernels.paged import DecodeWork, PagedKV
from stolon.runtime.accelerator import HostAccelerator, cuda_accelerator


def device_of(*, dry: bool) -> torch.device:
    return torch.device("cpu" if dry else "cuda")


def give_back() -> None:
    """Leave the device's memory to whoever comes next in this process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def seconds(work: Callable[[], object], runs: int, *, dry: bool, warm: int = 3) -> list[float]:
    """One number a run; on a GPU by its own clock."""
    for _ in range(warm):
        work()
    found: list[float] = []
    for _ in range(runs):
        if dry:
            began = time.perf_counter()
            work()
            found.append(time.perf_counter() - began)
            continue
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1000)
    return found


def copy_bandwidth(runs: int, *, dry: bool) -> float:
    """Bytes read and written a second, by the median copy of what no cache holds."""
    size = 1 << (20 if dry else 32)
    source = torch.empty(size, dtype=torch.uint8, device=device_of(dry=dry)).random_()
    target = torch.empty_like(source)
    return 2 * size / statistics.median(seconds(lambda: target.copy_(source), runs, dry=dry))


def matrix_rate(runs: int, *, dry: bool) -> float:
    """Operations a second of bfloat16 products of random numbers (zeros would be faster)."""
    side = 64 if dry else 8192
    kind = torch.float32 if dry else torch.bfloat16
    left, right = (torch.randn(side, side, device=device_of(dry=dry)).to(kind) for _ in range(2))
    return 2 * side**3 / statistics.median(seconds(lambda: left @ right, runs, dry=dry))


def decode_attention_seconds(runs: int, *, rows: int, context: int, dry: bool) -> tuple[list[float], int]:
    """Of one layer with Llama-3.1-8B's heads; and the bytes of keys and values that it reads."""
    device, kind = device_of(dry=dry), torch.float32 if dry else torch.bfloat16
    heads = Heads(32, 8, 128, kind.itemsize, kind.itemsize)
    chip = HostAccelerator().chip if dry else cuda_accelerator().chip
    slots = rows * context
    cache = PagedKV(
        torch.randn(slots, 8, 128, device=device, dtype=kind),
        torch.randn(slots, 8, 128, device=device, dtype=kind),
        # a cache that has been in use for a while: no two positions of a sequence are neighbours
        torch.randperm(slots, device=device).int().view(rows, context),
    )
    planner = DecodePlanner(rows, heads, chip)
    plan = planner.plan(np.full(rows, context, np.int32))
    put = [torch.from_numpy(part).to(device) for part in (plan.items, plan.firsts, plan.members)]
    work = DecodeWork(torch.arange(rows, device=device, dtype=torch.int32), put[0], put[1], None, put[2], plan.partials)
    query = torch.randn(rows, 32, 128, device=device, dtype=kind)
    attend = operators("cpu" if dry else "cuda").decode_attention
    return seconds(lambda: attend(query, cache, work), runs, dry=dry), slots * heads.position_bytes
