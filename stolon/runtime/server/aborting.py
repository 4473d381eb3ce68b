"""What a request is called, and POST /abort_request, which ends it by that name."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from ..limits import LENGTHS
from . import wire
from .auth import operators_only
from .body import read_object
from .errors import invalid
from .fields import Field, Values, boolean, object_of, string
from .request import Request
from .service import Service
from .watching import request_id

_text = string(LENGTHS["request_id"])


def _rid(path: str, value: object) -> str:
    found = _text(path, value)
    if not (found.isascii() and found.isprintable()):
        raise invalid(f"{path} must be printable ASCII: it stands in the answer's headers", path)
    return found


RID = Field({**_text.schema, "pattern": "^[ -~]+$"}, _rid)

ABORT_BODY = object_of(
    {"rid": string(LENGTHS["aborted_id"]), "abort_all": boolean},
    unsupported={"abort_message": "an answer that was ended says abort and no more"},
)


@dataclass(frozen=True, slots=True)
class Name:
    """id: of the answer; handle: what the engine knows the request by, which nobody with another key can say"""

    id: str
    handle: str

    @classmethod
    def of(cls, request: Request, values: Values, prefix: str) -> Name:
        """A new one, or what the client says, which then is the request's own everywhere."""
        given = values.get("rid", values.get("request_id"))
        if given is None:
            id = wire.new_id(prefix)
        else:
            if values.get("request_id", given) != given:
                raise invalid("rid and request_id are one thing, but differ; give one", "request_id")
            id = request.id = given
            request_id.set(id)
        return cls(id, handle(request, id))


def handle(request: Request, id: str) -> str:
    """See `Name`."""
    return f"{request.caller}:{id}"


async def abort(service: Service, request: Request) -> web.StreamResponse:
    """How many requests there were to end, which may be none: they may have ended already."""
    values = ABORT_BODY("", await read_object(request, service.settings))
    rid, everything = values.get("rid", ""), values.get("abort_all", False)
    if everything:
        operators_only(request)
    elif not rid:
        raise invalid("give rid, the id of a request, or abort_all: true", "rid", "missing_parameter")
    count = service.engine.abort(None if everything else handle(request, rid))
    return web.Response(body=wire.dumps({"aborted": count}), content_type="application/json")
