"""Which settings there are: a dataclass for each table of `queue.toml`, its fields with default, limits and meaning.

`Settings()` is plain data that nothing has to validate. Who checks some by these annotations asks for the `adapter`;
plain_check.py reads the same annotations without pydantic.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from annotated_types import Interval, MinLen
    from pydantic import TypeAdapter

Durability = Literal["process", "power", "full"]

SECONDS_MAX = 3_153_600_000  # 100 years: past it, instants in ms and the system's timeouts overflow
COUNT_MAX = 2**63 - 1  # what the index can hold
ATTEMPTS_MAX = 999_999  # what a file name has room for
PREFIX = "SPOOLQ_"


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


def _table(kind: type) -> Any:
    return field(default_factory=kind)


class _Checked:
    """How pydantic reads the dataclasses below, once it is asked to."""

    __slots__ = ()
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 pydantic wants a plain dict


@dataclass(frozen=True, slots=True)
class Retry(_Checked):
    """`[retry]`: how long a message that failed waits for its next attempt."""

    base_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(5.0, "seconds before the second attempt")
    factor: Annotated[float, Interval(ge=1, le=1000)] = _setting(2.0, "each further wait is this many times longer")
    cap_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(3600.0, "no wait is longer, in seconds")
    jitter: Annotated[float, Interval(ge=0, le=1)] = _setting(0.2, "the share of a wait that is left to chance")
    list_s: tuple[Annotated[float, Interval(ge=0, le=SECONDS_MAX)], ...] = _setting(
        (), "the waits one by one, in seconds, the last one repeated; instead of base_s and factor"
    )


@dataclass(frozen=True, slots=True)
class Retention(_Checked):
    """`[retention]`: how long settled messages are kept."""

    done_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        86400.0, "seconds an acknowledged message is kept; 0 deletes it at once"
    )
    dead_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        0.0, "seconds a dead letter is kept; 0 keeps it until somebody acts"
    )
    expired: Literal["dead", "delete"] = _setting("dead", "where a message goes whose time to live is over")


@dataclass(frozen=True, slots=True)
class Limits(_Checked):
    """`[limits]`: what the queue accepts."""

    body_bytes: Annotated[int, Interval(ge=0, le=COUNT_MAX)] = _setting(0, "largest body, in bytes; 0 is no limit")
    messages: Annotated[int, Interval(ge=0, le=COUNT_MAX)] = _setting(0, "most messages waiting; 0 is no limit")
    bytes: Annotated[int, Interval(ge=0, le=COUNT_MAX)] = _setting(0, "most bytes waiting; 0 is no limit")


@dataclass(frozen=True, slots=True)
class Reserve(_Checked):
    """`[reserve]`: what stays free on the disk, so that claims and acknowledgements still work."""

    bytes: Annotated[int, Interval(ge=0, le=COUNT_MAX)] = _setting(64 * 1024 * 1024, "bytes left free")
    percent: Annotated[float, Interval(ge=0, le=100)] = _setting(1.0, "percent of the disk left free")
    inodes: Annotated[int, Interval(ge=0, le=COUNT_MAX)] = _setting(1000, "inodes left free")


@dataclass(frozen=True, slots=True)
class Drops(_Checked):
    """`[drops]`: files that somebody puts into `new/` by hand."""

    settle_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        5.0, "seconds a file must be at rest where its writers cannot be seen"
    )
    ignore: tuple[Annotated[str, MinLen(1)], ...] = _setting(
        ("*.tmp", "*.part", "*.crdownload", "*~"), "name patterns left alone until the file is renamed"
    )
    schedule_max_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        2678400.0, "a modification time further ahead than this many seconds does not schedule"
    )


@dataclass(frozen=True, slots=True)
class Settings(_Checked):
    """All settings of one queue. Made by hand they are not checked: `parse` and `load` do that."""

    durability: Durability = _setting(
        "power", "what an enqueue survives: process kills, also power cuts, or full: claims and moves are synced too"
    )
    lease_s: Annotated[float, Interval(gt=0, le=SECONDS_MAX)] = _setting(
        60.0, "seconds a claim lasts that no live process proves"
    )
    max_hold_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        0.0, "seconds after which a live process loses its claim too; 0 is never"
    )
    max_attempts: Annotated[int, Interval(ge=1, le=ATTEMPTS_MAX)] = _setting(
        5, "deliveries started before a message is given up"
    )
    ttl_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        0.0, "seconds a message may wait before it expires; 0 is for ever"
    )
    dedup_window_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        300.0, "seconds a deduplication key is remembered after its enqueue"
    )
    busy_s: Annotated[float, Interval(ge=0, le=SECONDS_MAX)] = _setting(
        10.0, "seconds to wait for the write lock before giving up as busy"
    )
    retry: Retry = _table(Retry)
    retention: Retention = _table(Retention)
    limits: Limits = _table(Limits)
    reserve: Reserve = _table(Reserve)
    drops: Drops = _table(Drops)


@cache
def adapter() -> TypeAdapter[Settings]:
    """What pydantic makes of them."""
    import annotated_types
    from pydantic import TypeAdapter

    # The annotations above are text, looked up here for the first time: at the top, this import costs every command
    # 20 ms.
    globals().update(Interval=annotated_types.Interval, MinLen=annotated_types.MinLen)
    return TypeAdapter(Settings)


def variable(key: str) -> str:
    """The environment variable that sets a key."""
    return PREFIX + key.replace(".", "_").upper()


def defaults(*, tables: bool = False) -> dict[str, Any]:
    """Each key with its default; with `tables`, the tables too."""
    found: dict[str, Any] = {}
    settings = Settings()
    for each in fields(settings):
        value: Any = getattr(settings, each.name)
        if not is_dataclass(value) or tables:
            found[each.name] = value
        if is_dataclass(value):
            found.update({f"{each.name}.{inner.name}": getattr(value, inner.name) for inner in fields(value)})
    return found
