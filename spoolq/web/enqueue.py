"""POST /enqueue, POST /queues/{q}/messages and its batch: bodies in.

A body of at most `SMALL_BYTES` is taken whole, and enqueued in company (batching.py). A larger one streams to the
engine through a pipe, in a thread for as long as it comes. Whichever way, an upload that is interrupted leaves nothing:
the engine removes what it has written.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Header, Query, Request
from pydantic import Field, TypeAdapter, ValidationError
from starlette.responses import Response

from spoolq import validate
from spoolq.errors import SpoolqError
from spoolq.models import DEFAULT_PRIORITY, NewMessage
from spoolq.web.batching import Batcher
from spoolq.web.multipart import Form
from spoolq.web.problems import Problem, invalid, problem_of
from spoolq.web.routes import Json, QueueName, Strict, declare, new_router, ok
from spoolq.web.service import Service
from spoolq.web.streaming import Interrupted, Pipe, body_of, too_large

router = new_router()

SMALL_BYTES = 65_536
BATCH_LINES = 256
BATCH_MAX_LINES = 10_000
LINE_MAX_BYTES = 4 * 1024 * 1024
_NOT_KEPT = frozenset(("application/x-www-form-urlencoded", "application/octet-stream"))
"""Types that say nothing: what curl sends by itself, and bytes of any kind."""

_LINES = frozenset(("application/x-ndjson", "application/jsonl", "application/x-jsonlines"))

Priority = Annotated[int, Field(ge=0, le=9)]
Seconds = Annotated[float, Field(ge=0, le=3_153_600_000)]


class Asked(Strict):
    """What is said of a message in JSON: in the part `message` of a form, or a line of a batch."""

    priority: Priority = DEFAULT_PRIORITY
    delay_s: Seconds = 0
    ttl_s: Seconds | None = None
    group: str | None = None
    name: str | None = None
    content_type: str | None = None
    dedup_key: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)


class Line(Asked):
    """A line of a batch."""

    body: str | None = None
    body_base64: str | None = None


class Enqueued(Strict):
    """It is in the queue."""

    id: str
    queue: str


class BatchEnqueued(Strict):
    """The ids, in order."""

    ids: list[str]


_ASKED = TypeAdapter(Asked)
_LINE = TypeAdapter(Line)
_EXAMPLE = {"id": "01890a5d-ac96-774b-bcce-b302099a8057", "queue": "default"}


# One message


async def store(request: Request, name: str, new: NewMessage, chunks: AsyncIterator[bytes]) -> str:
    """Enqueue what comes; returns the id once it is safe."""
    _check(new)
    service: Service = request.app.state.service
    await service.queue(name)
    begun: list[bytes] = []
    size = 0
    async for piece in chunks:
        begun.append(piece)
        size += len(piece)
        if size > SMALL_BYTES:
            return await _stream(service, name, new, begun, chunks)
    return await store_small(request, name, replace(new, body=b"".join(begun)))


async def store_small(request: Request, name: str, new: NewMessage) -> str:
    """Enqueue a body that is held whole."""
    if new.dedup_key is not None:
        service: Service = request.app.state.service
        return await service.call(name, lambda queue: _enqueue(queue, new))
    batcher: Batcher = request.app.state.batcher
    return await batcher.enqueue(name, new)


def _enqueue(queue: Any, new: NewMessage) -> str:
    return queue.enqueue(new.body, **_arguments(new))  # type: ignore[no-any-return]


def _arguments(new: NewMessage) -> dict[str, Any]:
    return {
        "priority": new.priority,
        "delay_s": new.delay_s,
        "headers": new.headers or None,
        "content_type": new.content_type,
        "name": new.name,
        "dedup_key": new.dedup_key,
        "group": new.group,
        "ttl_s": new.ttl_s,
    }


async def _stream(
    service: Service, name: str, new: NewMessage, begun: list[bytes], chunks: AsyncIterator[bytes]
) -> str:
    """Through a pipe, into a thread of the engine."""
    pipe = Pipe()
    reader = service.begin_upload(name, lambda queue: queue.enqueue(pipe, **_arguments(new)))  # type: ignore[arg-type]
    try:
        for piece in begun:
            await pipe.put(piece, reader)
        begun.clear()
        async for piece in chunks:
            if reader.done():  # it has failed: full, too large
                break
            await pipe.put(piece, reader)
        pipe.end()
    except BaseException as error:
        pipe.end(Interrupted())
        if isinstance(error, Exception):
            await _settled(reader)
        raise
    return await reader


async def _settled(reader: Any) -> None:
    """Wait until the engine has removed what it had written."""
    try:
        await reader
    except (Interrupted, SpoolqError, ValueError):
        pass


def _check(new: NewMessage) -> None:
    validate.check_new_message(**_arguments(new))


# What is said of it


def _merged(said: Mapping[str, Any], also: Mapping[str, Any], where: str) -> dict[str, Any]:
    for key in also:
        if key in said:
            raise invalid(f"{where}.{key}", "is given twice")
    return {**said, **also}


def _said_in_headers(request: Request) -> dict[str, Any]:
    """`Idempotency-Key` and `Spoolq-Headers`."""
    said: dict[str, Any] = {}
    key = request.headers.get("idempotency-key")
    if key is not None:
        said["dedup_key"] = key
    text = request.headers.get("spoolq-headers")
    if text is not None:
        said["headers"] = _read_headers(text)
    return said


def _read_headers(text: str) -> dict[str, str]:
    if len(text) > validate.MAX_HEADERS_CHARS * 2:
        raise Problem("headers-too-large", "Spoolq-Headers is too long; send a form with the part `message`")
    try:
        found = json.loads(text) if text.isascii() else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise invalid("header.Spoolq-Headers", "must be a JSON object of texts, in ASCII")
    return found


def _made(said: Mapping[str, Any], where: str) -> NewMessage:
    """A message without its body, of what was said of it."""
    try:
        asked = _ASKED.validate_python(said)
    except ValidationError as error:
        raise _of_pydantic(error, where) from error
    return NewMessage(body=b"", **asked.model_dump())


def _of_pydantic(error: ValidationError, where: str) -> Problem:
    errors = [{"where": ".".join([where, *map(str, each["loc"])]), "message": each["msg"]} for each in error.errors()]
    return Problem("invalid", "; ".join(f"{each['where']}: {each['message']}" for each in errors), errors=errors)


def _content_type(request: Request, said: Mapping[str, Any]) -> str:
    """The request's own, where it describes the body."""
    return "" if "content_type" in said else request.headers.get("content-type", "")


