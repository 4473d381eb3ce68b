"""The many ways of being told that there is no memory left, under one name."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from .sequence import Masks, OutOfMemory, RowResult, Step

# how torch's CPU allocators and CUDA's libraries say it, as a RuntimeError like any other
_SAID = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@contextmanager
def out_of_memory() -> Generator[None]:
    """Raises OutOfMemory where the block runs out of the device's memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_memory and not any(words in said for words in _SAID):
            raise
        raise OutOfMemory(said.partition("\n")[0]) from error


class MemoryGuarded:
    """A step that says so when it runs out of memory."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def sample(self, masks: Masks | None) -> None:
        with out_of_memory():
            self._step.sample(masks)

    def results(self) -> list[RowResult]:
        with out_of_memory():
            return self._step.results()
