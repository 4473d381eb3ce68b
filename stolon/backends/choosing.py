"""One of given options, from a server that holds answers to a form but scores nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from ..lang.backend import GenerateRequest
from ..lang.constraint import Constraint
from ..lang.errors import BackendProtocolError, InvalidRequest
from ..lang.types import Delta, Usage


def choosing(request: GenerateRequest, options: Sequence[str]) -> GenerateRequest:
    """`request` for one of `options`, with room for the longest of them."""
    if not options:
        raise InvalidRequest("choose needs at least one option, got none", param="choices")
    room = max(len(json.dumps(option)) for option in options) + 32  # a token has at least one character
    params = replace(request.params, n=1, stop=(), logprobs=None, max_tokens=max(request.params.max_tokens, room))
    choices = Constraint("choices", choices=tuple(dict.fromkeys(options)))
    return replace(request, params=params, constraint=choices)


async def chosen(deltas: AsyncGenerator[Delta, None], options: Sequence[str]) -> tuple[str, Usage]:
    """What `deltas` say, which must be one of `options`."""
    parts: list[str] = []
    usage = Usage(requests=1)
    async with aclosing(deltas):
        async for delta in deltas:
            parts.append(delta.text)
            usage = delta.usage or usage
    text = "".join(parts)
    if text not in options:
        raise BackendProtocolError(
            f"the server did not keep to the options it was given; it answered {text[:200]!r}. "
            "Does this server honour response_format?"
        )
    return text, usage
