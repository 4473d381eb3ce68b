"""The OpenAPI document: routes and fields, made from the tables that check requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

from .. import __version__
from .auth import OPEN
from .body import JsonObject
from .openapi_answers import ERROR, OPERATIONS, Operation
from .openapi_words import MEANINGS
from .route import Body, Route

_EVENTS: JsonObject = {"schema": {"description": "server-sent events; each `data` is JSON, the last is [DONE]"}}
_ERROR: JsonObject = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
# what may go wrong on any route, and on those that read a body
_ANYWHERE = {
    "401": "no key, or a wrong one",
    "500": "the server failed at this request",
    "503": "no request is taken now; see Retry-After",
}
_WITH_BODY = {
    "400": "the request is wrong; param names the field",
    "404": "the model is not served",
    "408": "the request did not arrive in time",
    "413": "the body is too large",
    "415": "the body is not declared as JSON",
    "504": "the answer took too long",
}


def document(routes: Sequence[Route], vocab_size: int, *, needs_key: bool) -> JsonObject:
    """OpenAPI 3.1. vocab_size: of the model, which bounds token ids"""
    paths: dict[str, JsonObject] = {}
    schemas: JsonObject = {"Error": ERROR}
    for route in routes:
        path = route.path
        operation = OPERATIONS.get(path, Operation(summary=path, answer={}))
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, operation, vocab_size, schemas)
    found: JsonObject = {
        "openapi": "3.1.0",
        "info": {"title": "stolon", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }
    return {**found, "security": [{"key": []}]} if needs_key else found


def _operation(route: Route, path: str, operation: Operation, vocab_size: int, schemas: JsonObject) -> JsonObject:
    body = route.body_of(vocab_size)
    content: JsonObject = {operation.kind: {"schema": operation.answer}}
    if operation.streams:
        content["text/event-stream"] = _EVENTS
    found: JsonObject = {
        "operationId": f"{route.method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', path).rstrip('_')}",
        "summary": operation.summary,
        "responses": {"200": {"description": "the answer", "content": content}, **_errors(path, body is not None)},
    }
    if "{model}" in path:
        found["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    if path in OPEN:
        found["security"] = []
    if body is not None:
        name = "".join(word.capitalize() for word in re.split(r"[^a-z0-9]+", path)) + "Request"
        schemas[name] = _described(body)
        schema = {"$ref": f"#/components/schemas/{name}"}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found


def _errors(path: str, reads_body: bool) -> JsonObject:
    statuses = {**_ANYWHERE, **(_WITH_BODY if reads_body else {})}
    if path == "/v1/models/{model}":
        statuses["404"] = _WITH_BODY["404"]
    if path == "/flush_cache":
        statuses["400"] = "not now"
    return {status: {"description": why, **_ERROR} for status, why in sorted(statuses.items())}


def _described(body: Body) -> JsonObject:
    """The schema of a body, with what each field means."""
    properties = cast("dict[str, JsonObject]", body.schema["properties"])
    told = {name: {**schema, "description": MEANINGS[name]} for name, schema in properties.items() if name in MEANINGS}
    return {**body.schema, "properties": {**properties, **told}}
