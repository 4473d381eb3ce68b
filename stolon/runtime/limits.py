"""Every bound on what a request or a command line may say. Validation and tests are both made from these tables."""

from __future__ import annotations

import math
import numbers
import os
import types
import typing
from dataclasses import dataclass
from typing import Any

from ..lang.errors import InvalidRequest
from ..lang.types import MAX_SEED
from .config import WHOLE_PROMPT


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What a number may be. `open_low`: the lower bound itself is refused. `also`: a number outside with a meaning."""

    low: float
    high: float
    whole: bool = False
    open_low: bool = False
    also: int | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` is inside; NaN never is."""
        return value == self.also or ((value > self.low if self.open_low else value >= self.low) and value <= self.high)

    def schema(self) -> dict[str, object]:
        """The same bounds as JSON schema."""
        found: dict[str, object] = {"type": "integer" if self.whole else "number"}
        found["exclusiveMinimum" if self.open_low else "minimum"] = self.low
        if self.high != math.inf:
            found["maximum"] = self.high
        return found if self.also is None else {"anyOf": [found, {"const": self.also}]}

    def __str__(self) -> str:
        said = f"{'greater than' if self.open_low else 'at least'} {_plain(self.low)}"
        if self.high != math.inf:
            said += f" and at most {_plain(self.high)}"
        return said if self.also is None else f"{said}, or {self.also}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How many there may be, inclusive; `unit` is the plural for messages."""

    low: int = 0
    high: int
    unit: str = "items"

    def schema(self, least: str, most: str) -> dict[str, object]:
        """The same bounds as JSON schema, whose keywords for this kind of thing are given."""
        return {**({least: self.low} if self.low else {}), most: self.high}


def _plain(bound: float) -> str:
    return str(int(bound)) if float(bound).is_integer() else f"{bound:g}"


def whole(low: int, high: int) -> Range:
    return Range(low=low, high=high, whole=True)


MAX_TOKENS = 1 << 20

# of the OpenAI routes
NUMBERS: dict[str, Range] = {
    "max_tokens": whole(1, MAX_TOKENS),
    "max_tokens_with_echo": whole(0, MAX_TOKENS),  # 0 only looks at the prompt
    "max_completion_tokens": whole(1, MAX_TOKENS),
    "min_tokens": whole(0, MAX_TOKENS),
    "n": whole(1, 128),
    "best_of": whole(1, 128),
    "temperature": Range(low=0, high=2),
    "top_p": Range(low=0, high=1, open_low=True),
    "top_k": whole(-1, 1 << 20),  # 0 is refused as well
    "min_p": Range(low=0, high=1),
    "frequency_penalty": Range(low=-2, high=2),
    "presence_penalty": Range(low=-2, high=2),
    "repetition_penalty": Range(low=0, high=10, open_low=True),
    "seed": whole(-MAX_SEED - 1, MAX_SEED),
    "priority": whole(-1000, 1000),
    "logprobs": whole(0, 5),  # of completions; chat has a boolean here
    "top_logprobs": whole(0, 20),
    "prompt_logprobs": whole(0, 20),
    "dimensions": whole(1, 1 << 16),
    "truncate_prompt_tokens": whole(-1, MAX_TOKENS),  # -1: as many as the model reads
    "stream_interval": whole(1, MAX_TOKENS),
    "top_n": whole(1, 1 << 20),
    "budget_tokens": whole(1024, MAX_TOKENS - 1),  # Anthropic's; fewer than max_tokens
}

# of `sampling_params` on the native route; what is not here is as above
NATIVE_NUMBERS: dict[str, Range] = {
    "max_new_tokens": whole(0, MAX_TOKENS),
    "min_new_tokens": whole(0, MAX_TOKENS),
    "n": NUMBERS["n"],
    "temperature": Range(low=0, high=100),
    "top_p": NUMBERS["top_p"],
    "top_k": whole(-1, 1 << 30),
    "min_p": NUMBERS["min_p"],
    "frequency_penalty": NUMBERS["frequency_penalty"],
    "presence_penalty": NUMBERS["presence_penalty"],
    "repetition_penalty": NUMBERS["repetition_penalty"],
    "sampling_seed": NUMBERS["seed"],
    "logprob_start_len": whole(-1, MAX_TOKENS),
    "top_logprobs_num": whole(0, 20),
}

LOGIT_BIAS = Range(low=-100, high=100)

