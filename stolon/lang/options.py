"""The sampling options of programs and generations, by SGLang's names: one table, and how two levels of them merge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from typing_extensions import TypeVar

from .errors import InvalidRequest, UnsupportedError
from .types import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .backend import Backend, Capabilities

T_co = TypeVar("T_co", covariant=True)

# the user's name -> the field of SamplingParams; those of log-probabilities are worked out together
FIELD_OF = {
    "max_new_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "min_tokens": "min_tokens",
    "n": "n",
    "stop": "stop",
    "stop_token_ids": "stop_token_ids",
    "stop_regex": "stop_regex",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repetition_penalty",
    "ignore_eos": "ignore_eos",
    "seed": "seed",
}
LOGPROB_OPTIONS = frozenset({"return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs"})
SAMPLING_OPTIONS = frozenset(FIELD_OF) | LOGPROB_OPTIONS | {"timeout", "retries"}
RUN_OPTIONS = SAMPLING_OPTIONS | {"stream", "backend", "use_thread"}

_USER_NAME = {
    "max_tokens": "max_tokens",
    "logprobs": "return_logprob",
    "prompt_logprobs": "logprob_start_len",
    "logprob_start": "logprob_start_len",
}
_DEFAULTS = {field.name: field.default for field in fields(SamplingParams) if field.default is not MISSING}
_LISTS = frozenset({"stop", "stop_token_ids", "stop_regex"})
# what SamplingParams does not check, or only under another name
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("max_tokens", "max_new_tokens"), ((int,), "a whole number")),
    **dict.fromkeys(("logprob_start_len", "top_logprobs_num", "retries"), ((int,), "a whole number")),
    **dict.fromkeys(("ignore_eos", "return_logprob", "return_text_in_logprobs"), ((bool,), "True or False")),
    "timeout": ((int, float), "a number of seconds"),
    "stop": ((str,), "text"),
    "stop_regex": ((str,), "text"),
    "stop_token_ids": ((int,), "a whole number"),
}

Options = tuple[tuple[str, Any], ...]


def frozen(options: Mapping[str, Any]) -> Options:
    """`options` without those that are None, lists as tuples: nothing of the caller's is kept or ever changed.

    Raises InvalidRequest for a value of the wrong kind, and for two names of one option.
    """
    given = {name: _checked(name, value) for name, value in options.items() if value is not None}
    if "max_new_tokens" in given:
        if "max_tokens" in given:
            raise InvalidRequest(
                f"max_tokens={given['max_tokens']!r} and max_new_tokens={given['max_new_tokens']!r} are two names of "
                "one option; leave one out",
                param="max_new_tokens",
            )
        given["max_tokens"] = given.pop("max_new_tokens")  # so that the option of a gen wins over that of its run
    return tuple(given.items())


def _checked(name: str, value: Any) -> Any:
    if name not in _KINDS:
        return value
    types, shown = _KINDS[name]
    if name not in _LISTS:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise InvalidRequest(f"{name} must be {shown}, got {value!r}", param=name)
        return value
    if not isinstance(value, (*types, Iterable)):
        raise InvalidRequest(f"{name} must be {shown} or a list of those, got {value!r}", param=name)
    items = cast("tuple[Any, ...]", (value,) if isinstance(value, types) else tuple(value))
    for item in items:
        if isinstance(item, bool) or not isinstance(item, types):
            raise InvalidRequest(f"{name} must be {shown} or a list of those, got {item!r} in it", param=name)
    return items


def seconds(value: float) -> float:
    """A timeout. Raises InvalidRequest unless it is a positive number."""
    if not _checked("timeout", value) > 0:
        raise InvalidRequest(f"timeout must be a positive number of seconds, got {value!r}", param="timeout")
    return value


@dataclass(frozen=True, slots=True)
class Resolved:
    """What one generation is sent with.

    refused: why the backend cannot honour it, if it cannot
    text_in_logprobs: whether `get_meta_info` shows the text of each token beside its log-probability
    """

    params: SamplingParams
    timeout_s: float | None
    retries: int
    text_in_logprobs: bool
    refused: str | None


class Settings:
    """The sampling options of a run and the backend that answers it; shared by all the runs of a batch."""

    __slots__ = ("_resolved", "_selects", "backend", "capabilities", "given")

    def __init__(self, backend: Backend, given: Options) -> None:
        self.backend = backend
        self.capabilities: Capabilities = backend.capabilities
        self.given = given
        self._resolved: dict[Options, Resolved] = {}
        self._selects: dict[Options, Resolved] = {}

    def merged(self, options: Options, backend: Backend | None) -> Settings:
        """Those of a nested program: the caller's, with `options` over them."""
        if not options and (backend is None or backend is self.backend):
            return self
        return Settings(backend or self.backend, tuple({**dict(self.given), **dict(options)}.items()))

    def resolve(self, options: Options = ()) -> Resolved:
        """The run's options with those of one generation over them. Raises InvalidRequest for values out of range."""
        found = self._resolved.get(options)
        if found is None:
            merged = {**dict(self.given), **dict(options)}
            found = self._resolved[options] = _resolve(merged, self.backend, self.capabilities)
        return found

    def resolve_select(self, options: Options) -> Resolved:
        """The same for a `select`, which takes nothing from its run but the seed and the retries."""
        found = self._selects.get(options)
        if found is None:
            merged = {name: value for name, value in self.given if name in ("seed", "retries")}
            values = _resolve({**merged, **dict(options)}, self.backend, self.capabilities)
            found = self._selects[options] = replace(values, refused=None)
        return found


