"""What is not a success, as RFC 9457 problem documents. Section 3 of docs/rest-api.md.

Decides the `type`, the status and the words for every error. No answer names a path of the server or shows a traceback:
where an error's own words might, they are replaced here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from spoolq.errors import (
    Busy,
    DiskFull,
    LeaseLost,
    MessageNotFound,
    MessageTooLarge,
    NotCapable,
    QueueClosed,
    QueueExists,
    QueueFull,
    QueueNotFound,
    SettingsError,
    SpoolqError,
    StorageError,
    UnsafeFile,
)

PREFIX = "urn:spoolq:problem:"
MEDIA_TYPE = "application/problem+json"
RETRY_S = 1

KINDS: dict[str, tuple[int, str]] = {
    "malformed": (400, "The request cannot be read"),
    "unauthorized": (401, "A token is needed"),
    "forbidden": (403, "The token does not allow this"),
    "host-not-allowed": (403, "Host is not a name of this server"),
    "cross-site": (403, "Asked by another site's page"),
    "not-found": (404, "No such route"),
    "queue-not-found": (404, "No such queue"),
    "message-not-found": (404, "No such message"),
    "method-not-allowed": (405, "The route has other methods"),
    "timeout": (408, "The body did not come"),
    "lease-lost": (409, "The claim has ended"),
    "queue-exists": (409, "The queue is there already"),
    "unsafe-file": (409, "Not a regular file"),
    "too-large": (413, "Too large"),
    "unsupported-media-type": (415, "Another Content-Type is needed"),
    "range-not-satisfiable": (416, "No such range"),
    "invalid": (422, "A value is not allowed"),
    "too-many": (429, "Too many at once"),
    "headers-too-large": (431, "The headers are too large"),
    "internal": (500, "A bug"),
    "not-capable": (501, "This engine does not do that"),
    "busy": (503, "The queue is busy"),
    "storage": (503, "The spool cannot be used"),
    "not-ready": (503, "Not ready"),
    "closing": (503, "The server is stopping"),
    "disk-full": (507, "The disk is full"),
    "queue-full": (507, "The queue is full"),
}
_BY_STATUS = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
_RETRIED = frozenset(("too-many", "busy", "storage", "closing", "not-ready"))

_OWN_WORDS: dict[type[SpoolqError], str] = {
    LeaseLost: "lease-lost",
    QueueNotFound: "queue-not-found",
    QueueClosed: "queue-not-found",
    MessageNotFound: "message-not-found",
    QueueExists: "queue-exists",
    MessageTooLarge: "too-large",
    SettingsError: "invalid",
    NotCapable: "not-capable",
    Busy: "busy",
    QueueFull: "queue-full",
}
"""Errors whose message names no path."""


class Problem(Exception):
    """Answer this. `more` are further members of the document."""

    def __init__(
        self,
        kind: str,
        detail: str = "",
        *,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.detail = detail
        self.hint = hint
        self.more = more
        self.headers = {"Retry-After": str(RETRY_S)} if kind in _RETRIED else {}
        self.headers |= headers or {}

    def document(self, request_id: str) -> dict[str, Any]:
        """The document, without what is empty."""
        made = {"type": PREFIX + self.kind, "title": self.title, "status": self.status, "detail": self.detail}
        found = made | {"hint": self.hint, **self.more, "request_id": request_id}
        return {name: value for name, value in found.items() if value not in ("", None)}

    def response(self, request_id: str) -> Response:
        """The answer."""
        text = json.dumps(self.document(request_id), separators=(",", ":"))
        return Response(text, self.status, self.headers, MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:
    """What an error is for whoever asked."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, SpoolqError):
        return _of_spoolq(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        kind = _BY_STATUS.get(error.status_code, "malformed")
        return Problem(kind, headers=error.headers)
    if isinstance(error, ValueError):
        return Problem("invalid", str(error))
    return Problem("internal", hint="The server's log has it under this request_id")


def _of_spoolq(error: SpoolqError) -> Problem:
    more: dict[str, Any] = {"message_id": error.message_id or None}
    if isinstance(error, DiskFull):
        hint = "Free some space; claims and acknowledgements go on"
        return Problem("disk-full", "there is no room left beside the disk's reserve", hint=hint)
    if isinstance(error, UnsafeFile):
        return Problem("unsafe-file", "not a regular file, or a link: it was not opened", **more)
    if isinstance(error, StorageError):
        said = os.strerror(error.errno) if error.errno else "the index cannot be used"
        return Problem("storage", f"{error.op or 'storage'}: {said}", hint="The server's log says more")
    for kind in type(error).__mro__:
        if kind in _OWN_WORDS:
            hint = "" if isinstance(error, QueueNotFound) else error.hint
            return Problem(_OWN_WORDS[kind], error.message, hint=hint, **more)
    return Problem("storage", "the spool cannot be used", hint="The server's log says why")


def _of_validation(error: RequestValidationError) -> Problem:
    """FastAPI's list, without the values (they are the caller's, and may be large)."""
    errors = [{"where": ".".join(map(str, each["loc"])), "message": each["msg"]} for each in error.errors()]
    if any(each["type"] == "json_invalid" for each in error.errors()):
        return Problem("malformed", "the body is not JSON")
    return Problem("invalid", "; ".join(f"{each['where']}: {each['message']}" for each in errors), errors=errors)


def invalid(where: str, message: str) -> Problem:
    """One value that is not allowed."""
    return Problem("invalid", f"{where}: {message}", errors=[{"where": where, "message": message}])
