"""Where requests go: addresses that make sense, and redirects that lead to where the key was meant to go."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from ..lang.errors import InvalidRequest

# 301, 302 and 303 make clients repeat a POST as a GET without its body
_METHOD_KEEPING = (307, 308)
_PORTS = {"http": 80, "https": 443}


def checked_url(url: str) -> str:
    """`url` without a slash at its end; raises InvalidRequest unless it is one that requests can be sent to."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")  # pyright: ignore[reportUnnecessaryIsInstance]
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise InvalidRequest(
            f"base_url must be an address such as http://127.0.0.1:30000, got {url!r}", param="base_url"
        )
    return url.rstrip("/")


def is_followed(status: int, url: str, location: str | None) -> bool:
    """Whether a POST to `url` that was answered with `status` is sent again to `location`."""
    return status in _METHOD_KEEPING and location is not None and _origin(urljoin(url, location)) == _origin(url)


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """None where the address makes no sense; no two of those are the same place."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
