"""Which database, and which of its queues: read from a URL. Pure.

    postgresql://user@host/db?queue=emails
    postgresql://one,two,three/db?queue=emails      the host that can be written to, wherever that is now

What is ours is taken out, the rest is libpq's (sslmode, passfile, service, ...). No error here, and no `shown`, has the
password.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlencode

from spoolq import validate

SCHEMES = ("postgresql", "postgres")
DEFAULT_QUEUE = "default"
CONNECTIONS = 8

_OURS = ("queue", "connections")
_SECRET = ("password", "sslpassword")

# A network that swallows packets is noticed within half a minute, not after the system's two hours.
_DEFAULTS: Mapping[str, str] = {
    "application_name": "spoolq",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "target_session_attrs": "read-write",
    "tcp_user_timeout": "20000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A queue of a database. dsn: for libpq, password and all. shown: for people. connections: at most, pooled."""

    dsn: str = field(repr=False)
    shown: str
    queue: str
    connections: int = CONNECTIONS

    @property
    def url(self) -> str:
        """The queue's URL, without a password."""
        return f"{self.shown}{'&' if '?' in self.shown else '?'}queue={self.queue}"


def parse(url: str, queue: str | None = None) -> Address:
    """Read a URL; `queue` counts more than what the URL says. ValueError for a wrong queue or number."""
    before, query = _halves(url)
    parts = (part.partition("=") for part in query.split("&") if part)
    given = [(unquote(key), unquote(value)) for key, _, value in parts]  # for libpq a + is a +
    ours = {key: value for key, value in given if key in _OURS}
    theirs = [(key, value) for key, value in given if key not in _OURS]
    missing = [(key, value) for key, value in _DEFAULTS.items() if key not in {key for key, _ in theirs}]
    return Address(
        dsn=f"{before}?{_query(theirs + missing)}",
        shown=_shown(before, theirs),
        queue=validate.check_queue_name(queue or ours.get("queue") or DEFAULT_QUEUE),
        connections=_number(ours.get("connections")),
    )


def _halves(url: str) -> tuple[str, str]:
    """What is before the query, and the query. As libpq reads it: to an @ that no / precedes, it is who connects."""
    scheme, _, rest = url.partition("://")
    login, at, place = rest.partition("@")
    if not at or "/" in login:
        login, at, place = "", "", rest
    place, _, query = place.partition("?")
    return f"{scheme}://{login}{at}{place}", query


def _shown(before: str, theirs: list[tuple[str, str]]) -> str:
    scheme, _, rest = before.partition("://")
    login, at, hosts = rest.rpartition("@")
    harmless = [(key, value) for key, value in theirs if key not in _SECRET]
    shown = f"{scheme}://{login.partition(':')[0]}{at}{hosts}"
    return f"{shown}?{_query(harmless)}" if harmless else shown


def _query(parts: list[tuple[str, str]]) -> str:
    return urlencode(parts, quote_via=quote)


def _number(text: str | None) -> int:
    if text is None:
        return CONNECTIONS
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1000):
        raise ValueError(f"connections must be a number from 1 to 1000, not {text!r}")
    return int(text)
