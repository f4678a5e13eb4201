"""Messages on their way in: judged, their large bodies sent ahead, the rest as the columns of one call.

The id is made here, so a call that was lost is safe to repeat: the database knows the message by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from spoolq import validate
from spoolq.clock import id_time_ms
from spoolq.models import DEFAULT_PRIORITY, NewMessage
from spoolq.postgres import statements, values
from spoolq.postgres.arrays import Bodies, Instants, Uuid, Uuids
from spoolq.postgres.bodies import Body
from spoolq.postgres.connection import Call
from spoolq.spool.names import clean_name

BATCH_MESSAGES = 500
BATCH_BYTES = 8 << 20

_NOTHING = (None,) * 7

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


PLAIN = Asked()
"""Nothing."""


class Ready(NamedTuple):
    """A message that has its id, and its body where it belongs."""

    id: str
    body: Body
    asked: Asked

    @property
    def is_plain(self) -> bool:
        """Whether `enqueue_one` does: whole, due at once, and nothing that others are looked at for."""
        asked = self.asked
        return not (self.body.chunks or asked.delay_s or asked.ttl_s is not None or asked.dedup_key or asked.group)


def _asked_of(new: NewMessage) -> Asked:
    asked = Asked(
        priority=new.priority,
        delay_s=new.delay_s,
        headers=new.headers,
        content_type=new.content_type,
        name=new.name,
        dedup_key=new.dedup_key,
        group=new.group,
        ttl_s=new.ttl_s,
    )
    return PLAIN if asked == PLAIN else asked


def batches(messages: Iterable[NewMessage | bytes]) -> Iterator[list[tuple[bytes, Asked]]]:
    """Checked messages, so many together as go into one call."""
    batch: list[tuple[bytes, Asked]] = []
    size = 0
    for each in messages:
        if type(each) is bytes:
            body, asked = each, PLAIN
        else:
            new = validate.as_new_message(each)
            body, asked = new.body, _asked_of(new)
        if batch and (len(batch) >= BATCH_MESSAGES or size + len(body) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((body, asked))
        size += len(body)
    if batch:
        yield batch


def call(queue_id: int, ready: Sequence[Ready], op: str) -> Call:
    """The call that enqueues them, in one transaction."""
    if len(ready) == 1 and ready[0].is_plain:
        return _call_of_one(queue_id, ready[0], op)
    ids = [each.id for each in ready]
    asked = [each.asked for each in ready]
    bodies = [each.body for each in ready]
    in_chunks = any(each.chunks for each in bodies)
    columns = (
        Uuids(ids),
        Bodies([each.whole for each in bodies]),
        [each.size if each.chunks else None for each in bodies] if in_chunks else None,
        [each.chunks or None for each in bodies] if in_chunks else None,
        Instants(_times_ms(ids)),
        *(_NOTHING if asked.count(PLAIN) == len(asked) else _columns(asked)),
    )
    return Call(
        op=op,
        sql=statements.ENQUEUE,
        parameters=(queue_id, *columns, False),
        again=(queue_id, *columns, True),
        repeats=True,
    )


def _times_ms(ids: Sequence[str]) -> list[int]:
    """Of ids in order: mostly one instant."""
    first = id_time_ms(ids[0])
    return [first] * len(ids) if ids[-1][:13] == ids[0][:13] else [id_time_ms(each) for each in ids]


def _columns(asked: Sequence[Asked]) -> tuple[list[Any] | None, ...]:
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


def _call_of_one(queue_id: int, each: Ready, op: str) -> Call:
    asked = each.asked
    label = None if asked.name is None else clean_name(asked.name) or None
    fixed = (
        queue_id,
        Uuid(each.id),
        each.body.whole,
        id_time_ms(each.id),
        asked.priority,
        None if label is None else statements.storable(label),
        _meta(asked, label),
    )
    return Call(op=op, sql=statements.ENQUEUE_ONE, parameters=(*fixed, False), again=(*fixed, True), repeats=True)


def _meta(asked: Asked, label: str | None) -> str | None:
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
