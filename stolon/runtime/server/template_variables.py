"""Variables of the chat template beyond the conversation: the operator's, and a request's where it may set them."""

from __future__ import annotations

import functools
import json
from typing import Any

from .body import JsonObject
from .errors import invalid
from .fields import mapping, one_of

# how hard to think; which of them a model knows is its template's to say
EFFORT = one_of("none", "minimal", "low", "medium", "high", "xhigh", "max")
# what templates call the switch; one that has none of them does not look at it
_SWITCHES = ("enable_thinking", "thinking")

_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


def template_variables(path: str, value: object) -> JsonObject:
    found = mapping(path, value)
    if reserved := sorted(_RESERVED & found.keys()):
        raise invalid(f"{path}.{reserved[0]} is the server's to set", f"{path}.{reserved[0]}")
    return found


def thinking(is_on: bool) -> JsonObject:
    """Whether the model is to think, where its template has a switch for it."""
    return dict.fromkeys(_SWITCHES, is_on)


def effort(wanted: str | None) -> JsonObject:
    """How hard the model is to think, where its template asks for that."""
    if wanted is None:
        return {}
    return {"reasoning_effort": wanted, **(thinking(False) if wanted == "none" else {})}


@functools.lru_cache(maxsize=4)
def default_variables(text: str | None) -> JsonObject:
    """What `--default-chat-template-kwargs` says. Raises HttpError where it is no JSON object of such variables."""
    path = "--default-chat-template-kwargs"
    if text is None:
        return {}
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid(f"{path} must be a JSON object, got {text[:80]!r}", path) from None
    return template_variables(path, found)