async def _take(request: Request, name: str, said: dict[str, Any]) -> Response:
    """Enqueue a request's body, raw or from a form."""
    service: Service = request.app.state.service
    most = service.limits.max_body_bytes
    length = request.headers.get("content-length", "")
    if length.isdecimal() and 0 < most < int(length):
        raise too_large(most)
    in_headers = _said_in_headers(request)
    if said.get("dedup_key") is not None and said["dedup_key"] == in_headers.get("dedup_key"):
        del in_headers["dedup_key"]
    said = _merged(said, in_headers, "header")
    chunks = body_of(request.receive, service.limits.pause_s, most)
    kind = _content_type(request, said)
    try:
        if kind.lower().startswith("multipart/"):
            id = await _take_form(request, name, said, kind, chunks)
        else:
            if kind and kind.partition(";")[0].strip().lower() not in _NOT_KEPT:
                said["content_type"] = kind
            id = await store(request, name, _made(said, "query"), chunks)
    except Interrupted:
        return Response(status_code=400)  # nobody is there to read it
    return enqueued(name, id)


async def _take_form(request: Request, name: str, said: dict[str, Any], kind: str, chunks: AsyncIterator[bytes]) -> str:
    form = Form(kind, chunks)
    part, message = await form.begin()
    said = _merged(said, message, "message")
    if part.filename:
        said.setdefault("name", part.filename)
    if part.content_type:
        said.setdefault("content_type", part.content_type)
    return await store(request, name, _made(said, "message"), form.body())


