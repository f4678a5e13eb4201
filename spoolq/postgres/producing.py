"""Messages on their way in: judged, their large bodies sent ahead, the rest as the columns of one call.

The id is made here, so a call that was lost is safe to repeat: the database knows the message by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple

from spoolq import validate
from spoolq.clock import id_time_ms
from spoolq.models import DEFAULT_PRIORITY, NewMessage
from spoolq.postgres import statements, values
from spoolq.postgres.arrays import Byteas, Uuid, Uuids
from spoolq.postgres.bodies import INLINE_BYTES, Bodies
from spoolq.postgres.connection import Call
from spoolq.spool.names import clean_name

BATCH_MESSAGES = 500
BATCH_BYTES = 8 << 20

AnyBody = bytes | bytearray | memoryview | BinaryIO


PLAIN = NewMessage(body=b"")
"""With nothing asked for."""


class Batch(NamedTuple):
    """Checked messages, so many together as go into one call. asked: of each, but for its body; all PLAIN mostly."""

    bodies: list[bytes]
    asked: list[NewMessage]


class Ready(NamedTuple):
    """Messages that have their ids, of one instant, and their bodies where they belong. asked: as in a batch."""

    ids: list[str]
    bodies: Bodies
    asked: Sequence[NewMessage]


def batches(messages: Iterable[NewMessage | bytes]) -> Iterator[Batch]:
    """The messages, by as many as go into one call."""
    bodies: list[bytes] = []
    asked: list[NewMessage] = []
    size = 0
    for each in messages:
        if type(each) is bytes:
            body, wanted = each, PLAIN
        else:
            new = validate.as_new_message(each)
            body, wanted = new.body, PLAIN if replace(new, body=b"") == PLAIN else new
        size += len(body)
        if bodies and (size > BATCH_BYTES or len(bodies) == BATCH_MESSAGES):
            yield Batch(bodies, asked)
            bodies, asked, size = [], [], len(body)
        bodies.append(body)
        asked.append(wanted)
    if bodies:
        yield Batch(bodies, asked)


def call(queue_id: int, ready: Ready, op: str) -> Call:
    """The call that enqueues them, in one transaction."""
    ids, bodies, asked = ready
    at_ms = id_time_ms(ids[0])
    fixed: tuple[Any, ...]
    if bodies.chunks is None and len(ids) == 1 and _is_alone(asked[0]):
        sql, fixed = statements.ENQUEUE_ONE, (queue_id, Uuid(ids[0]), bodies.wholes[0], at_ms, *_labels(asked[0]))
    elif bodies.chunks is None and asked.count(PLAIN) == len(asked):
        sql, fixed = statements.ENQUEUE_PLAIN, (queue_id, Uuids(ids), Byteas(bodies.wholes), at_ms)
    else:
        sql = statements.ENQUEUE
        placed = (queue_id, Uuids(ids), Byteas(bodies.wholes), bodies.sizes, bodies.chunks, at_ms)
        fixed = (*placed, *_columns(asked))
    is_large = sum(map(len, filter(None, bodies.wholes))) > INLINE_BYTES
    return Call(op=op, sql=sql, parameters=(*fixed, False), again=(*fixed, True), repeats=True, is_large=is_large)


def _is_alone(asked: NewMessage) -> bool:
    """Whether `enqueue_one` does: due at once, and nothing that others are looked at for."""
    return not (asked.delay_s or asked.ttl_s is not None or asked.dedup_key or asked.group)


def _columns(asked: Sequence[NewMessage]) -> tuple[list[Any] | None, ...]:
    """Priorities, delays, times to live, names, metadata, keys and groups."""
    labels = [clean_name(each.name) or None if each.name is not None else None for each in asked]
    return (
        _given([None if each.priority == DEFAULT_PRIORITY else each.priority for each in asked]),
        _given([values.ms(each.delay_s) or None for each in asked]),
        _given([None if each.ttl_s is None else values.ms(each.ttl_s) for each in asked]),
        _given([None if label is None else statements.storable(label) for label in labels]),
        _given([_meta(each, label) for each, label in zip(asked, labels, strict=True)]),
        _given([each.dedup_key for each in asked]),
        _given([each.group for each in asked]),
    )


def _labels(asked: NewMessage) -> tuple[int, str | None, str | None]:
    """Priority, name and metadata of one."""
    label = None if asked.name is None else clean_name(asked.name) or None
    return asked.priority, None if label is None else statements.storable(label), _meta(asked, label)


def _meta(asked: NewMessage, label: str | None) -> str | None:
    if asked is PLAIN:
        return None
    return values.meta_text(
        {
            "headers": dict(asked.headers),
            "content_type": asked.content_type,
            "dedup_key": asked.dedup_key,
            "original_name": None if asked.name == label else asked.name,
        }
    )


def _given(column: list[Any]) -> list[Any] | None:
    """A column, or None where every message has the default: less to send."""
    return None if all(value is None for value in column) else column
