"""Fields of SGLang and vLLM for what there is none of here: accepted where they ask for nothing, else refused."""

from __future__ import annotations

from .errors import invalid
from .fields import Check, Field, boolean, describe


def only(allowed: object, says: str) -> Field[object]:
    """One value alone. says: why there is no other, or what to do instead"""

    def check(path: str, value: object) -> object:
        # the kinds must be the same, too: 0 is not false
        if isinstance(value, bool) is not isinstance(allowed, bool) or value != allowed:
            raise invalid(f"{path} may only be {_shown(allowed)}, got {describe(value)}: {says}", path, _CODE)
        return value

    return Field({"const": allowed}, check)


_CODE = "unsupported_parameter"


def _shown(allowed: object) -> str:
    return "{}" if allowed == {} else describe(allowed)


SPACES = only(True, "control tokens stand in the text as they are written")

# of every route that generates; no_logs is ours to honour
LOGGED: dict[str, Check] = {
    "no_logs": boolean,
    "log_metrics": only(True, "every request is counted"),
    "return_cached_tokens_details": only(False, "all cached tokens are on the device; their number is always sent"),
    "return_hidden_states": only(False, "hidden states are not sent"),
    "return_routed_experts": only(False, "there are no experts to route to"),
}

_ONE_MACHINE = "a prompt is read where its answer is made"

# of the two OpenAI routes
FOREIGN_FIELDS: dict[str, Check] = {
    **LOGGED,
    "spaces_between_special_tokens": SPACES,
    "use_beam_search": only(False, "there is no beam search"),
    "length_penalty": only(1, "there is no beam search"),
    "watermark": only(False, "answers are not marked"),
    "watermarking": only(False, "answers are not marked"),
    "kv_transfer_params": only({}, _ONE_MACHINE),
    "ec_transfer_params": only({}, _ONE_MACHINE),
}
