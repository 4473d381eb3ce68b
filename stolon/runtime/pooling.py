"""How an embedding model makes one vector of a text's hidden states: read from the checkpoint, and done."""

# torch's own types have gaps, and JSON has any type until it is checked
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..lang.errors import CheckpointError
from .config import Pooling
from .models.config import MAX_CONTEXT, ConfigFields, read_json

MODULES_FILE = "modules.json"  # the layout of sentence-transformers
# flags of 1_Pooling/config.json; the newer layout has one field, `pooling_mode`, with the word behind `pooling_mode_`
_MODES: dict[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
_WORDS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingConfig:
    """What the checkpoint says beside the model itself; None where it says nothing.

    longest: of a text, in tokens
    """

    pooling: Pooling | None = None
    longest: int | None = None

    def context_length(self, most: int) -> int:
        """most: what the model can read"""
        return most if self.longest is None else min(self.longest, most)


def has_pooling(directory: Path) -> bool:
    """Whether the checkpoint is laid out as an embedding model."""
    return (directory / MODULES_FILE).is_file()


def read_pooling(directory: Path) -> PoolingConfig:
    """Raises CheckpointError for what is wrong, and for modules that are not known."""
    if not has_pooling(directory):
        return PoolingConfig()
    path = directory / MODULES_FILE
    pooling: Pooling | None = None
    for module in _modules(path):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _mode(directory / _inside(path, module) / "config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise CheckpointError(f"{path}: modules of type {kind!r} are not supported; only Pooling and Normalize")
    longest = directory / "sentence_bert_config.json"
    if not longest.is_file():
        return PoolingConfig(pooling=pooling)
    fields = ConfigFields(read_json(longest), longest)
    known = fields.data.get("max_seq_length") is not None
    return PoolingConfig(pooling=pooling, longest=fields.integer("max_seq_length", high=MAX_CONTEXT) if known else None)


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} must hold a list of modules")
    return modules


def _inside(path: Path, module: dict[str, Any]) -> str:
    name = module.get("path", "")
    if not isinstance(name, str) or Path(name).name != name:
        raise CheckpointError(f"{path}: a module's path must be a folder beside it, got {name!r}")
    return name


def _mode(path: Path) -> Pooling:
    fields = ConfigFields(read_json(path), path)
    word = fields.data.get("pooling_mode")
    if word is not None:
        if word not in _WORDS:
            raise fields.fail(f"pooling_mode {word!r} is not supported; supported are {', '.join(_WORDS)}")
        return _WORDS[word]
    chosen = [name.removeprefix("pooling_mode_") for name, value in fields.data.items() if _is_mode(name, value)]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        got = " and ".join(chosen) or "none"
        raise fields.fail(f"exactly one pooling mode of {', '.join(_MODES)} is supported, got {got}")
    return _MODES[chosen[0]]


def _is_mode(name: str, value: object) -> bool:
    return name.startswith("pooling_mode_") and value is True


def pool(hidden: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """One vector a text.

    hidden: [tokens, width], the texts one after another; lengths: int64 [texts], each at least 1
    returns: float32 [texts, width]
    """
    ends = lengths.cumsum(0)
    match pooling:
        case "cls":
            return hidden[ends - lengths].float()
        case "last":
            return hidden[ends - 1].float()
        case "mean":
            owner = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths)
            sums = hidden.new_zeros((len(lengths), hidden.shape[1]), dtype=torch.float32)
            return sums.index_add_(0, owner, hidden.float()) / lengths.unsqueeze(1)
