"""How a route is declared: method, path, who may use it, what it answers; and what is done for every one of them.

Before its function runs: the token's scope and queue, parameters nobody knows, the type and the size of a JSON body.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from spoolq.web import problems
from spoolq.web.problems import MEDIA_TYPE, Problem, invalid
from spoolq.web.security import Call

JSON_MAX_BYTES = 8 * 1024 * 1024

Endpoint = Callable[..., Coroutine[Any, Any, Response]]
QueueName = Annotated[str, Path(alias="q", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="The queue's name")]
MessageId = Annotated[
    str,
    Path(
        alias="id",
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        description="A message's id",
    ),
]
Receipt = Annotated[
    str,
    Path(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.[klt][0-9a-z]{1,40}$",
        description="What a claim returned",
    ),
]


_NO_IDS = {"batch": "POST", "search": "GET", "peek": "GET"}
"""What stands in the place of an id, and has another method."""


class Strict(BaseModel):
    """A JSON request. A field that nobody knows is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Json(Response):
    """JSON in one line of ASCII, so that text which is no Unicode can be in it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """As bytes."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def nothing() -> Response:
    """Done, and nothing to say."""
    return Response(status_code=204)


class Route(APIRoute):
    """A route of this API."""

    needs: str
    streams: bool

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What runs for a request."""
        full = super().get_route_handler()
        needs, streams, path = self._declared()
        known = _query_names(self.dependant)
        takes_json = self.body_field is not None
        of_queue = "{q}" in path
        by_parameter = "queue" in known
        everywhere = needs in ("admin", "consume") and not of_queue and not by_parameter and path != "/queues"

        async def handle(request: Request) -> Response:
            call: Call = request.scope["spoolq.call"]
            allowed = _NO_IDS.get(request.path_params.get("id", ""))
            if allowed is not None:
                raise Problem("method-not-allowed", headers={"Allow": allowed})
            call.check_id()
            if needs and call.token is not None:
                queue = request.path_params.get("q") if of_queue else None
                if by_parameter:
                    queue = request.query_params.get("queue", "default")
                call.check(needs, queue, everywhere=everywhere or (path == "/queues" and needs == "admin"))
            if request.scope["query_string"]:
                _check_known(request, known)
            if not streams:
                await _read_body(request, takes_json)
            return await full(request)

        return handle

    def _declared(self) -> tuple[str, bool, str]:
        declared = getattr(self.endpoint, "_declared", ("admin", False))
        return (*declared, self.path)


def _query_names(dependant: Any) -> set[str]:
    """The parameters of a route, and of what it depends on."""
    names = {field.alias for field in dependant.query_params}
    return names.union(*map(_query_names, dependant.dependencies))


def _check_known(request: Request, known: set[str]) -> None:
    for name in request.query_params:
        if name not in known:
            allowed = f"allowed are {', '.join(sorted(known))}" if known else "this route takes none"
            raise invalid(f"query.{name[:80]}", f"unknown parameter; {allowed}")


async def _read_body(request: Request, takes_json: bool) -> None:
    """The whole of a small body; FastAPI finds it read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_MAX_BYTES:
            raise Problem("too-large", f"a JSON request has at most {JSON_MAX_BYTES} bytes")
    request._body = bytes(body)
    if not takes_json:
        return
    kind = request.headers.get("content-type", "")
    if not body and not kind:
        return
    media = kind.partition(";")[0].strip().lower()
    if media and media != "application/json" and not media.endswith("+json"):
        raise Problem("unsupported-media-type", "this route takes application/json")
    if not body:
        return
    if not media:
        # FastAPI reads as JSON only what says that it is.
        request.scope["headers"] = [*request.scope["headers"], (b"content-type", b"application/json")]
        if hasattr(request, "_headers"):
            del request._headers
    try:
        json.loads(request._body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Problem("malformed", "the body is not JSON") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


COMMON = (400, 401, 403, 413, 415, 422, 429, 500, 503)
_SAID = {
    404: "No such queue, message or route",
    409: "The claim has ended, or it is there already",
    416: "No such range",
}


def answers(success: dict[int, dict[str, Any]], also: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route."""
    found: dict[int | str, dict[str, Any]] = {code: answer for code, answer in success.items()}  # noqa: C416 its type
    titles: dict[int, list[str]] = {}
    for status, title in problems.KINDS.values():
        titles.setdefault(status, []).append(title)
    for status in sorted({*COMMON, *also}):
        if status == 304:
            found[304] = {"description": "Not changed"}
            continue
        found[status] = {
            "description": "; ".join(titles[status]),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return found


def declare(
    router: APIRouter,
    method: str,
    path: str,
    *,
    needs: str,
    success: dict[int, dict[str, Any]],
    also: tuple[int, ...] = (404,),
    streams: bool = False,
    extra: dict[str, Any] | None = None,
) -> Callable[[Endpoint], Endpoint]:
    """Declare a route. needs: a scope, or "" for none. streams: it reads the body itself. also: further statuses."""

    def add(endpoint: Endpoint) -> Endpoint:
        endpoint._declared = (needs, streams)  # type: ignore[attr-defined]
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            status_code=next(iter(success)),
            responses=answers(success, also),
            response_model=None,
            response_class=Response,
            openapi_extra=extra,
            strict_content_type=False,
        )
        return endpoint

    return add


def ok(model: Any, description: str = "Done", example: Any = None) -> dict[str, Any]:
    """A JSON success for `declare`."""
    found: dict[str, Any] = {"model": model, "description": description}
    if example is not None:
        found["content"] = {"application/json": {"example": example}}
    return found


def new_router() -> APIRouter:
    """A router whose routes are of this kind."""
    return APIRouter(route_class=Route)