def enqueued(name: str, id: str) -> Response:
    """201."""
    return Json({"id": id, "queue": name}, 201, {"Location": f"/queues/{name}/messages/{id}"})


_QUICK_HEADERS = frozenset((b"idempotency-key", b"spoolq-headers"))


def _plain(request: Request) -> tuple[int, str | None] | None:
    """Length and type of a raw body of which nothing else is said, where both are known; else None."""
    length = -1
    content_type: str | None = None
    for key, value in request.scope["headers"]:
        if key == b"content-length":
            if not value.isdigit() or len(value) > 5:
                return None
            length = int(value)
        elif key == b"content-type":
            if value[:10].lower() == b"multipart/":
                return None
            content_type = value.decode("latin-1")
        elif key in _QUICK_HEADERS:
            return None
    if not 0 <= length <= SMALL_BYTES:
        return None
    return length, None if content_type in _NOT_KEPT else content_type


async def _quick(request: Request, name: str) -> Response | None:
    """A small raw body of which nothing is said but its type."""
    service: Service = request.app.state.service
    plain = _plain(request)
    if plain is None or service.opened(name) is None or 0 < service.limits.max_body_bytes < plain[0]:
        return None
    if plain[1] is not None:
        validate.check_new_message(content_type=plain[1])
    try:
        body = b"".join([piece async for piece in body_of(request.receive, service.limits.pause_s, 0)])
    except Interrupted:
        return Response(status_code=400)
    new = NewMessage(body=body, content_type=plain[1])
    return enqueued(name, await store_small(request, name, new))


async def quick_enqueue(request: Request) -> Response | None:
    """POST /enqueue, where nothing but the queue is said."""
    query = request.scope["query_string"]
    if not query:
        return await _quick(request, "default")
    key, _, value = query.partition(b"=")
    return await _quick(request, value.decode("ascii")) if key == b"queue" and value.isalnum() else None


async def quick_send(request: Request) -> Response | None:
    """POST /queues/{q}/messages, where nothing is said."""
    return None if request.scope["query_string"] else await _quick(request, request.path_params["q"])


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "text/plain": {"schema": {"type": "string"}, "example": "hello"},
        },
    }
}

PriorityQuery = Annotated[int | None, Query(ge=0, le=9, description="9 first; 5 unless given")]
DelayQuery = Annotated[float | None, Query(ge=0, le=3_153_600_000, description="Not before this many seconds from now")]
TtlQuery = Annotated[float | None, Query(ge=0, le=3_153_600_000, description="Dead when not delivered by then")]
GroupQuery = Annotated[str | None, Query(min_length=1, max_length=200, description="One at a time, in order")]
NameQuery = Annotated[str | None, Query(min_length=1, max_length=1000, description="Shown to people")]
TypeQuery = Annotated[str | None, Query(min_length=1, max_length=200, description="Kept with the message")]
KeyQuery = Annotated[str | None, Query(min_length=1, max_length=200, description="At most one message a key")]
KeyHeader = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]
HeadersHeader = Annotated[str | None, Header(alias="Spoolq-Headers", description="A JSON object of texts, in ASCII")]


def _said(**given: Any) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


@declare(
    router,
    "POST",
    "/enqueue",
    needs="enqueue",
    success={201: ok(Enqueued, "It is in the queue", _EXAMPLE)},
    also=(404, 408, 431, 507),
    streams=True,
    extra=_BODY,
)
async def enqueue(
    request: Request,
    queue: Annotated[str, Query(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="The queue's name")] = "default",
    priority: PriorityQuery = None,
    delay_s: DelayQuery = None,
    ttl_s: TtlQuery = None,
    group: GroupQuery = None,
    name: NameQuery = None,
    content_type: TypeQuery = None,
    dedup_key: KeyQuery = None,
    idempotency_key: KeyHeader = None,
    spoolq_headers: HeadersHeader = None,
) -> Response:
    """Put a message in a queue: the body of the request, of any type and size."""
    said = _said(
        priority=priority,
        delay_s=delay_s,
        ttl_s=ttl_s,
        group=group,
        name=name,
        content_type=content_type,
        dedup_key=dedup_key,
    )
    return await _take(request, queue, said)


