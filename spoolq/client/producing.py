"""Messages as requests: one, its body streamed; or many, as lines of JSON."""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from spoolq import validate
from spoolq.client.bodies import Upload
from spoolq.client.connection import Call
from spoolq.models import DEFAULT_PRIORITY, NewMessage

BATCH_MESSAGES = 256
BATCH_BYTES = 2 << 20
"""A batch is held in memory, here and there; a larger body is streamed on its own."""

HEADER_CHARS = 4096
"""Message headers up to this travel in a header of the request; longer ones, which a proxy may refuse, in a part."""


def single(path: str, upload: Upload, new: NewMessage, op: str) -> Call:
    """The request that enqueues one message, its body that of `upload`.

    With a key it may be repeated: the server knows the second one by it.
    """
    repeats = new.dedup_key is not None
    parameters = _parameters(new)
    if not new.headers:
        return Call(method="POST", path=path, op=op, query=parameters, upload=upload, repeats=repeats)
    text = json.dumps(dict(new.headers), separators=(",", ":"))
    if len(text) <= HEADER_CHARS:
        headers = {"Spoolq-Headers": text}
        return Call(method="POST", path=path, op=op, query=parameters, headers=headers, upload=upload, repeats=repeats)
    boundary = secrets.token_hex(16)
    upload.before, upload.after = _form(boundary, {**parameters, "headers": dict(new.headers)})
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return Call(method="POST", path=path, op=op, headers=headers, upload=upload, repeats=repeats)


def _parameters(new: NewMessage) -> dict[str, Any]:
    """What differs from the defaults, without the headers."""
    given = {
        "priority": None if new.priority == DEFAULT_PRIORITY else new.priority,
        "delay_s": new.delay_s or None,
        "content_type": new.content_type,
        "name": new.name,
        "dedup_key": new.dedup_key,
        "group": new.group,
        "ttl_s": new.ttl_s,
    }
    return {key: value for key, value in given.items() if value is not None}


def _form(boundary: str, parameters: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """What stands before and after the body in a multipart request."""
    before = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="message"\r\n'
        "Content-Type: application/json\r\n\r\n"
        f"{json.dumps(parameters)}\r\n"
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="body"\r\n\r\n'
    )
    return before.encode(), f"\r\n--{boundary}--\r\n".encode()


def batches(messages: Iterable[NewMessage | bytes]) -> Iterator[list[NewMessage]]:
    """Checked messages, so many together as go into one request; one that is too large for that is alone."""
    batch: list[NewMessage] = []
    size = 0
    for each in messages:
        new = validate.as_new_message(each)
        if batch and (len(batch) >= BATCH_MESSAGES or size + len(new.body) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(new)
        size += len(new.body)
    if batch:
        yield batch


def is_large(batch: list[NewMessage]) -> bool:
    """Whether it is a single message that is streamed."""
    return len(batch) == 1 and len(batch[0].body) > BATCH_BYTES


def many(path: str, batch: list[NewMessage]) -> Call:
    """The request that enqueues a batch. It may be repeated where each message has a key."""
    return Call(
        method="POST",
        path=path,
        op="enqueue_many",
        headers={"Content-Type": "application/x-ndjson"},
        upload=Upload(b"".join(_line(new) for new in batch)),
        repeats=all(new.dedup_key is not None for new in batch),
    )


def _line(new: NewMessage) -> bytes:
    line = _parameters(new) | {"body_base64": b64encode(new.body).decode()}
    if new.headers:
        line["headers"] = dict(new.headers)
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"
