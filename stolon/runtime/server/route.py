"""What a line of the table of routes says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from .fields import Field
from .request import Request
from .service import Service

ServiceHandler = Callable[[Service, Request], Awaitable[web.StreamResponse]]
Body = Field[dict[str, Any]]


class Route(NamedTuple):
    """body: what a request must bring, which may depend on the size of the vocabulary"""

    method: str
    path: str
    handler: ServiceHandler
    body: Body | Callable[[int], Body] | None = None

    def body_of(self, vocab_size: int) -> Body | None:
        return self.body(vocab_size) if callable(self.body) and not isinstance(self.body, Field) else self.body