@declare(
    router,
    "POST",
    "/queues/{q}/messages",
    needs="enqueue",
    success={201: ok(Enqueued, "It is in the queue", _EXAMPLE)},
    also=(404, 408, 431, 507),
    streams=True,
    extra=_BODY,
)
async def send(
    request: Request,
    queue: QueueName,
    priority: PriorityQuery = None,
    delay_s: DelayQuery = None,
    ttl_s: TtlQuery = None,
    group: GroupQuery = None,
    name: NameQuery = None,
    content_type: TypeQuery = None,
    dedup_key: KeyQuery = None,
    idempotency_key: KeyHeader = None,
    spoolq_headers: HeadersHeader = None,
) -> Response:
    """Put a message in this queue, as POST /enqueue does."""
    said = _said(
        priority=priority,
        delay_s=delay_s,
        ttl_s=ttl_s,
        group=group,
        name=name,
        content_type=content_type,
        dedup_key=dedup_key,
    )
    return await _take(request, queue, said)


# Many


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a request, without their ends."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > LINE_MAX_BYTES:
            raise Problem("too-large", f"a line has at most {LINE_MAX_BYTES} bytes")
    if rest.strip():
        yield rest


def _read_line(text: bytes) -> NewMessage:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem("malformed", "the line is not JSON") from error
    try:
        line = _LINE.validate_python(found)
    except ValidationError as error:
        raise _of_pydantic(error, "line") from error
    if (line.body is None) == (line.body_base64 is None):
        raise invalid("line", "has one of body and body_base64")
    try:
        body = line.body.encode() if line.body is not None else base64.b64decode(line.body_base64 or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("line", "its body is not UTF-8, or not base64") from error
    new = NewMessage(body=body, **line.model_dump(exclude={"body", "body_base64"}))
    _check(new)
    return new


@declare(
    router,
    "POST",
    "/queues/{q}/messages/batch",
    needs="enqueue",
    success={201: ok(BatchEnqueued, "All are in the queue", {"ids": [_EXAMPLE["id"]]})},
    also=(404, 408, 507),
    streams=True,
    extra={
        "requestBody": {
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}, "example": '{"body":"one"}\n{"body":"two"}\n'}
            }
        }
    },
)
async def send_many(request: Request, queue: QueueName) -> Response:
    """Put many messages in this queue: a JSON object a line."""
    service: Service = request.app.state.service
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in _LINES:
        raise Problem("unsupported-media-type", "a batch is application/x-ndjson")
    await service.queue(queue)
    ids: list[str] = []
    run: list[NewMessage] = []
    number = 0
    try:
        async for text in _lines(body_of(request.receive, service.limits.pause_s, service.limits.max_body_bytes)):
            number += 1
            if number > BATCH_MAX_LINES:
                raise Problem("too-large", f"a batch has at most {BATCH_MAX_LINES} lines")
            if text.strip():
                run.append(_read_line(text))
            if len(run) == BATCH_LINES:
                ids += await _enqueue_run(service, queue, run)
                run = []
        ids += await _enqueue_run(service, queue, run)
    except Interrupted:
        return Response(status_code=400)
    except (Problem, SpoolqError, ValueError) as error:
        problem = problem_of(error)
        problem.more |= {"line": number, "ids": ids}
        raise problem from error
    return Json({"ids": ids}, 201)


async def _enqueue_run(service: Service, name: str, run: list[NewMessage]) -> list[str]:
    messages = list(run)
    return await service.call(name, lambda queue: queue.enqueue_many(messages)) if messages else []
