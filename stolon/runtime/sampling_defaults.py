"""How a checkpoint's makers want it sampled: generation_config.json, for requests that do not say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

from ..lang.errors import CheckpointError, InvalidRequest
from .limits import NUMBERS
from .tokenizer_facts import json_object

# `do_sample` is not among them: as in SGLang and vLLM, who wants the likeliest tokens says temperature 0
_NAMES = "temperature top_p top_k min_p repetition_penalty".split()
_FILE = "generation_config.json"

# the protocol's own are those of SamplingParams
OPENAI: Mapping[str, float] = MappingProxyType({})


def read_sampling_defaults(said: str, checkpoint: Path, preferred: str | None = None) -> Mapping[str, float]:
    """Fields of SamplingParams for what a request leaves out.

    said: `model`, `openai`, or the folder of another generation_config.json; `auto` and `vllm` are vLLM's names
    preferred: further ones, which win, as a JSON object
    Raises InvalidRequest if that folder has none, or for what is wrong in `preferred`; CheckpointError if the file
    cannot be read or a value in it is wrong.
    """
    found = _from_file(said, checkpoint)
    return found if preferred is None else MappingProxyType({**found, **_from_text(preferred)})


def _from_text(text: str) -> dict[str, float]:
    flag = "preferred_sampling_params"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest(f"{flag} must be a JSON object, got {text[:60]!r}", param=flag)
    values = cast("dict[str, object]", found)
    for name, value in values.items():
        if name not in _NAMES:
            raise InvalidRequest(f"{flag} has {name[:40]!r}; it may have {', '.join(_NAMES)}", param=flag)
        problem = _problem(name, value)
        if problem is not None:
            raise InvalidRequest(f"{flag}: {problem}", param=flag)
    return cast("dict[str, float]", values)


def _from_file(said: str, checkpoint: Path) -> Mapping[str, float]:
    if said in ("openai", "vllm"):
        return OPENAI
    path = (checkpoint if said in ("model", "auto") else Path(said)) / _FILE
    if path.parent != checkpoint and not path.is_file():
        message = f"sampling_defaults must be model, openai or a folder with a {_FILE}, got {said!r}"
        raise InvalidRequest(message, param="sampling_defaults")
    found = json_object(path)
    values = {name: found[name] for name in _NAMES if found.get(name) is not None}
    for name, value in values.items():
        problem = _problem(name, value)
        if problem is not None:
            raise CheckpointError(f"{path}: {problem}; correct it, or give --sampling-defaults openai")
    return MappingProxyType(values)


def _problem(name: str, value: object) -> str | None:
    """Why a request may not ask for this."""
    bounds = NUMBERS[name]
    if isinstance(value, bool) or not isinstance(value, int if bounds.whole else (int, float)):
        wanted = "a whole number" if bounds.whole else "a number"
    elif not bounds.holds(value):
        wanted = str(bounds)
    else:
        return None
    return f"{name} must be {wanted}, got {value!r:.40}"
