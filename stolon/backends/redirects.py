"""Which redirects of a POST are followed: those that keep the method and lead to where the key was meant to go."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

# 301, 302 and 303 make clients repeat a POST as a GET without its body
_METHOD_KEEPING = (307, 308)
_PORTS = {"http": 80, "https": 443}


def is_followed(status: int, url: str, location: str | None) -> bool:
    return status in _METHOD_KEEPING and location is not None and _origin(urljoin(url, location)) == _origin(url)


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """None where the address makes no sense; no two of those are the same place."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
