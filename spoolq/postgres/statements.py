"""The statements that call functions.sql, and those whose text depends on what is asked: lists and searches.

All the SQL of this engine is here, in schema.sql and in functions.sql. Values are always parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from spoolq.models import Filter, State

BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 21600.0, None)
"""Of times waited and taken, as `spoolq.bucket` has them."""

# A plan that was made while a table was small must not scan it once it is large.
SESSION = (
    "SELECT set_config('enable_seqscan', 'off', false), set_config('plan_cache_mode', 'force_generic_plan', false),"
    " set_config('jit', 'off', false), set_config('lock_timeout', '10s', false)"
)

VERSION = "SELECT version FROM spoolq.version"
HAS_SCHEMA = "SELECT to_regnamespace('spoolq') IS NOT NULL"
IS_OURS = "SELECT to_regclass('spoolq.version') IS NOT NULL"
INSTALL_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('spoolq engine', 0))"
UNCHECKED = "SET LOCAL check_function_bodies = off"
SET_VERSION = (
    "INSERT INTO spoolq.version (version) VALUES (%s) ON CONFLICT (one) DO UPDATE SET version = excluded.version"
)
FUNCTIONS = (
    "SELECT format('DROP FUNCTION %%s CASCADE', oid::regprocedure) FROM pg_proc"
    " WHERE pronamespace = 'spoolq'::regnamespace AND %s"
)

UPGRADE_1 = """
ALTER TABLE spoolq.receipts RENAME TO receipts_1;
DROP INDEX spoolq.receipts_until;
CREATE TABLE spoolq.receipts (
    queue integer NOT NULL, until_at_ms bigint NOT NULL, nonce text NOT NULL, ids uuid[] NOT NULL
);
INSERT INTO spoolq.receipts SELECT queue, until_at_ms, nonce, ARRAY[id] FROM spoolq.receipts_1;
DROP TABLE spoolq.receipts_1;
CREATE INDEX receipts_nonce ON spoolq.receipts (nonce);
CREATE INDEX receipts_until ON spoolq.receipts (queue, until_at_ms);
"""

QUEUE = "SELECT id, settings FROM spoolq.queues WHERE name = %s"
SETTINGS = "SELECT settings FROM spoolq.queues WHERE id = %s"
NAMES = "SELECT name FROM spoolq.queues ORDER BY name <> 'default', name"
CREATE = "SELECT spoolq.create_queue(%s)"
DELETE_QUEUE = "SELECT id, messages FROM spoolq.delete_queue(%s)"
SWEEP = "SELECT spoolq.sweep(%s, 1000)"
PAUSED = "SELECT paused FROM spoolq.queues WHERE id = %s"
PAUSE = "UPDATE spoolq.queues SET paused = %s WHERE id = %s RETURNING id"
SETTING_COLUMNS = (
    *("settings", "lease_ms", "max_attempts", "ttl_ms", "dedup_window_ms", "retry_base_ms", "retry_factor"),
    *("retry_cap_ms", "retry_jitter", "retry_list_ms", "done_ms", "dead_ms", "expired_delete", "limit_messages"),
    "limit_bytes",
)
CHANGE_SETTINGS = (
    f"UPDATE spoolq.queues SET {', '.join(f'{column} = %s' for column in SETTING_COLUMNS)} WHERE id = %s RETURNING id"
)

ENQUEUE = (
    "SELECT known::text[], is_awaited FROM spoolq.enqueue(%s, %b, %b, %s::bigint[], %s::integer[],"
    " %s::bigint, %s::smallint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s)"
)
ENQUEUE_PLAIN = "SELECT NULL, spoolq.enqueue_plain(%s, %b, %b, %s::bigint, %s)"
# Alone, as most are, and with none of what several messages share.
ENQUEUE_ONE = "SELECT NULL, spoolq.enqueue_one(%s, %b, %b, %s::bigint, %s::smallint, %s, %s, %s)"
ADD_CHUNK = "SELECT spoolq.add_chunk(%s, %s, %b)"
DROP_UPLOAD = "SELECT spoolq.drop_upload(%s)"
CHUNK = "SELECT data FROM spoolq.chunks WHERE id = %s AND number = %s"

CLAIM = (
    "SELECT id::text, nonce, attempts, priority, name, body_bytes, enqueued_at_ms, meta, grp, body"
    " FROM spoolq.claim(%s, %s, %s, %s, %s, %s, %s, %s)"
)
ACKNOWLEDGE = "SELECT spoolq.acknowledge(%s, %b, %b)"
FAIL = "SELECT spoolq.fail(%s, %s::uuid, %s, %s, %s, %s, %s, %s, %s)"
RELEASE = "SELECT spoolq.release(%s, %s::uuid, %s)"
EXTEND = "SELECT spoolq.extend(%s, %s::uuid, %s, %s)"
BURY = "SELECT spoolq.bury(%s, %s::uuid, %s, %s, %s)"
CLAIMED_BODY = (
    "SELECT body_bytes, chunks, body FROM spoolq.messages"
    " WHERE queue = %s AND id = %s::uuid AND deadline_at_ms IS NOT NULL AND nonce = %s"
)
BODY = "SELECT body_bytes, chunks, body FROM spoolq.messages WHERE queue = %s AND id = %s::uuid"

RUN_NOW = "SELECT spoolq.run_now(%s, %s::uuid)"
SET_PRIORITY = "SELECT spoolq.set_priority(%s, %s::uuid, %s::smallint)"
START_AGAIN = "SELECT spoolq.start_again(%s, %s::uuid[], %s, %s)"
REMOVE = "SELECT spoolq.remove(%s, %s::uuid[], %s::text[])"
PURGE = "SELECT spoolq.purge(%s, %s, %s)"
CLEAN = "SELECT done, done_bytes, dead, dead_bytes FROM spoolq.clean(%s, %s, %s)"
MAINTAIN = "SELECT spoolq.maintain(%s, %s)"
WRONG = "SELECT kind, what, message_id FROM spoolq.wrong(%s)"
REBUILD = "SELECT spoolq.rebuild(%s)"

COUNTS = (
    *("ready", "scheduled", "claimed", "done", "dead"),
    *("ready_bytes", "scheduled_bytes", "claimed_bytes", "done_bytes", "dead_bytes"),
)
STATS = (
    f"SELECT {', '.join(COUNTS)}, enqueued, acknowledged, failed, gave_up, wait_ms, process_ms, waits, takes,"
    " spoolq.oldest_ready_at_ms(q.id), q.paused FROM spoolq.queues AS q, spoolq.present(q.id) WHERE q.id = %s"
)
AGES = (
    "SELECT width_bucket(spoolq.now_ms() - enqueued_at_ms - 1, %s::bigint[]), count(*) FROM spoolq.messages"
    " WHERE queue = %s AND state = %s GROUP BY 1"
)
HISTORY = (
    "SELECT minute, enqueued, acknowledged, failed, gave_up, ready, scheduled, claimed, wait_ms, process_ms"
    " FROM spoolq.history(%s, %s)"
)
REASONS = (
    "SELECT reason, count(*) FROM spoolq.messages WHERE queue = %s AND state = 'dead'"
    " GROUP BY reason ORDER BY count(*) DESC, reason"
)
HOLDERS = (
    "SELECT holder, min(changed_at_ms), max(deadline_at_ms) > spoolq.now_ms(), count(*) FROM spoolq.messages"
    " WHERE queue = %s AND state = 'claimed' GROUP BY holder ORDER BY holder"
)
NEXT_DUE = "SELECT spoolq.next_due_ms(%s)"
AWAIT = "SELECT spoolq.next_due_ms(%s), spoolq.await(%s, %s)"
NOTIFY = "SELECT pg_notify(%s, '')"
LISTEN = "LISTEN {}"

INFO = (
    "id::text, state, held, priority, attempts, name, body_bytes, enqueued_at_ms, changed_at_ms, due_at_ms,"
    " expires_at_ms, grp, reason, nonce, holder, deadline_at_ms"
)
GET = f"SELECT {INFO}, meta, history FROM spoolq.messages WHERE queue = %s AND id = %s::uuid"
_PEEKED = "queue = %s AND NOT held AND (expires_at_ms IS NULL OR expires_at_ms > spoolq.now_ms())"
PEEK = (  # ready, or due and not moved yet: what the next claim takes
    f"SELECT {INFO} FROM ("
    f"(SELECT * FROM spoolq.messages WHERE {_PEEKED} AND state = 'ready' ORDER BY priority DESC, id LIMIT 1)"
    f" UNION ALL (SELECT * FROM spoolq.messages WHERE {_PEEKED} AND state = 'scheduled'"
    " AND due_at_ms <= (SELECT spoolq.now_ms()) ORDER BY priority DESC, id LIMIT 1)"
    ") AS m WHERE NOT (SELECT paused FROM spoolq.queues WHERE id = %s) ORDER BY priority DESC, id LIMIT 1"
)
_ID_HAS, _NAME_HAS, _REASON_HAS = (f"strpos(lower({each}), lower(%s)) > 0" for each in ("id::text", "name", "reason"))
SEARCH = (
    f"SELECT {INFO} FROM spoolq.messages WHERE queue = %s"
    f" AND (starts_with(id::text, %s) OR {_NAME_HAS} OR {_REASON_HAS})"
    " ORDER BY id LIMIT %s"
)

_ORDER = {
    "ready": ("priority DESC, id", "(priority < %s OR (priority = %s AND id > %s::uuid))"),
    "scheduled": ("due_at_ms, id", "(due_at_ms > %s OR (due_at_ms = %s AND id > %s::uuid))"),
}
_BY_CHANGE = ("changed_at_ms, id", "(changed_at_ms > %s OR (changed_at_ms = %s AND id > %s::uuid))")


def page(
    queue: int, state: State, where: Filter | None, limit: int, after: tuple[int, str] | None
) -> tuple[str, list[Any]]:
    """The messages of a state after a place in its order: the statement and its parameters."""
    order, beyond = _ORDER.get(state, _BY_CHANGE)
    conditions, parameters = _conditions(where)
    if after is not None:
        conditions.append(beyond)
        parameters += [after[0], after[0], after[1]]
    wanted = f"SELECT * FROM spoolq.messages WHERE queue = %s AND state = '{state}'"
    wanted += "".join(f" AND {each}" for each in conditions)
    given = [queue, *parameters]
    if state != "ready":
        return f"SELECT {INFO} FROM ({wanted} ORDER BY {order} LIMIT %s) AS m ORDER BY {order}", [*given, limit]
    # The index is ordered within those that are held and within the others: merge the beginnings of both.
    halves = " UNION ALL ".join(f"({wanted} AND {held} ORDER BY {order} LIMIT %s)" for held in ("NOT held", "held"))
    return f"SELECT {INFO} FROM ({halves}) AS m ORDER BY {order} LIMIT %s", [*given, limit, *given, limit, limit]


def ids(queue: int, state: State, where: Filter | None, limit: int | None) -> tuple[str, list[Any]]:
    """The ids of the messages of a state that a filter admits, oldest first."""
    conditions, parameters = _conditions(where)
    text = f"SELECT id::text FROM spoolq.messages WHERE queue = %s AND state = '{state}'"
    text += "".join(f" AND {each}" for each in conditions) + " ORDER BY changed_at_ms, id LIMIT %s"
    return text, [queue, *parameters, limit]


def _conditions(where: Filter | None) -> tuple[list[str], list[Any]]:
    """A filter as conditions, each part that is given."""
    if where is None:
        return [], []
    parts: Sequence[tuple[str, Any, int]] = (
        (_NAME_HAS, _text(where.name), 1),
        (_REASON_HAS, _text(where.reason), 1),
        ("grp = %s", _text(where.group), 1),
        (
            f"({_ID_HAS} OR {_NAME_HAS} OR {_REASON_HAS})",
            _text(where.text),
            3,
        ),
        ("changed_at_ms <= spoolq.now_ms() - %s", _ms(where.min_age_s), 1),
        ("changed_at_ms >= spoolq.now_ms() - %s", _ms(where.max_age_s), 1),
        ("attempts >= %s", where.min_attempts, 1),
    )
    given = [part for part in parts if part[1] is not None]
    return [text for text, _, _ in given], [value for _, value, times in given for _ in range(times)]


def storable(text: str) -> str:
    """A text that the database takes: without NUL, and without half of a surrogate pair."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def script(name: str) -> str:
    """One of the two files beside this one."""
    return resources.files("spoolq.postgres").joinpath(name).read_text(encoding="utf-8")


def _text(text: str | None) -> str | None:
    return None if text is None else storable(text)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
