"""What the server says about itself, and the operator's routes."""

from __future__ import annotations

from aiohttp import web

from ...lang.types import SamplingParams
from .. import __version__
from . import wire
from .answers import Question, collect
from .body import JsonObject
from .errors import HttpError, clip, shutting_down, unavailable
from .prompts import is_served, listed_names, not_served
from .request import Request
from .service import Served, Service

MODELS = "/v1/models/"  # the name of a model follows, which may have slashes
MODEL = "/v1/models/{model}"


def _json(value: object) -> web.Response:
    return web.Response(body=wire.dumps(value), content_type="application/json")


async def health(service: Service, request: Request) -> web.StreamResponse:
    """Alive: the engine has made a step, or waited for work, a short while ago. Costs no token."""
    if service.is_loading:
        raise unavailable("the model is being loaded")
    if not service.is_alive:
        raise unavailable("the engine gives no sign of life")
    return _json({"status": "ok"})


async def ready(service: Service, request: Request) -> web.StreamResponse:
    """Would take a request now."""
    if service.is_draining:
        raise shutting_down()
    await health(service, request)
    return _json({"status": "ready"})


async def health_generate(service: Service, request: Request) -> web.StreamResponse:
    """Answers one request of one token as any other is answered; for who wants to know that, and pays for it.

    The prompt is token 0, which every model has.
    """
    timeout_s = service.settings.request_timeout_s
    with service.admitted_any():
        if service.generates:
            params = SamplingParams(max_tokens=1, temperature=0.0)
            await collect(service.engine, [Question(prompt=[0], params=params, timeout_s=timeout_s)])
        else:
            await service.embedder.embed([service.embedder.as_is([0])], timeout_s=timeout_s)
    return _json({"status": "ok"})


def _model(service: Service, engine: Served, name: str) -> JsonObject:
    return {
        "id": name,
        "object": "model",
        "created": int(service.started_s),
        "owned_by": "stolon",
        "root": engine.model_name,
        "parent": None,
        "max_model_len": service.longest,
    }


async def models(service: Service, request: Request) -> web.StreamResponse:
    engine = service.served
    return _json({"object": "list", "data": [_model(service, engine, name) for name in listed_names(engine)]})


async def model(service: Service, request: Request) -> web.StreamResponse:
    engine = service.served
    name = request.name_after(MODELS)
    if not is_served(name, engine):
        raise not_served(f"'{clip(name)}'", engine)
    return _json(_model(service, engine, name if name in listed_names(engine) else engine.model_name))


def _defaults(service: Service) -> dict[str, float] | None:
    """What holds where a request says nothing of how to draw tokens; None: the protocol's defaults (SGLang's form)."""
    return dict(service.engine.sampling_defaults) or None if service.generates else None


async def model_info(service: Service, request: Request) -> web.StreamResponse:
    """No path of the machine: the name stands for the model everywhere."""
    engine = service.served
    return _json(
        {
            "model_path": engine.model_name,
            "served_model_name": engine.model_name,
            "is_generation": service.generates,
            "has_chat_template": engine.chat is not None,
            "context_length": engine.context_length,
            "vocab_size": engine.vocab_size,
            "preferred_sampling_params": _defaults(service),
        }
    )


async def server_info(service: Service, request: Request) -> web.StreamResponse:
    engine = service.served
    return _json(
        {
            "server": "stolon",
            "version": __version__,
            "served_model_name": engine.model_name,
            "context_length": engine.context_length,
            "started": int(service.started_s),
            "preferred_sampling_params": _defaults(service),
            "in_flight": service.in_flight,
            "internal_states": [engine.stats()],
        }
    )


async def version(service: Service, request: Request) -> web.StreamResponse:
    return _json({"version": __version__})


async def flush_cache(service: Service, request: Request) -> web.StreamResponse:
    if not await service.served.flush_cache():
        message = "the cache is in use by running requests and was not flushed; try again when they have ended"
        raise HttpError(400, "cache_in_use", message)
    return web.Response(text="Cache flushed.\n")


async def reset_prefix_cache(service: Service, request: Request) -> web.StreamResponse:
    """As vLLM answers: whether it was done."""
    return _json({"success": await service.served.flush_cache()})


async def load(service: Service, request: Request) -> web.StreamResponse:
    """As vLLM answers: requests in flight."""
    return _json({"server_load": service.in_flight})


async def metrics(service: Service, request: Request) -> web.StreamResponse:
    """In Prometheus' text format."""
    if service.meters is None:
        raise HttpError(404, "unknown_url", "metrics are turned off; start the server without --disable-metrics")
    return web.Response(body=service.meters.written(), headers={"Content-Type": "text/plain; version=0.0.4"})
