"""A claimed message as an answer: the JSON envelope, or its octets with its metadata in headers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from spoolq.message import Message
from spoolq.models import MessageInfo

INLINE_MAX_BYTES = 1024 * 1024
INLINE_ALL_BYTES = 8 * 1024 * 1024
"""Of several messages in one answer, bodies are inline up to this in all."""

_HEADERS_MAX_CHARS = 16_384


class Envelope(BaseModel):
    """A claimed message."""

    id: str
    receipt: str
    attempts: int
    priority: int
    name: str | None
    original_name: str | None
    headers: dict[str, str]
    content_type: str | None
    group: str | None
    enqueued_at_ms: int
    body_bytes: int
    body_url: str
    body: str | None = None
    body_base64: str | None = None


EXAMPLE = {
    "id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "receipt": "01890a5d-ac96-774b-bcce-b302099a8057.t0123456789ab",
    "attempts": 1,
    "priority": 5,
    "name": "report.csv",
    "original_name": None,
    "headers": {"trace": "4711"},
    "content_type": "text/csv",
    "group": None,
    "enqueued_at_ms": 1790000000000,
    "body_bytes": 5,
    "body_url": "/queues/default/claims/01890a5d-ac96-774b-bcce-b302099a8057.t0123456789ab/body",
    "body": "a,b,c",
}


def body_url(queue: str, receipt: str) -> str:
    """Where the body of a claim is."""
    return f"/queues/{queue}/claims/{receipt}/body"


def envelope(message: Message, queue: str, body: bytes | None) -> dict[str, Any]:
    """The envelope; body: None where it is to be fetched."""
    made: dict[str, Any] = {
        "id": message.id,
        "receipt": message.receipt,
        "attempts": message.attempts,
        "priority": message.priority,
        "name": message.name,
        "original_name": message.original_name,
        "headers": dict(message.headers),
        "content_type": message.content_type,
        "group": message.group,
        "enqueued_at_ms": message.enqueued_at_ms,
        "body_bytes": message.body_bytes,
        "body_url": body_url(queue, message.receipt),
    }
    if body is not None:
        try:
            made["body"] = body.decode("utf-8")
        except UnicodeDecodeError:
            made["body_base64"] = base64.b64encode(body).decode("ascii")
    return made


def octet_headers(message: Message, queue: str) -> dict[str, str]:
    """The metadata of a message whose body is the answer."""
    headers = {
        "Spoolq-Id": message.id,
        "Spoolq-Receipt": message.receipt,
        "Spoolq-Attempts": str(message.attempts),
        "Spoolq-Priority": str(message.priority),
        "Spoolq-Enqueued-At-Ms": str(message.enqueued_at_ms),
        "Spoolq-Body-Url": body_url(queue, message.receipt),
    }
    texts = {"Name": message.name, "Original-Name": message.original_name, "Group": message.group}
    for name, text in texts.items():
        if text is not None:
            headers[f"Spoolq-{name}"] = quote(text.encode("utf-8", "surrogateescape"), safe="")
    return headers | _own_headers(message.headers)


def _own_headers(headers: Mapping[str, str]) -> dict[str, str]:
    if not headers:
        return {}
    text = json.dumps(dict(headers))
    return {"Spoolq-Headers": text} if len(text) <= _HEADERS_MAX_CHARS else {"Spoolq-Headers-Omitted": "1"}


def info(message: MessageInfo, *, with_receipt: bool = True) -> dict[str, Any]:
    """What is known of a message, as JSON has it."""
    found = message.as_dict()
    if not with_receipt:
        found["receipt"] = None
    return found