LENGTHS: dict[str, Length] = {
    "messages": Length(low=1, high=4096, unit="messages"),
    "parts": Length(high=4096, unit="parts"),  # of one message
    "prompts": Length(low=1, high=1024, unit="prompts"),
    "stop": Length(high=4, unit="strings"),
    "stop_characters": Length(low=1, high=256, unit="characters"),
    "native_stop": Length(high=32, unit="strings"),
    "stop_regex": Length(high=32, unit="patterns"),
    "stop_token_ids": Length(high=128, unit="token ids"),
    "allowed_token_ids": Length(low=1, high=1 << 17, unit="token ids"),
    "logit_bias": Length(high=1024, unit="entries"),
    "token_ids_logprob": Length(high=128, unit="token ids"),
    "cache_salt": Length(low=1, high=128, unit="characters"),
    "name": Length(low=1, high=256, unit="characters"),  # of a model or an author
    "request_id": Length(low=1, high=128, unit="characters"),
    "aborted_id": Length(high=128, unit="characters"),  # none where all are ended
    "options": Length(low=1, high=8192, unit="options"),
    "prompt_tokens": Length(low=1, high=MAX_TOKENS, unit="token ids"),
    "tokens": Length(high=1 << 17, unit="token ids"),  # to be made text
    "tokenized": Length(high=1 << 20, unit="characters"),  # each costs a hundred bytes of memory on the way
    "documents": Length(low=1, high=1024, unit="documents"),
    "labels": Length(low=1, high=128, unit="token ids"),
    "option_characters": Length(low=1, high=1 << 16, unit="characters"),
    "tools": Length(high=128, unit="tools"),
    "tool_calls": Length(high=128, unit="calls"),
    "tool_name": Length(low=1, high=64, unit="characters"),
    "format_name": Length(low=1, high=64, unit="characters"),
    "pattern": Length(low=1, high=1 << 16, unit="characters"),
    "grammar": Length(low=1, high=1 << 18, unit="characters"),
    "api_key": Length(low=1, high=256, unit="characters"),
}

ANSWERS = 1024  # prompts of one request times answers to each
BODY_BYTES = 32 << 20
CHUNKING = 3  # how many times larger than its body a chunked request may be ...
CHUNKING_FREE_BYTES = 1 << 20  # ... beyond so many bytes
NESTING = 512  # lists and objects within each other; Python refuses about 1000 by itself
DIGITS = 400  # of one number in a body; Python refuses 4300 by itself
ERROR_CHARACTERS = 800  # of one error message; its body stays below 4 KiB whatever the characters
ECHO_CHARACTERS = 120  # of the input that an error message may repeat
CHARACTERS_A_TOKEN = 16  # of so much text for each token that the model reads the first tokens are counted alone
OFF_LOOP_CHARACTERS = 64 << 10  # longer texts are tokenized in a thread

# of command-line flags, by the field of the settings
FLAGS: dict[str, Range] = {
    "token_budget": Range(low=1, high=1 << 20, whole=True, also=WHOLE_PROMPT),
    "max_running_requests": whole(1, 1 << 16),
    "speculative_num_draft_tokens": whole(1, 64),
    "speculative_rows": whole(1, 512),
    "max_queued_requests": whole(1, 1 << 20),
    "page_size": whole(1, 1 << 10),
    "max_overtakes": whole(0, 1 << 20),
    "pin_share": Range(low=0, high=1),
    "pin_seconds": Range(low=0, high=86400),
    "context_length": whole(1, 1 << 24),
    "kv_tokens": whole(1, 1 << 40),
    "kv_bytes": whole(1, 1 << 50),
    "kv_pages": whole(1, 1 << 40),
    "memory_fraction": Range(low=0, high=1, open_low=True),
    "threads": whole(1, 4096),
    "cuda_graph_max_bs": whole(1, 1 << 16),
    "cuda_graph_seconds": Range(low=0, high=3600),
    "decode_log_interval": whole(0, 1 << 30),
    "random_seed": NUMBERS["seed"],
    "stream_interval": NUMBERS["stream_interval"],
    "port": whole(1, 65535),
    "log_requests_level": whole(0, 3),
    "drain_seconds": Range(low=0, high=86400),
    "request_timeout_s": Range(low=0, high=86400, open_low=True),
    "header_timeout_s": Range(low=0, high=3600, open_low=True),
    "body_timeout_s": Range(low=0, high=3600, open_low=True),
    "write_timeout_s": Range(low=0, high=3600, open_low=True),
    "keepalive_s": Range(low=0, high=86400, open_low=True),
    "heartbeat_s": Range(low=0, high=86400, open_low=True),
    "body_limit_bytes": whole(1, 1 << 34),
}

ANY_FLAG = Range(low=0, high=math.inf)  # what has no line above; a test asks for one


def without_none(kind: Any) -> Any:
    """The type of a setting's field where it has a value."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        (kind,) = [part for part in typing.get_args(kind) if part is not types.NoneType]
    return kind


def check_setting(name: str, kind: object, value: object) -> None:
    """Raises InvalidRequest for a value that the flag of a setting would not take. kind: the type of its field"""
    if value is None and types.NoneType in typing.get_args(kind):
        return
    kind = without_none(kind)
    if typing.get_origin(kind) is typing.Literal:
        fits, wanted = value in typing.get_args(kind), f"one of {', '.join(typing.get_args(kind))}"
    elif kind is bool:
        fits, wanted = isinstance(value, bool), "True or False"
    elif typing.get_origin(kind) is tuple:
        fits = isinstance(value, tuple) and all(isinstance(each, str) for each in typing.cast("tuple[object]", value))
        wanted = "a text, or several in a tuple"
    elif kind is str:
        fits, wanted = isinstance(value, str | os.PathLike), "a text"
    else:
        number, word = (numbers.Integral, "a whole number") if kind is int else (numbers.Real, "a number")
        bounds = FLAGS.get(name, ANY_FLAG)
        fits = not isinstance(value, bool) and isinstance(value, number) and bounds.holds(typing.cast("float", value))
        wanted = f"{word}, {bounds}"
    if not fits:
        raise InvalidRequest(f"{name} must be {wanted}, got {value!r:.40}", param=name)
