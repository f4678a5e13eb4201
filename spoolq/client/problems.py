"""A server's problem documents (RFC 9457) as the errors of spoolq/errors.py, by their `type`.

docs/rest-api.md, section 3, has the types and their situations. The words are the server's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from spoolq.errors import (
    Busy,
    DiskFull,
    LeaseLost,
    MessageNotFound,
    MessageTooLarge,
    NotAllowed,
    NotCapable,
    QueueExists,
    QueueFull,
    QueueNotFound,
    SpoolqError,
    StorageError,
    Unreachable,
    UnsafeFile,
)

PREFIX = "urn:spoolq:problem:"
CLOSING = "closing"
"""The server is stopping, and has done nothing of what was asked."""

ERRORS: Mapping[str, type[SpoolqError]] = {
    "unauthorized": NotAllowed,
    "forbidden": NotAllowed,
    "host-not-allowed": NotAllowed,
    "cross-site": NotAllowed,
    "not-found": SpoolqError,
    "queue-not-found": QueueNotFound,
    "message-not-found": MessageNotFound,
    "method-not-allowed": NotCapable,
    "lease-lost": LeaseLost,
    "queue-exists": QueueExists,
    "unsafe-file": UnsafeFile,
    "timeout": Unreachable,
    "too-large": MessageTooLarge,
    "unsupported-media-type": SpoolqError,
    "range-not-satisfiable": SpoolqError,
    "too-many": Busy,
    "internal": SpoolqError,
    "not-capable": NotCapable,
    "busy": Busy,
    "storage": StorageError,
    "not-ready": Unreachable,
    CLOSING: Unreachable,
    "disk-full": DiskFull,
    "queue-full": QueueFull,
}

WRONG_ARGUMENTS = ("malformed", "invalid", "headers-too-large")
"""These are a ValueError: the caller asked for what is not allowed."""

_BY_STATUS: Mapping[int, type[SpoolqError]] = {401: NotAllowed, 403: NotAllowed, 413: MessageTooLarge, 429: Busy}
"""For what has no type of ours: a proxy's answer, or a newer server's."""

_HINTS = {  # where what to do is for users of this client another thing than for those of curl
    "unauthorized": "Give a token: ?token=... after the URL, or in SPOOLQ_TOKEN",
    "not-found": "Is this the address of a spoolq server?",
}
_SHOWN_CHARS = 2000


def is_problem(response: httpx.Response) -> bool:
    """Whether the server says itself what is wrong."""
    kind: str = response.headers.get("Content-Type", "")
    return kind.partition(";")[0].strip() == "application/problem+json"


def kind_of(response: httpx.Response) -> str:
    """The type of the problem, without its prefix; "" for an answer that is none."""
    return str(_document(response).get("type", "")).removeprefix(PREFIX)


def error_of(response: httpx.Response, op: str) -> SpoolqError | ValueError:
    """The error that an answer tells of."""
    document = _document(response)
    kind = str(document.get("type", "")).removeprefix(PREFIX)
    message = _message(document, response)
    if kind in WRONG_ARGUMENTS:
        return ValueError(message)
    error = ERRORS.get(kind) or _BY_STATUS.get(response.status_code, SpoolqError)
    hint = _HINTS.get(kind) or str(document.get("hint") or "")
    if error is StorageError:
        return StorageError(message, op=op, hint=hint)
    return error(message, op=op, message_id=str(document.get("message_id") or ""), hint=hint)


def _document(response: httpx.Response) -> Mapping[str, Any]:
    if not is_problem(response):
        return {}
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _message(document: Mapping[str, Any], response: httpx.Response) -> str:
    """The server's words, with what it says of each wrong value."""
    said = str(document.get("detail") or document.get("title") or f"{response.status_code} {response.reason_phrase}")
    for each in document.get("errors") or ():
        wrong = f"{each.get('where', '')}: {each.get('message', '')}"
        if str(each.get("message", "")) not in said:
            said += f"; {wrong}"
    if document.get("type") == f"{PREFIX}internal" and document.get("request_id"):
        said += f" (request {document['request_id']})"
    return said[:_SHOWN_CHARS]
