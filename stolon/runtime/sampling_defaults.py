"""How a checkpoint's makers want it sampled: generation_config.json, for requests that do not say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ..lang.errors import CheckpointError, InvalidRequest
from .limits import NUMBERS, Range
from .tokenizer_facts import json_object

# `do_sample` is not among them: as in SGLang and vLLM, who wants the likeliest tokens says temperature 0
_NAMES = "temperature top_p top_k min_p repetition_penalty".split()
_FILE = "generation_config.json"

# the protocol's own are those of SamplingParams
OPENAI: Mapping[str, float] = MappingProxyType({})


def read_sampling_defaults(said: str, checkpoint: Path) -> Mapping[str, float]:
    """Fields of SamplingParams for what a request leaves out.

    said: `model`, `openai`, or the folder of another generation_config.json; `auto` and `vllm` are vLLM's names
    Raises InvalidRequest if that folder has none, CheckpointError if the file cannot be read or a value is wrong.
    """
    if said in ("openai", "vllm"):
        return OPENAI
    path = (checkpoint if said in ("model", "auto") else Path(said)) / _FILE
    if path.parent != checkpoint and not path.is_file():
        message = f"sampling_defaults must be model, openai or a folder with a {_FILE}, got {said!r}"
        raise InvalidRequest(message, param="sampling_defaults")
    found = json_object(path)
    return MappingProxyType(
        {name: _checked(path, name, found[name], NUMBERS[name]) for name in _NAMES if found.get(name) is not None}
    )


def _checked(path: Path, name: str, value: object, bounds: Range) -> float:
    """Within what a request may ask for."""
    if isinstance(value, bool) or not isinstance(value, int if bounds.whole else (int, float)):
        wanted = "a whole number" if bounds.whole else "a number"
    elif not bounds.holds(value):
        wanted = str(bounds)
    else:
        return value
    raise CheckpointError(
        f"{path}: {name} must be {wanted}, got {value!r:.40}; correct it, or give --sampling-defaults openai"
    )