def _resolve(options: dict[str, Any], backend: Backend, capabilities: Capabilities) -> Resolved:
    values = {FIELD_OF[name]: value for name, value in options.items() if name in FIELD_OF}
    top = options.get("top_logprobs_num")
    if options.get("return_logprob") or top:
        values["logprobs"] = top or 0
        start = options.get("logprob_start_len", -1)
        if start >= 0:  # -1, as in SGLang: none of the prompt
            values["prompt_logprobs"] = top or 0
            values["logprob_start"] = start
    timeout_s = options.get("timeout")
    retries = options.get("retries", 0)
    if retries < 0:
        raise InvalidRequest(f"retries must be a whole number of at least 0, got {retries!r}", param="retries")
    return Resolved(
        SamplingParams(**values),
        None if timeout_s is None else seconds(timeout_s),
        retries,
        bool(options.get("return_text_in_logprobs")),
        _refusal(values, backend, capabilities),
    )


def _refusal(values: dict[str, Any], backend: Backend, capabilities: Capabilities) -> str | None:
    for name, value in values.items():
        if name not in capabilities.params and value != _DEFAULTS[name]:
            return refusal(backend, capabilities, _USER_NAME.get(name, name), value)
    return None


def refusal(backend: Backend, capabilities: Capabilities, argument: str, value: object) -> str:
    """Why `backend` cannot honour `argument`, and what it can."""
    why = dict(capabilities.refusals).get(argument)
    supported = ", ".join(sorted(capabilities.params))
    reason = why or f"it honours {supported}"
    return f"the backend {type(backend).__name__} cannot honour {argument}={value!r}; {reason}"


def check_supported(resolved: Resolved, label: str) -> None:
    if resolved.refused is not None:
        raise UnsupportedError(f"{label}: {resolved.refused}")


def derived_seed(seed: int, *path: int) -> int:
    """A seed for one branch: the same for the same path on every run and machine, different for different paths."""
    digest = hashlib.blake2b(repr((seed, path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # 63 bits: fits a signed 64-bit integer


def seeded(params: SamplingParams, path: tuple[int, ...]) -> SamplingParams:
    """`params` as the branch at `path` draws with; the root and unseeded ones as they are."""
    if params.seed is None or not path:
        return params
    return replace(params, seed=derived_seed(params.seed, *path))


class Launch(Protocol[T_co]):
    """A way to start a program: its own arguments, and how to sample where a `gen` does not say.

    None means the default. A program parameter of the same name as an option belongs to the program.
    timeout: seconds for the whole run; retries: of a failed generation that had not delivered text yet
    use_thread: accepted for programs written for SGLang; changes nothing
    """

    def __call__(
        self,
        *args: Any,
        max_new_tokens: int | None = None,
        max_tokens: int | None = None,
        min_tokens: int | None = None,
        n: int | None = None,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: int | Sequence[int] | None = None,
        stop_regex: str | Sequence[str] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        repetition_penalty: float | None = None,
        ignore_eos: bool | None = None,
        return_logprob: bool | None = None,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        return_text_in_logprobs: bool | None = None,
        seed: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        stream: bool = False,
        backend: Backend | None = None,
        use_thread: bool = True,
        **kwargs: Any,
    ) -> T_co: ...
