"""The page at `/`, and what it shows: load, cache, tree and requests."""

from __future__ import annotations

import base64
import functools
import hashlib
import time
from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web

from . import wire
from .body import JsonObject
from .request import Request
from .service import Service, Tokenizer

if TYPE_CHECKING:  # needs numpy, which a server does without until its flags are right
    from ..view import NodeView

_NODES = 300
_REQUESTS = 50
_TOKENS_READ = 24  # of each node, for the operator
_SCRIPTS = ("load.js", "tree.js", "play.js")


async def page(service: Service, request: Request) -> web.StreamResponse:
    """The same for everybody: it holds nothing of the model, and asks for what it shows."""
    body, policy = _page()
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)


async def state(service: Service, request: Request) -> web.StreamResponse:
    """A moment of the engine. The text of cached tokens is other people's: it is shown with the admin key only."""
    served = service.served
    found: JsonObject = {
        "model": served.model_name,
        "generates": service.generates,
        "uptime_s": time.time() - service.started_s,
        "alive": service.is_alive,
        "draining": service.is_draining,
        "stats": served.stats(),
        "requests": [],
        "nodes": [],
    }
    if service.generates:
        view = await service.engine.view(_NODES, _REQUESTS, _TOKENS_READ if request.is_admin else 0)
        reader = served.tokenizer if request.is_admin else None
        found["requests"] = [asdict(each) for each in view.requests]
        found["nodes"] = [_node(each, reader) for each in view.nodes]
    return web.Response(body=wire.dumps(found), content_type="application/json", headers={"Cache-Control": "no-store"})


def _node(node: NodeView, reader: Tokenizer | None) -> JsonObject:
    found = asdict(node)
    first = found.pop("first")
    return {**found, "text": None if reader is None else reader.decode(first, skip_special_tokens=False)}


@functools.cache
def _page() -> tuple[bytes, str]:
    """The page in one piece, and the policy that lets it run this style and this script, and nothing else."""
    folder = resources.files(__name__.rpartition(".")[0]) / "page"
    style = (folder / "page.css").read_text("utf-8")
    script = "".join((folder / name).read_text("utf-8") for name in _SCRIPTS)
    html = (folder / "page.html").read_text("utf-8").replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    # blocks of the tree and the bar are sized by style attributes set by the script, which no policy forbids
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html.encode(), policy


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
