"""What commands write: data to standard output, everything else to standard error.

Rich is loaded where a person looks at a terminal, and nowhere else; scripts get one line an item, its fields apart by
tabs, or JSON. Text that came with a message is escaped on every way to a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from spoolq.cli.failure import Refused
from spoolq.cli.text import safe

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from spoolq.interfaces import Progress

Item = TypeVar("Item")

_LEAST = 6


def emit(value: Mapping[str, Any]) -> None:
    """One JSON object as a line of standard output."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")


def say(line: str) -> None:
    """A line of standard output. What is not ours in it must have passed `safe`."""
    sys.stdout.write(line + "\n")


def note(line: str) -> None:
    """A line of standard error."""
    sys.stderr.write(line + "\n")


def at_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def outcome(as_json: bool, values: Mapping[str, Any], words: str) -> None:
    """What a command did: an object, or words."""
    if as_json:
        emit(values)
    else:
        say(words)


@dataclass(frozen=True)
class Column(Generic[Item]):
    """A column of a table. plain is what scripts get; pretty what people see, plain unless given."""

    title: str
    plain: Callable[[Item], object]
    pretty: Callable[[Item], str] | None = None
    right: bool = False
    fixed: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it is shown whole, however narrow the terminal: numbers and ids are of no use otherwise."""
        return self.right or self.fixed

    def line(self, item: Item) -> str:
        """The field in a line for scripts."""
        value = self.plain(item)
        return "" if value is None else safe(str(value))

    def cell(self, item: Item) -> str:
        """The cell in a table for people."""
        return safe(self.pretty(item)) if self.pretty else self.line(item)


def table(items: Iterable[Item], columns: Sequence[Column[Item]]) -> None:
    """Items as a table at a terminal, otherwise as lines of fields apart by tabs, without a head."""
    if at_terminal():
        _rich_table(items, columns)
    else:
        for item in items:
            say("\t".join(column.line(item) for column in columns))


def _rich_table(items: Iterable[Item], columns: Sequence[Column[Item]]) -> None:
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    made = grid(items, columns, console.width)
    if made.row_count:
        console.print(made)


def grid(items: Iterable[Item], columns: Sequence[Column[Item]], width: int) -> RichTable:
    """A rich table of the items, in which only the columns that are not `whole` give way where it is too wide."""
    from rich.table import Table
    from rich.text import Text

    rows = [[column.cell(item) for column in columns] for item in items]
    limits = _limits(columns, [max(map(len, cells)) for cells in zip(_titles(columns), *rows, strict=True)], width)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column, limit in zip(columns, limits, strict=True):
        justify: Literal["left", "right"] = "right" if column.right else "left"
        made.add_column(column.title, justify=justify, no_wrap=True, overflow="ellipsis", width=limit)
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def _titles(columns: Sequence[Column[Any]]) -> list[str]:
    return [column.title for column in columns]


def _limits(columns: Sequence[Column[Any]], needed: Sequence[int], width: int) -> list[int]:
    """The width of each column: what it needs; where that is too much, the widest that may give way do."""
    limits = list(needed)
    giving = [at for at, column in enumerate(columns) if not column.is_whole]
    over = sum(limits) + len(columns) - width
    while over > 0 and giving:
        widest = max(giving, key=limits.__getitem__)
        if limits[widest] <= _LEAST:
            break
        limits[widest] -= 1
        over -= 1
    return limits


@contextmanager
def progress(title: str) -> Iterator[Progress | None]:
    """A progress bar on standard error while a person looks at it; else None, and nothing is drawn."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether a person agrees to what cannot be undone. Nobody there to ask, and no --yes: Refused."""
    if yes:
        return True
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Refused(f"{question} Nobody is there to ask", "Say --yes to do it, --dry-run to see what it would do")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in {"y", "yes"}:
        return True
    note("nothing was done")
    return False
