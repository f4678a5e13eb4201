"""`spoolq top`: the queues of a spool, live."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Self

from spoolq.cli import failure, session
from spoolq.cli.declare import command, flag, option
from spoolq.cli.options import DEFAULT_SPOOL, Json, OnlyQueue, Spool
from spoolq.cli.output import Column, at_terminal, emit, grid, table
from spoolq.cli.text import span
from spoolq.cli.values import duration
from spoolq.clock import Clock
from spoolq.errors import NotCapable, QueueNotFound

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spoolq.interfaces import Queue

_RATE_S = 120
_REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A queue at one instant. Rates are over the last two minutes; None where the engine keeps no history."""

    queue: str
    ready: int
    scheduled: int
    claimed: int
    done: int
    dead: int
    enqueued_per_s: float | None
    acknowledged_per_s: float | None
    failed_per_s: float | None
    oldest_ready_age_s: float | None
    holders: int
    paused: bool
    dead_reasons: tuple[tuple[str, int], ...]


@command("""
    spoolq top
    spoolq top --once
""")
def top(
    *,
    once: Annotated[bool, flag("--once", help="One look, then leave.")] = False,
    every_s: Annotated[float, option("--every", metavar="TIME", parse=duration, help="How often to look.")] = 1.0,
    spool: Spool = DEFAULT_SPOOL,
    queue: OnlyQueue = None,
    as_json: Json = False,
) -> int:
    """A live view: depth, rates, age of the oldest, holders and reasons of the dead. q or Ctrl-C ends it."""
    if every_s <= 0:
        raise ValueError(f"--every must be over 0, not {every_s:g}")
    with Board(spool, queue) as board:
        if once or not at_terminal():
            _write(board.rows(), as_json)
        else:
            try:
                _live(board, every_s)
            except KeyboardInterrupt:
                pass
    return failure.DONE


class Board:
    """The queues that are looked at, kept open between two looks."""

    def __init__(self, spool: str, only: str | None) -> None:
        self._spool = spool
        self._only = only
        self._open: dict[str, Queue] = {}
        self._clock = Clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for queue in self._open.values():
                stack.callback(queue.close)

    def rows(self) -> list[Row]:
        """A row for each queue there is now."""
        found = []
        for name in session.names(self._spool, self._only):
            try:
                if name not in self._open:
                    self._open[name] = session.opened(self._spool, name)
                found.append(self._row(self._open[name]))
            except QueueNotFound:
                # RACE: it was deleted between the list and the look.
                gone = self._open.pop(name, None)
                if self._only:
                    raise
                if gone:
                    gone.close()
        return found

    def _row(self, queue: "Queue") -> Row:
        stats = queue.stats()
        now_ms = self._clock.wall_ms()
        oldest_ms = stats.oldest_ready_at_ms
        rates = self._rates(queue, now_ms)
        return Row(
            queue=stats.queue,
            ready=stats.ready,
            scheduled=stats.scheduled,
            claimed=stats.claimed,
            done=stats.done,
            dead=stats.dead,
            enqueued_per_s=rates and rates[0],
            acknowledged_per_s=rates and rates[1],
            failed_per_s=rates and rates[2],
            oldest_ready_age_s=None if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000,
            holders=sum(holder.alive for holder in queue.holders()),
            paused=stats.paused,
            dead_reasons=tuple(queue.dead_letters.reasons())[:_REASONS_SHOWN] if stats.dead else (),
        )

    def _rates(self, queue: "Queue", now_ms: int) -> tuple[float, float, float] | None:
        """Enqueued, acknowledged and failed a second, over the minute under way and the one or two before it."""
        since_ms = (now_ms - _RATE_S * 1000) // 60_000 * 60_000
        try:
            minutes = queue.minutes(since_ms)
        except NotCapable:
            return None
        seconds = (now_ms - since_ms) / 1000
        return (
            sum(minute.enqueued for minute in minutes) / seconds,
            sum(minute.acknowledged for minute in minutes) / seconds,
            sum(minute.failed for minute in minutes) / seconds,
        )


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def _reasons(row: Row) -> str:
    return ", ".join(f"{count} {_last_line(reason) or '(none)'}" for reason, count in row.dead_reasons)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _age(row: Row) -> str:
    return "" if row.oldest_ready_age_s is None else span(int(row.oldest_ready_age_s))


COLUMNS: tuple[Column[Row], ...] = (
    Column("QUEUE", lambda row: row.queue),
    Column("READY", lambda row: row.ready, lambda row: f"{row.ready:,}", right=True),
    Column("SCHEDULED", lambda row: row.scheduled, lambda row: f"{row.scheduled:,}", right=True),
    Column("CLAIMED", lambda row: row.claimed, lambda row: f"{row.claimed:,}", right=True),
    Column("DONE", lambda row: row.done, lambda row: f"{row.done:,}", right=True),
    Column("DEAD", lambda row: row.dead, lambda row: f"{row.dead:,}", right=True),
    Column("IN/s", lambda row: _rate(row.enqueued_per_s), right=True),
    Column("OUT/s", lambda row: _rate(row.acknowledged_per_s), right=True),
    Column("FAIL/s", lambda row: _rate(row.failed_per_s), right=True),
    Column("OLDEST", lambda row: row.oldest_ready_age_s, _age, right=True),
    Column("HOLDERS", lambda row: row.holders, right=True),
)
_REASONS: Column[Row] = Column("DEAD OF", _reasons)


def _write(rows: list[Row], as_json: bool) -> None:
    if as_json:
        for row in rows:
            emit(asdict(row))
    elif at_terminal():
        from rich.console import Console

        console = Console(file=sys.stdout, highlight=False)
        console.print(frame(rows, console.width))
    else:
        table(rows, (*COLUMNS, _REASONS))


def _live(board: Board, every_s: float) -> None:
    """Draw until somebody presses q, or Ctrl-C."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    hint = Text("q ends", style="dim")
    console = Console(file=sys.stdout, highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the terminal is put back in order
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(Group(frame(board.rows(), console.width), hint), refresh=True)
            if pressed(every_s) in {b"q", b"Q"}:
                return


def frame(rows: list[Row], width: int) -> "RenderableType":
    """What is drawn: a row for each queue, then what is remarkable."""
    from rich.console import Group
    from rich.text import Text

    remarks = [f"{row.queue} is paused" for row in rows if row.paused]
    remarks += [f"dead in {row.queue}: {_REASONS.cell(row)}" for row in rows if row.dead_reasons]
    return Group(grid(rows, COLUMNS, width), Text(""), *map(Text, remarks))


@contextmanager
def _keys() -> Iterator[Callable[[float], bytes]]:
    """A function that waits for a key: its byte, or b"" after so many seconds. Keys come without Enter."""
    import select
    import termios
    import tty

    if not sys.stdin.isatty():
        yield lambda seconds: b"".join(select.select([], [], [], seconds)[0])
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> bytes:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        # Past the buffers above it, which would take several keys and leave select nothing to see.
        return open(descriptor, "rb", buffering=0, closefd=False).read(1) if ready else b""

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
