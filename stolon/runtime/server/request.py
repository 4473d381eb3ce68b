"""One HTTP request, as the routes see it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from aiohttp import web


class Request(web.BaseRequest):
    """What aiohttp knows of a request, and what is known of it before a route gets to see it.

    id: the client's own or one of ours; route: the path of the matched route, None where there is none;
    is_admin: it carries the operator's own key; may_operate: it does, or the operator has none
    caller: the same for all requests with one key, and none of the key itself
    granted: headers for pages of other origins (see sharing.py)
    """

    id: str = ""
    route: str | None = None
    is_admin: bool = False
    may_operate: bool = True
    caller: str = ""
    granted: Mapping[str, str] = MappingProxyType({})

    @property
    def asked_path(self) -> str:
        """Decoded, but for slashes, so that an encoded one parts nothing. Only to match by; `route` is what matched."""
        return self.rel_url.path_safe

    def name_after(self, prefix: str) -> str:
        """The rest of the path of a route that ends with a name."""
        return self.path.removeprefix(prefix)

    def identity(self) -> dict[str, str]:
        """The headers that every answer to it has."""
        return {"X-Request-Id": self.id, "Server": "stolon", **self.granted}
