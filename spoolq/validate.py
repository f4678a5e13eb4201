"""Arguments, judged at the door: the same rules and the same words on every engine.

Pure. A wrong type raises TypeError, a value out of its range ValueError, each naming the argument and the value. The
good case is a type check and a comparison, since every enqueue and every dequeue passes here.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from spoolq.models import DEFAULT_PRIORITY, STATES, NewMessage
from spoolq.settings import SECONDS_MAX

MAX_KEY_CHARS = 200
MAX_NAME_CHARS = 1000
MAX_HEADERS_CHARS = 65_536
"""All of a message's headers together. They are given to commands as one environment variable (128 KiB at most)."""

MAX_LIMIT = 10_000

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_RECEIPT = re.compile(rf"({_ID.pattern})\.([klt][0-9a-z]{{1,40}})")
_QUEUE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MARK = re.compile(r"[0-9a-z]{8}")
_LINE_BREAKS = re.compile(r"[\r\n\0]")
_SHOWN_CHARS = 80


def check_new_message(
    *,
    priority: int = DEFAULT_PRIORITY,
    delay_s: float = 0,
    headers: Mapping[str, str] | None = None,
    content_type: str | None = None,
    name: str | None = None,
    dedup_key: str | None = None,
    group: str | None = None,
    ttl_s: float | None = None,
) -> None:
    """Check what a producer asks for; NewMessage says what each means."""
    check_priority(priority)
    if delay_s:
        _check_seconds("delay_s", delay_s)
    elif delay_s != 0 or type(delay_s) not in (int, float):
        raise _wrong("delay_s", delay_s, "a number of seconds", TypeError)
    if headers:
        _check_headers(headers)
    if content_type is not None:
        _check_content_type(content_type)
    if name is not None:
        _check_name(name)
    if dedup_key is not None:
        _check_key("dedup_key", dedup_key)
    if group is not None:
        _check_key("group", group)
    if ttl_s is not None:
        _check_seconds("ttl_s", ttl_s)


def new_message(
    body: bytes = b"",
    *,
    priority: int,
    delay_s: float,
    headers: Mapping[str, str] | None,
    content_type: str | None,
    name: str | None,
    dedup_key: str | None,
    group: str | None,
    ttl_s: float | None,
) -> NewMessage:
    """The arguments of `enqueue`, checked. Without a body where that goes beside it, in pieces."""
    new = NewMessage(
        body=body,
        priority=priority,
        delay_s=delay_s,
        headers=headers or {},
        content_type=content_type,
        name=name,
        dedup_key=dedup_key,
        group=group,
        ttl_s=ttl_s,
    )
    return as_new_message(new)


def as_new_message(message: NewMessage | bytes) -> NewMessage:
    """One entry of `enqueue_many`, checked; bare bytes are a message with every default."""
    if isinstance(message, NewMessage):
        if not isinstance(message.body, bytes):
            raise _wrong("body", message.body, "bytes", TypeError)
        check_new_message(
            priority=message.priority,
            delay_s=message.delay_s,
            headers=message.headers,
            content_type=message.content_type,
            name=message.name,
            dedup_key=message.dedup_key,
            group=message.group,
            ttl_s=message.ttl_s,
        )
        return message
    if isinstance(message, bytes):
        return NewMessage(body=message)
    raise _wrong("messages", message, "NewMessage or bytes each", TypeError)


def wrong_body(body: object) -> TypeError:
    """The error for a body that is neither bytes nor an open binary file."""
    hint = "; encode the text first" if isinstance(body, str) else ""
    return TypeError(f"body must be bytes or an open binary file, not {type(body).__name__}{hint}")


def check_priority(priority: int) -> None:
    """0 to 9."""
    if type(priority) is not int:
        raise _wrong("priority", priority, "an int from 0 to 9", TypeError)
    if not 0 <= priority <= 9:
        raise _wrong("priority", priority, "an int from 0 to 9")


def check_delay(delay_s: float | None) -> None:
    """Seconds, 0 or more; None for the queue's backoff."""
    if delay_s is not None:
        _check_seconds("delay_s", delay_s)


def check_lease(lease_s: float | None) -> None:
    """Seconds, over 0; None for a claim without a deadline."""
    if lease_s is not None:
        check_extension(lease_s)


def check_extension(lease_s: float) -> None:
    """Seconds, over 0: `extend` has no default."""
    _check_seconds("lease_s", lease_s)
    if lease_s == 0:
        raise _wrong("lease_s", lease_s, "over 0 seconds")


def check_wait(wait_s: float) -> None:
    """Seconds, 0 or more."""
    if wait_s != 0 or type(wait_s) is bool:
        _check_seconds("wait_s", wait_s)


def check_count(count: int) -> None:
    """How many to claim at once: 1 to 10000."""
    _check_whole("count", count)


def check_limit(limit: int) -> None:
    """The size of a page: 1 to 10000."""
    _check_whole("limit", limit)


def check_most(limit: int | None) -> None:
    """How many at most, of work on many messages: 0 or more, None for all."""
    if limit is None:
        return
    if type(limit) is not int:
        raise _wrong("limit", limit, "an int, or None for all", TypeError)
    if limit < 0:
        raise _wrong("limit", limit, "0 or more, or None for all")


def check_rate(rate: float | None) -> None:
    """How many a second at most: over 0, None for no limit."""
    if rate is None:
        return
    if type(rate) not in (int, float):
        raise _wrong("rate", rate, "a number a second", TypeError)
    if not 0 < rate <= 1e9:
        raise _wrong("rate", rate, "over 0 a second")


