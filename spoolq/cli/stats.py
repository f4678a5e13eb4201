"""`spoolq stats`: how much there is of what."""

from dataclasses import fields
from typing import Annotated

from spoolq.cli import failure, session
from spoolq.cli.declare import command, flag
from spoolq.cli.options import DEFAULT_SPOOL, Json, Queue, Spool
from spoolq.cli.output import Column, at_terminal, emit, say, table
from spoolq.cli.text import instant, size, span
from spoolq.clock import Clock
from spoolq.models import STATES, Stats


@command("""
    spoolq stats
    spoolq stats --all-queues
    spoolq stats --json
""")
def stats(
    *,
    all_queues: Annotated[bool, flag("--all-queues", help="Every queue of the spool.")] = False,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """How many messages there are in each state, their bytes, and totals since the index was made."""
    found = []
    for name in session.names(spool, None) if all_queues else [queue]:
        with session.opened(spool, name) as source:
            found.append(source.stats())
    if as_json:
        for each in found:
            emit(each.as_dict())
    elif all_queues:
        table(found, _STATS_COLUMNS)
    else:
        _write_stats(found[0])
    return failure.DONE


def _all_bytes(stats: Stats) -> int:
    return sum(getattr(stats, f"{state}_bytes") for state in STATES)


def _age(stats: Stats) -> str:
    oldest_ms = stats.oldest_ready_at_ms
    return "" if oldest_ms is None else span(max(0, Clock().wall_ms() - oldest_ms) // 1000)


_STATS_COLUMNS: tuple[Column[Stats], ...] = (
    Column("QUEUE", lambda stats: stats.queue),
    Column("READY", lambda stats: stats.ready, right=True),
    Column("SCHEDULED", lambda stats: stats.scheduled, right=True),
    Column("CLAIMED", lambda stats: stats.claimed, right=True),
    Column("DONE", lambda stats: stats.done, right=True),
    Column("DEAD", lambda stats: stats.dead, right=True),
    Column("BYTES", _all_bytes, lambda stats: size(_all_bytes(stats)), right=True),
    Column("OLDEST", lambda stats: instant(stats.oldest_ready_at_ms), _age, right=True),
    Column("", lambda stats: "paused" if stats.paused else ""),
)


def _write_stats(stats: Stats) -> None:
    """Name and value a line; at a terminal in the units that people read."""
    if not at_terminal():
        for name in (field.name for field in fields(stats)):
            value = getattr(stats, name)
            if not isinstance(value, tuple):
                say(f"{name}\t{'' if value is None else str(value).lower() if isinstance(value, bool) else value}")
        return
    say(f"queue {stats.queue}{', paused' if stats.paused else ''}")
    for state in STATES:
        say(f"  {state:<12}{getattr(stats, state):>12,}  {size(getattr(stats, f'{state}_bytes')):>10}")
    say(f"  oldest ready {_age(stats) or '-':>11}")
    totals = ", ".join(
        f"{getattr(stats, f'{name}_total'):,} {name}" for name in ("enqueued", "acknowledged", "failed", "dead")
    )
    say(f"since the index was made: {totals}")
