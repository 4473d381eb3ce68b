"""The routes, and what surrounds every one of them: an id, the key, the error shape, one line in the log."""

from __future__ import annotations

import functools
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from .. import limits
from . import (
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
from .openapi import document
from .route import Route, ServiceHandler
from .service import REQUEST_ID, Service
from .watching import request_id

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", chat.answer, chat.request_body),
    Route("POST", "/v1/completions", completions.answer, completions.request_body),
    Route("POST", "/v1/responses", responses.answer, responses.request_body),
    Route("POST", "/v1/messages", messages.answer, messages.REQUEST_BODY),
    Route("POST", "/v1/messages/count_tokens", messages.count, messages.COUNTED_BODY),
    Route("POST", "/v1/embeddings", embeddings.answer, embeddings.request_body),
    Route("POST", "/v1/score", ranking.score, ranking.score_body),
    Route("POST", "/v1/rerank", ranking.rerank, ranking.RERANK_BODY),
    Route("POST", "/rerank", ranking.rerank, ranking.RERANK_BODY),
    Route("POST", "/generate", generate.answer, generate.request_body),
    Route("POST", "/score", scoring.answer, scoring.REQUEST_BODY),
    Route("POST", "/tokenize", tokenizing.tokenize, tokenizing.TOKENIZE_BODY),
    Route("POST", "/v1/tokenize", tokenizing.tokenize, tokenizing.TOKENIZE_BODY),
    Route("POST", "/detokenize", tokenizing.detokenize, tokenizing.detokenize_body),
    Route("POST", "/v1/detokenize", tokenizing.detokenize, tokenizing.detokenize_body),
    Route("GET", "/v1/models", status.models),
    Route("GET", "/v1/models/{model:.+}", status.model),
    Route("GET", "/", dashboard.page),
    Route("GET", "/dashboard/state", dashboard.state),
    Route("GET", "/health", status.health),
    Route("GET", "/metrics", status.metrics),
    Route("GET", "/health_generate", status.health_generate),
    Route("GET", "/ready", status.ready),
    Route("GET", "/get_model_info", status.model_info),
    Route("GET", "/model_info", status.model_info),
    Route("GET", "/get_server_info", status.server_info),
    Route("GET", "/server_info", status.server_info),
    Route("GET", "/flush_cache", status.flush_cache),
    Route("POST", "/flush_cache", status.flush_cache),
)


def _with_document(routes: Sequence[Route], keys: auth.Keys) -> list[Route]:
    """`routes`, and the one that describes them all."""

    @functools.lru_cache(maxsize=2)
    def written(vocab_size: int) -> bytes:
        return wire.dumps(document(every, vocab_size, needs_key=keys.user is not None))

    async def answer(service: Service, request: web.Request) -> web.StreamResponse:
        return web.Response(body=written(service.served.vocab_size), content_type="application/json")

    every = [*routes, Route("GET", "/openapi.json", answer)]
    return every


def build_app(service: Service, keys: auth.Keys) -> web.Application:
    surroundings = _Surroundings(service, keys)
    app = web.Application(middlewares=[surroundings.around])
    for route in _with_document(ROUTES, keys):
        bound = _bound(route.handler, service)
        app.router.add_route(route.method, route.path, bound, expect_handler=_say_nothing_yet)
    app.on_response_prepare.append(_finish_headers)
    return app


def _bound(handler: ServiceHandler, service: Service) -> Handler:
    async def bound(request: web.Request) -> web.StreamResponse:
        return await handler(service, request)

    return bound


async def _say_nothing_yet(request: web.Request) -> None:
    """`100 Continue` is said when the body is read: after the key has been checked."""


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Request-Id"] = request.get(REQUEST_ID, "none")
    response.headers["Server"] = "stolon"


class _Surroundings:
    def __init__(self, service: Service, keys: auth.Keys) -> None:
        self._service = service
        self._keys = keys
        self._boot = secrets.token_hex(4)
        self._count = itertools.count(1)

    @web.middleware
    async def around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.monotonic()
        request[REQUEST_ID] = self._id_of(request)
        request_id.set(request[REQUEST_ID])
        try:
            auth.admit(request, self._keys)
            response = await handler(request)
        except Exception as error:
            response = errors.response(self._service.explain(error))
        took_s, route = time.monotonic() - began, _route(request)
        if self._service.meters is not None:
            self._service.meters.answered(route, response.status, took_s)
        if logger.isEnabledFor(logging.INFO):
            id = request[REQUEST_ID]
            logger.info("%s %s %d %.0f ms %s", request.method, route, response.status, took_s * 1000, id)
        return response

    def _id_of(self, request: web.Request) -> str:
        """The client's own id where it is fit to be repeated, else one of ours."""
        given = request.headers.get("X-Request-Id", "")
        if 0 < len(given) <= limits.LENGTHS["request_id"].high and given.isascii() and given.isprintable():
            return given
        return f"{self._boot}-{next(self._count)}"


def _route(request: web.Request) -> str:
    """The matched route for the log: never what the client wrote."""
    resource = request.match_info.route.resource
    return "(no route)" if resource is None else resource.canonical