def check_queue_name(name: str) -> str:
    """The name, if a queue may be called that: in a URL it can never lead to another route."""
    if not isinstance(name, str):
        raise TypeError(f"queue must be text, not {name!r}")
    if _QUEUE_NAME.fullmatch(name) is None:
        raise ValueError(
            f"queue must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, not {name!r}"
        )
    return name


def check_mark(mark: str) -> None:
    """8 of 0-9a-z: a part of the receipts that are claimed under it."""
    if not isinstance(mark, str):
        raise _wrong("mark", mark, "text", TypeError)
    if _MARK.fullmatch(mark) is None:
        raise _wrong("mark", mark, "8 of 0-9 and a-z")


def check_reason(reason: str) -> None:
    """Any text."""
    if not isinstance(reason, str):
        raise _wrong("reason", reason, "text", TypeError)


def check_bounds(bounds_s: Sequence[float]) -> None:
    """ValueError unless these are 1 to 20 rising ages."""
    rising = all(low < high for low, high in itertools.pairwise((0.0, *bounds_s)))
    if not 1 <= len(bounds_s) <= 20 or not rising or not math.isfinite(bounds_s[-1]):
        raise ValueError(f"bounds_s is {list(bounds_s)!r}; it is 1 to 20 ages in seconds, above 0 and rising")


def check_state(state: str) -> None:
    """One of the five states."""
    if state not in STATES:
        raise _wrong("state", state, f"one of {', '.join(STATES)}")


def check_purge_states(states: Sequence[str]) -> None:
    """States whose messages nobody holds."""
    if isinstance(states, str):
        raise _wrong("states", states, "a sequence of states", TypeError)
    for state in states:
        check_state(state)
        if state == "claimed":
            raise ValueError("claimed messages cannot be purged: somebody holds these; give them back first")


def check_message_id(message_id: str) -> str:
    """The id, if it has the form of one: a UUID in lower case."""
    if not isinstance(message_id, str):
        raise _wrong("message id", message_id, "text", TypeError)
    if _ID.fullmatch(message_id) is None:
        raise _wrong("message id", message_id, "a UUID in lower case, as enqueue returned it")
    return message_id


def parse_receipt(receipt: str) -> tuple[str, str]:
    """The message id and the nonce of a receipt."""
    if not isinstance(receipt, str):
        raise _wrong("receipt", receipt, "text", TypeError)
    found = _RECEIPT.fullmatch(receipt)
    if found is None:
        raise _wrong("receipt", receipt, "<id>.<nonce>, as dequeue returned it")
    return found[1], found[2]


def _check_seconds(what: str, value: float) -> None:
    if type(value) not in (int, float):
        raise _wrong(what, value, "a number of seconds", TypeError)
    if not 0 <= value <= SECONDS_MAX:  # false for NaN and the infinities as well
        raise _wrong(what, value, "0 seconds or more, at most a hundred years")


def _check_whole(what: str, value: int) -> None:
    if type(value) is not int:
        raise _wrong(what, value, f"an int from 1 to {MAX_LIMIT}", TypeError)
    if not 1 <= value <= MAX_LIMIT:
        raise _wrong(what, value, f"an int from 1 to {MAX_LIMIT}")


def _check_key(what: str, key: str) -> None:
    if not isinstance(key, str):
        raise _wrong(what, key, "text", TypeError)
    if not (0 < len(key) <= MAX_KEY_CHARS and key.isprintable()):
        raise _wrong(what, key, f"1 to {MAX_KEY_CHARS} printable characters")


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise _wrong("name", name, "text", TypeError)
    if not 0 < len(name) <= MAX_NAME_CHARS:
        raise _wrong("name", name, f"1 to {MAX_NAME_CHARS} characters")


def _check_content_type(content_type: str) -> None:
    if not isinstance(content_type, str):
        raise _wrong("content_type", content_type, "text", TypeError)
    fits = 0 < len(content_type) <= MAX_KEY_CHARS and content_type.isascii() and content_type.isprintable()
    if not fits:
        raise _wrong("content_type", content_type, f"1 to {MAX_KEY_CHARS} printable ASCII characters")


def _check_headers(headers: Mapping[str, str]) -> None:
    if not isinstance(headers, Mapping):
        raise _wrong("headers", headers, "a mapping of text to text", TypeError)
    chars = 0
    items: Iterable[tuple[object, object]] = headers.items()
    for key, value in items:
        if not isinstance(key, str) or not isinstance(value, str):
            raise _wrong("headers", {key: value}, "text to text", TypeError)
        if not key or not (_is_one_line(key) and _is_one_line(value)):
            raise _wrong("headers", {key: value}, "lines of Unicode text without NUL, each with a name")
        chars += len(key) + len(value)
    if chars > MAX_HEADERS_CHARS:
        raise ValueError(f"headers have {chars} characters in all; at most {MAX_HEADERS_CHARS} are allowed")


def _is_one_line(text: str) -> bool:
    """No line break, no NUL, and no half of a surrogate pair, which no encoding can carry."""
    if text.isascii():
        return _LINE_BREAKS.search(text) is None
    return _LINE_BREAKS.search(text) is None and not any("\ud800" <= char <= "\udfff" for char in text)


def _wrong(
    what: str, value: object, allowed: str, kind: type[ValueError | TypeError] = ValueError
) -> ValueError | TypeError:
    shown = repr(value)
    if len(shown) > _SHOWN_CHARS:
        shown = shown[:_SHOWN_CHARS] + "..."
    return kind(f"{what} must be {allowed}, not {shown}")
