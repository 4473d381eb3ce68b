"""Fields about how to draw tokens, under OpenAI's names and under SGLang's, to `SamplingParams`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...lang.types import SamplingParams
from .. import limits
from ..limits import LENGTHS, NATIVE_NUMBERS, NUMBERS
from .aborting import RID
from .constraints import CONSTRAINTS, NATIVE_CONSTRAINTS, UNSUPPORTED_CONSTRAINTS
from .errors import invalid
from .fields import (
    Check,
    Field,
    Values,
    boolean,
    ignored,
    logit_bias,
    number,
    object_of,
    string,
    strings,
    token_ids,
    top_k,
)
from .fields_foreign import FOREIGN_FIELDS, SPACES

_NO_TEMPLATE = "chat templates come from the checkpoint or from --chat-template, never from a request"

# what others know and we refuse by name: dropping it would change the answer without a word
# (what a route's own table has is not refused there)
UNSUPPORTED: dict[str, str] = {
    **dict.fromkeys(CONSTRAINTS, "constraints are regex, json_schema and ebnf, in the sampling_params of /generate"),
    **UNSUPPORTED_CONSTRAINTS,
    **dict.fromkeys(["tools", "tool_choice", "parallel_tool_calls"], "tools are for /v1/chat/completions"),
    **dict.fromkeys(["functions", "function_call"], "functions are for /v1/chat/completions"),
    "chat_template": _NO_TEMPLATE,
    "chat_template_kwargs": _NO_TEMPLATE,
    **dict.fromkeys(
        ["prompt_embeds", "input_embeds", "custom_logit_processor", "custom_params"], "a request cannot carry code"
    ),
    **dict.fromkeys(["lora_path", "session_params", "session_id", "extra_key"], "there is no such thing here"),
    **dict.fromkeys(
        "image_data audio_data video_data modalities audio mm_processor_kwargs".split(), "only text is understood"
    ),
    **dict.fromkeys(["beam_width", "use_beam_search", "length_penalty"], "there is no beam search"),
    **dict.fromkeys(["suffix", "prediction", "web_search_options", "reasoning_effort", "verbosity"], "not available"),
    "return_hidden_states": "hidden states are not sent",
    "bad_words": "words cannot be forbidden; a logit_bias of -100 leaves out single tokens, by id",
    "repetition_detection": "not available; repetition_penalty and frequency_penalty make loops less likely",
    "thinking_token_budget": "a thought has no limit of its own; reasoning_effort shortens it where the model can",
    "logprob_token_ids": "/generate has it, as token_ids_logprob",
    "vllm_xargs": "there are no extensions",
}

IGNORED = tuple("user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention".split())

_STREAM_OPTIONS = object_of(
    {"include_usage": boolean, "continuous_usage_stats": boolean, "include_obfuscation": ignored}
)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """usage: an event at the end says what the request cost; continuous: every event says what it cost so far"""

    usage: bool = False
    continuous: bool = False


def _stream_options(path: str, value: object) -> StreamOptions:
    found = _STREAM_OPTIONS(path, value)
    continuous = found.get("continuous_usage_stats", False)
    if continuous and not found.get("include_usage", True):
        raise invalid(f"{path}.continuous_usage_stats needs include_usage", f"{path}.continuous_usage_stats")
    return StreamOptions(continuous or found.get("include_usage", False), continuous)


def openai_table(vocab_size: int) -> dict[str, Check]:
    """The fields that both OpenAI routes know."""
    plain = (
        "max_tokens min_tokens n temperature top_p min_p frequency_penalty presence_penalty repetition_penalty seed "
        "priority"
    )
    return {
        "model": string(LENGTHS["name"]),
        **{name: number(NUMBERS[name]) for name in plain.split()},
        "top_k": top_k(NUMBERS["top_k"]),
        "stop": strings(LENGTHS["stop"], LENGTHS["stop_characters"]),
        "stop_token_ids": token_ids(vocab_size, LENGTHS["stop_token_ids"]),
        "allowed_token_ids": token_ids(vocab_size, LENGTHS["allowed_token_ids"]),
        "stop_regex": strings(LENGTHS["stop_regex"], LENGTHS["stop_characters"]),
        "logit_bias": logit_bias(vocab_size),
        "ignore_eos": boolean,
        "skip_special_tokens": boolean,
        "include_stop_str_in_output": boolean,
        "no_stop_trim": boolean,
        "stream": boolean,
        "stream_interval": number(NUMBERS["stream_interval"]),
        "stream_options": Field(_STREAM_OPTIONS.schema, _stream_options),
        "cache_salt": string(LENGTHS["cache_salt"]),
        "return_token_ids": boolean,
        "return_tokens_as_token_ids": boolean,
        "prompt_logprobs": number(NUMBERS["prompt_logprobs"]),
        "rid": RID,
        "request_id": RID,
        **CONSTRAINTS,
        **FOREIGN_FIELDS,
        **dict.fromkeys(IGNORED, ignored),
    }


def openai_params(
    values: Values,
    defaults: Mapping[str, float],
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
) -> SamplingParams:
    """From checked fields of an OpenAI route. defaults: see `drawing`"""
    if "stream_options" in values and not values.get("stream"):
        raise invalid("stream_options is only for requests with stream: true", "stream_options")
    if "prompt_logprobs" in values and values.get("stream"):
        raise invalid("prompt_logprobs are not streamed; ask for them without stream", "prompt_logprobs")
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=values.get("min_tokens", 0),
        n=values.get("n", 1),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        seed=values.get("seed", None),
        include_stop=_includes_stop(values),
        **drawing(values, defaults),
    )


_NATIVE_NAMES = (
    "max_new_tokens min_new_tokens n temperature top_p min_p frequency_penalty presence_penalty repetition_penalty "
    "sampling_seed"
)


def native_sampling(vocab_size: int) -> Field[dict[str, Any]]:
    """`sampling_params`."""
    table: dict[str, Check] = {
        **NATIVE_CONSTRAINTS,
        "constrain_after": string(LENGTHS["stop_characters"]),
        **{name: number(NATIVE_NUMBERS[name]) for name in _NATIVE_NAMES.split()},
        "top_k": number(NATIVE_NUMBERS["top_k"]),
        "stop": strings(LENGTHS["native_stop"], LENGTHS["stop_characters"]),
        "stop_token_ids": token_ids(vocab_size, LENGTHS["stop_token_ids"]),
        "allowed_token_ids": token_ids(vocab_size, LENGTHS["allowed_token_ids"]),
        "stop_regex": strings(LENGTHS["stop_regex"], LENGTHS["stop_characters"]),
        "logit_bias": logit_bias(vocab_size),
        "ignore_eos": boolean,
        "skip_special_tokens": boolean,
        "no_stop_trim": boolean,
        "spaces_between_special_tokens": SPACES,
    }
    return object_of(table, unsupported=UNSUPPORTED)


def native_params(values: Values, defaults: Mapping[str, float], *, max_tokens: int, **logprobs: Any) -> SamplingParams:
    """From checked `sampling_params`. defaults: see `drawing`; logprobs: further fields of SamplingParams, of the
    request as a whole"""
    least = values.get("min_new_tokens", 0)
    if least > max_tokens:
        path = "sampling_params.min_new_tokens"
        raise invalid(f"{path} must be at most max_new_tokens ({max_tokens}), got {least}", path)
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=least,
        n=values.get("n", 1),
        seed=values.get("sampling_seed", None),
        include_stop=_includes_stop(values),
        **drawing(values, defaults),
        **logprobs,
    )


def _includes_stop(values: Values) -> bool:
    return values.get("include_stop_str_in_output", False) or values.get("no_stop_trim", False)


_SHARED = (
    "temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty logit_bias stop "
    "stop_token_ids stop_regex ignore_eos skip_special_tokens allowed_token_ids"
).split()


def drawing(values: Values, defaults: Mapping[str, float]) -> dict[str, Any]:
    """Fields of SamplingParams that all routes call by its names: those of the request, then those of `defaults`, which
    are the server's own (`Engine.sampling_defaults`)."""
    return {**defaults, **{name: values[name] for name in _SHARED if name in values}}


def most_answers(answers: int, param: str) -> None:
    """Refuse a fan-out that no one request may have: `answers` over all prompts."""
    if answers > limits.ANSWERS:
        message = f"prompts times answers to each are {answers}; one request may ask for {limits.ANSWERS}"
        raise invalid(message, param)
