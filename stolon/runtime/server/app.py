"""The routes, and what surrounds every one of them: an id, the key, the error shape, one line in the log."""

from __future__ import annotations

import functools
import itertools
import logging
import secrets
import time
from collections.abc import Mapping

from aiohttp import web

from .. import limits
from . import (
    aborting,
    auth,
    chat,
    completions,
    dashboard,
    embeddings,
    errors,
    generate,
    messages,
    ranking,
    responses,
    scoring,
    status,
    tokenizing,
    wire,
)
from .errors import HttpError
from .openapi import document
from .request import Request
from .route import Route
from .service import Service
from .sharing import Sharing
from .watching import is_unlogged, request_id

logger = logging.getLogger(__name__)

ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", chat.answer, chat.request_body),
    Route("POST", "/v1/completions", completions.answer, completions.request_body),
    Route("POST", "/v1/responses", responses.answer, responses.request_body),
    Route("POST", "/v1/messages", messages.answer, messages.REQUEST_BODY),
    Route("POST", "/v1/messages/count_tokens", messages.count, messages.COUNTED_BODY),
    Route("POST", "/v1/embeddings", embeddings.answer, embeddings.request_body),
    Route("POST", "/v1/score", ranking.score, ranking.score_body),
    Route("POST", "/v1/rerank", ranking.rerank, ranking.RERANK_BODY),
    Route("POST", "/v2/rerank", ranking.rerank, ranking.RERANK_BODY),
    Route("POST", "/rerank", ranking.rerank, ranking.RERANK_BODY),
    Route("POST", "/generate", generate.answer, generate.request_body),
    Route("POST", "/score", scoring.answer, scoring.REQUEST_BODY),
    Route("POST", "/tokenize", tokenizing.tokenize, tokenizing.TOKENIZE_BODY),
    Route("POST", "/v1/tokenize", tokenizing.tokenize, tokenizing.TOKENIZE_BODY),
    Route("POST", "/detokenize", tokenizing.detokenize, tokenizing.detokenize_body),
    Route("POST", "/v1/detokenize", tokenizing.detokenize, tokenizing.detokenize_body),
    Route("GET", "/v1/models", status.models),
    Route("GET", status.MODEL, status.model),
    Route("GET", "/", dashboard.page),
    Route("GET", "/dashboard/state", dashboard.state),
    Route("GET", "/health", status.health),
    Route("GET", "/ping", status.health),
    Route("POST", "/ping", status.health),
    Route("GET", "/metrics", status.metrics),
    Route("GET", "/health_generate", status.health_generate),
    Route("GET", "/ready", status.ready),
    Route("GET", "/version", status.version),
    Route("GET", "/get_model_info", status.model_info),
    Route("GET", "/model_info", status.model_info),
    Route("GET", "/get_server_info", status.server_info),
    Route("GET", "/server_info", status.server_info),
    Route("GET", "/load", status.load),
    Route("GET", "/flush_cache", status.flush_cache),
    Route("POST", "/flush_cache", status.flush_cache),
    Route("POST", "/reset_prefix_cache", status.reset_prefix_cache),
    Route("POST", "/abort_request", aborting.abort, aborting.ABORT_BODY),
)


class App:
    """Answers every request, with the route that it names or with an error; nothing is raised."""

    def __init__(self, service: Service, keys: auth.Keys) -> None:
        self.routes: tuple[Route, ...] = (*ROUTES, Route("GET", "/openapi.json", self._document))
        self._service = service
        self._keys = keys
        self._sharing = Sharing.of(service.settings)
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            methods = self._by_path.setdefault(route.path, {})
            methods[route.method] = route
            # of its answer aiohttp sends the headers alone; nobody expects that it does anything
            if route.method == "GET" and route.path not in auth.OPERATOR:
                methods["HEAD"] = route
        self._written = functools.lru_cache(maxsize=2)(self._write)
        self._boot = secrets.token_hex(4)
        self._count = itertools.count(1)

    async def answer(self, request: Request) -> web.StreamResponse:
        began = time.monotonic()
        request.id = self._id_of(request)
        request_id.set(request.id)
        is_unlogged.set(False)
        routes = self._routes_at(request.asked_path)
        route = routes.get(request.method)
        request.route = None if route is None else route.path
        try:
            response = self._preflight(request)
            if response is None:
                auth.admit(request, self._keys)
                if route is None:
                    raise _unmatched(routes, request.method)
                response = await route.handler(self._service, request)
        except Exception as error:
            response = errors.response(self._service.explain(error))
        if not response.prepared:
            response.headers.update(request.identity())
        self._note(request, response.status, time.monotonic() - began)
        return response

    def _preflight(self, request: Request) -> web.StreamResponse | None:
        """The answer to a browser that asks whether a page may ask; it has no key yet, and learns nothing else."""
        if self._sharing is None:
            return None
        request.granted = self._sharing.granted(request.headers)
        headers = self._sharing.preflight(request.method, request.headers)
        return None if headers is None else web.Response(status=204, headers=headers)

    def _routes_at(self, path: str) -> Mapping[str, Route]:
        """Those of a path, by method."""
        if path.startswith(status.MODELS) and path != status.MODELS:
            path = status.MODEL
        return self._by_path.get(path, {})

    def _note(self, request: Request, status: int, took_s: float) -> None:
        # the matched route, never what the client wrote
        route = request.route or "(no route)"
        if self._service.meters is not None:
            self._service.meters.answered(route, status, took_s)
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s %s %d %.0f ms %s", request.method, route, status, took_s * 1000, request.id)

    def _id_of(self, request: Request) -> str:
        """The client's own id where it is fit to be repeated, else one of ours."""
        given = request.headers.get("X-Request-Id", "")
        if 0 < len(given) <= limits.LENGTHS["request_id"].high and given.isascii() and given.isprintable():
            return given
        return f"{self._boot}-{next(self._count)}"

    async def _document(self, service: Service, request: Request) -> web.StreamResponse:
        """What describes all routes, this one too."""
        return web.Response(body=self._written(service.served.vocab_size), content_type="application/json")

    def _write(self, vocab_size: int) -> bytes:
        return wire.dumps(document(self.routes, vocab_size, needs_key=bool(self._keys.users)))


def _unmatched(routes: Mapping[str, Route], method: str) -> HttpError:
    """No route takes `method` at a path that has `routes`."""
    if not routes:
        return HttpError(404, "unknown_url", "there is no such route")
    allowed = ", ".join(sorted(routes))
    message = f"this route does not take {errors.clip(method)}; use {allowed}"
    return HttpError(405, "method_not_allowed", message, headers=(("Allow", allowed),))
