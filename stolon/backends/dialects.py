"""What each kind of server understands beyond the OpenAI protocol, and under which names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from ..lang.errors import InvalidRequest
from ..lang.types import SamplingParams

DialectName = Literal["openai", "vllm", "sglang", "stolon"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """names: field of SamplingParams -> field of the request, for what is copied as it is

    continues: the chat route continues an open assistant turn
    any_prompt: serves chat and plain text alike
    """

    name: DialectName
    names: Mapping[str, str]
    continues: bool = False
    any_prompt: bool = False

    @property
    def params(self) -> frozenset[str]:
        return frozenset(self.names) | {"max_tokens", "stop", "logit_bias", "logprobs"}


_OPENAI = {name: name for name in ("n", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")}
_OPEN_SERVERS = _OPENAI | {
    name: name
    for name in (
        "top_k",
        "min_p",
        "repetition_penalty",
        "min_tokens",
        "ignore_eos",
        "stop_token_ids",
        "skip_special_tokens",
    )
}
_SGLANG = _OPEN_SERVERS | {"include_stop": "no_stop_trim", "stop_regex": "stop_regex"}
_VLLM = _OPEN_SERVERS | {"include_stop": "include_stop_str_in_output"}

_DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "openai": Dialect(name="openai", names=_OPENAI),
        "vllm": Dialect(name="vllm", names=_VLLM, continues=True, any_prompt=True),
        "sglang": Dialect(name="sglang", names=_SGLANG, continues=True, any_prompt=True),
        "stolon": Dialect(name="stolon", names=_SGLANG, continues=True, any_prompt=True),
    }
)

_DEFAULTS: Mapping[str, object] = MappingProxyType({f.name: f.default for f in fields(SamplingParams)})


def dialect_of(name: str) -> Dialect:
    if name not in _DIALECTS:
        raise InvalidRequest(f"dialect must be one of {', '.join(_DIALECTS)}, got {name!r}", param="dialect")
    return _DIALECTS[name]


def copied_params(params: SamplingParams, names: Mapping[str, str]) -> dict[str, Any]:
    """The named parameters that differ from their defaults; what was not asked for is not sent."""
    return {sent: getattr(params, name) for name, sent in names.items() if is_set(params, name)}


def is_set(params: SamplingParams, name: str) -> bool:
    return getattr(params, name) != _DEFAULTS[name]


def unsupported(params: SamplingParams, honoured: frozenset[str]) -> list[str]:
    """What was asked for and is not among `honoured`; `logprob_start` alone asks for nothing."""
    return [name for name in _DEFAULTS if name not in honoured and name != "logprob_start" and is_set(params, name)]
