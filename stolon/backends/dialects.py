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

    more: fields of SamplingParams that are honoured in a form of their own
    always: those of `names` that are sent whatever they are: what is left out, such a server takes from the checkpoint
    continues: the chat route continues an open assistant turn
    any_prompt: serves chat and plain text alike
    """

    name: str
    names: Mapping[str, str]
    more: frozenset[str] = frozenset({"max_tokens", "stop", "logit_bias", "logprobs"})
    continues: bool = False
    always: frozenset[str] = frozenset()
    any_prompt: bool = False

    @property
    def params(self) -> frozenset[str]:
        return frozenset(self.names) | self.more

    def refusals(self) -> tuple[tuple[str, str], ...]:
        """Why the rest cannot be honoured, by the user's names of the arguments."""
        why = f"the {self.name} protocol has no field for it; leave it out"
        if not self.any_prompt:
            why += ', or say so if the server behind `base_url` is another (`dialect="vllm"`, "sglang" or "stolon")'
        missing = [_USER_NAMES.get(name, name) for name in _DEFAULTS if name not in self.params]
        return tuple((name, why) for name in missing)


def _same(names: str) -> dict[str, str]:
    return {name: name for name in names.split()}


_OPENAI = _same("n temperature top_p frequency_penalty presence_penalty seed")
_OPEN = _OPENAI | _same("top_k min_p repetition_penalty min_tokens ignore_eos stop_token_ids skip_special_tokens")
_SGLANG = _OPEN | {"include_stop": "no_stop_trim", "stop_regex": "stop_regex"}
_VLLM = _OPEN | {"include_stop": "include_stop_str_in_output"}
_DRAWING = frozenset({"temperature", "top_p", "top_k", "min_p", "repetition_penalty"})
_NATIVE = _SGLANG | {"seed": "sampling_seed", "min_tokens": "min_new_tokens", "stop": "stop"}

_DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "openai": Dialect(name="openai", names=_OPENAI),
        "vllm": Dialect(name="vllm", names=_VLLM, always=_DRAWING, continues=True, any_prompt=True),
        "sglang": Dialect(name="sglang", names=_SGLANG, always=_DRAWING, continues=True, any_prompt=True),
        "stolon": Dialect(name="stolon", names=_SGLANG, always=_DRAWING, continues=True, any_prompt=True),
    }
)

# the `sampling_params` of /generate
NATIVE = Dialect(
    name="native",
    names=_NATIVE,
    more=frozenset({"max_tokens", "logit_bias", "logprobs", "prompt_logprobs", "logprob_token_ids"}),
    always=_DRAWING,
    continues=True,
    any_prompt=True,
)

_USER_NAMES = {"prompt_logprobs": "logprob_start_len"}  # where the language has a name of its own
_DEFAULTS: Mapping[str, object] = MappingProxyType({f.name: f.default for f in fields(SamplingParams)})


def dialect_of(name: str) -> Dialect:
    if name not in _DIALECTS:
        raise InvalidRequest(f"dialect must be one of {', '.join(_DIALECTS)}, got {name!r}", param="dialect")
    return _DIALECTS[name]


def copied_params(
    params: SamplingParams, names: Mapping[str, str], always: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The named parameters that differ from their defaults, and those of `always`; what else was not asked for is not
    sent."""
    found: dict[str, Any] = {}
    for name, sent in names.items():
        if is_set(params, name):
            found[sent] = getattr(params, name)
        elif name in always:
            found[sent] = _DEFAULTS[name]
    return found


def is_set(params: SamplingParams, name: str) -> bool:
    if name == "top_k" and params.top_k == 0:
        return False  # our second spelling of "all tokens"; some servers know only -1
    return getattr(params, name) != _DEFAULTS[name]


def unsupported(params: SamplingParams, honoured: frozenset[str]) -> list[str]:
    """What was asked for and is not among `honoured`; `logprob_start` alone asks for nothing."""
    return [name for name in _DEFAULTS if name not in honoured and name != "logprob_start" and is_set(params, name)]
