"""A checkpoint's tensors: safetensors files, sharded or not, checked one by one. Nothing else is ever opened."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..lang.errors import CheckpointError
from .directories import fetching
from .models.config import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Old exports store these, which the config determines; a tied head may be stored too.
IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)


Place = Callable[[Tensor], Tensor]


class Checkpoint:
    """Gives each tensor once, as `dtype`; use it as a context manager, which closes the files.

    `finish` complains about tensors that nobody took: they would mean that the config is not this checkpoint's.
    """

    def __init__(self, directory: Path, dtype: torch.dtype, *, tied: bool, place: Place | None = None) -> None:
        """place: copies a tensor, which is mapped from a file, to where it is to be used; by default it stays here"""
        self._dtype = dtype
        self._place = place
        self._open = ExitStack()
        self._where: dict[str, tuple[Path, Any]] = {}
        self._ignored = {"lm_head.weight"} if tied else set[str]()
        try:
            for path in _files(directory):
                self._add(path)
        except BaseException:
            self._open.close()
            raise
        if not self._where:
            raise CheckpointError(f"{directory} holds no tensors")

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def take(self, name: str, *shape: int) -> Tensor:
        """Raises CheckpointError where the tensor is missing, of another shape or type, or holds NaN or infinity."""
        if name not in self._where:
            raise CheckpointError(f"tensor {name} is missing from the checkpoint; its config.json asks for it")
        path, handle = self._where.pop(name)
        try:
            tensor: Tensor = handle.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: tensor {name} cannot be read: {error}") from error
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {list(tensor.shape)}, but config.json asks for {list(shape)}"
            )
        if tensor.dtype not in WEIGHT_DTYPES:
            raise CheckpointError(f"{path}: tensor {name} is {tensor.dtype}; supported are float32, bfloat16, float16")
        # a copy: what safetensors gives is mapped from the file, and whoever truncates that would end this process
        if self._place is None:
            tensor = tensor.to(self._dtype, copy=True)
        else:
            tensor = self._place(tensor).to(self._dtype)
        if not _is_finite(tensor):
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity as {self._dtype}")
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def drop(self, *starts: str) -> None:
        """Leave out the tensors whose names start so: the model does without them."""
        self._ignored.update(name for name in self._where if name.startswith(starts))

    def finish(self) -> None:
        """Raises CheckpointError if a tensor is left that the model has no place for."""
        left = [n for n in self._where if n not in self._ignored and not n.endswith(IGNORED_SUFFIXES)]
        if left:
            path, _ = self._where[left[0]]
            raise CheckpointError(
                f"{path}: tensor {left[0]} has no place in the model that config.json describes "
                f"({len(left)} such tensors); is it the config of this checkpoint?"
            )

    def _add(self, path: Path) -> None:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is missing"
            raise CheckpointError(f"{path} {what}; it should be a safetensors file{fetching(path.parent)}")
        try:
            handle = self._open.enter_context(safe_open(path, framework="pt"))
            names = list(handle.keys())
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{path} is no safetensors file: {error}{_hint(path)}") from error
        for name in names:
            if name in self._where:
                raise CheckpointError(f"{path}: tensor {name} is also in {self._where[name][0].name}")
            self._where[name] = (path, handle)


def _files(directory: Path) -> list[Path]:
    index = directory / INDEX_FILE
    if not index.exists():
        single = directory / SINGLE_FILE
        if not single.exists():
            raise CheckpointError(
                f"{single} is missing, and so is {INDEX_FILE}; only safetensors are read{fetching(directory)}"
            )
        return [single]
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index}: weight_map must name a file for each tensor")
    names: set[Any] = set(table.values())
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: a shard must be a safetensors file in the same folder, got {name!r}")
    return [directory / name for name in sorted(names)]


def _is_finite(tensor: Tensor) -> bool:
    # the sum finds NaN and infinity in one cheap pass; only where it is not finite (it may overflow) look closer
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def _hint(path: Path) -> str:
    """What the file seems to be instead."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    if start.startswith(b"version https://git-lfs"):
        return " (a Git LFS pointer: the weights themselves were not downloaded; run `git lfs pull`)"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return " (a web page, not weights: the download failed)"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return " (a pickle: convert it to safetensors; stolon never loads pickles)"
    return "" if start else " (it is empty)"
