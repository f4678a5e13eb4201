"""Messages on their way in: judged, their large bodies sent ahead, the rest as the columns of one call.

The id is made here, so a call that was lost is safe to repeat: the database knows the message by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from spoolq import validate
from spoolq.clock import id_time_ms
from spoolq.models import DEFAULT_PRIORITY, NewMessage
from spoolq.postgres import statements, values
from spoolq.postgres.bodies import Body
from spoolq.postgres.connection import Call
from spoolq.spool.names import clean_name

BATCH_MESSAGES = 500
BATCH_BYTES = 8 << 20

AnyBody = bytes | bytearray | memoryview | BinaryIO


@dataclass(frozen=True, slots=True)
class Asked:
    """What a producer asks for besides the body; the arguments of `enqueue`."""

    priority: int = DEFAULT_PRIORITY
    delay_s: float = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    name: str | None = None
    dedup_key: str | None = None
    group: str | None = None
    ttl_s: float | None = None

    def check(self, headers: Mapping[str, str] | None) -> None:
        """Judge them, the headers as they were given."""
        validate.check_new_message(
            priority=self.priority,
            delay_s=self.delay_s,
            headers=headers,
            content_type=self.content_type,
            name=self.name,
            dedup_key=self.dedup_key,
            group=self.group,
            ttl_s=self.ttl_s,
        )


@dataclass(frozen=True, slots=True)
class Ready:
    """A message that has its id, and its body where it belongs."""

    id: str
    body: Body
    asked: Asked


def asked_of(new: NewMessage) -> Asked:
    """What comes with a message."""
    return Asked(
        priority=new.priority,
        delay_s=new.delay_s,
        headers=new.headers,
        content_type=new.content_type,
        name=new.name,
        dedup_key=new.dedup_key,
        group=new.group,
        ttl_s=new.ttl_s,
    )


def batches(messages: Iterable[NewMessage | bytes]) -> Iterator[list[NewMessage]]:
    """Checked messages, so many together as go into one call."""
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


def call(queue_id: int, ready: Sequence[Ready], op: str) -> Call:
    """The call that enqueues them, in one transaction."""
    if len(ready) == 1 and not (ready[0].body.chunks or ready[0].asked.dedup_key or ready[0].asked.group):
        return _call_of_one(queue_id, ready[0], op)
    labels = [clean_name(each.asked.name) or None if each.asked.name is not None else None for each in ready]
    columns = (
        [each.id for each in ready],
        [each.body.whole for each in ready],
        _given([each.body.size if each.body.chunks else None for each in ready]),
        _given([each.body.chunks or None for each in ready]),
        [id_time_ms(each.id) for each in ready],
        _given([None if each.asked.priority == DEFAULT_PRIORITY else each.asked.priority for each in ready]),
        _given([values.ms(each.asked.delay_s) or None for each in ready]),
        _given([None if each.asked.ttl_s is None else values.ms(each.asked.ttl_s) for each in ready]),
        _given([None if label is None else statements.storable(label) for label in labels]),
        _given([_meta(each.asked, label) for each, label in zip(ready, labels, strict=True)]),
        _given([each.asked.dedup_key for each in ready]),
        _given([each.asked.group for each in ready]),
    )
    return Call(
        op=op,
        sql=statements.ENQUEUE,
        parameters=(queue_id, *columns, False),
        again=(queue_id, *columns, True),
        repeats=True,
    )


def _call_of_one(queue_id: int, each: Ready, op: str) -> Call:
    asked = each.asked
    label = None if asked.name is None else clean_name(asked.name) or None
    fixed = (
        queue_id,
        each.id,
        each.body.whole,
        id_time_ms(each.id),
        asked.priority,
        values.ms(asked.delay_s) or None,
        None if asked.ttl_s is None else values.ms(asked.ttl_s),
        None if label is None else statements.storable(label),
        _meta(asked, label),
    )
    return Call(op=op, sql=statements.ENQUEUE_ONE, parameters=(*fixed, False), again=(*fixed, True), repeats=True)


def _meta(asked: Asked, label: str | None) -> str | None:
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
