"""What only looks: ls, search, show."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, cast

from spoolq.cli import failure, options, session
from spoolq.cli.columns import columns
from spoolq.cli.declare import argument, command, flag, option
from spoolq.cli.detail import show_message
from spoolq.cli.options import (
    DEFAULT_LIMIT,
    DEFAULT_SPOOL,
    Cursor,
    Everything,
    Grouped,
    Json,
    Limit,
    MaxAge,
    MinAge,
    MinAttempts,
    Named,
    Queue,
    Reasoned,
    Spool,
)
from spoolq.cli.output import at_terminal, emit, note, table
from spoolq.cli.values import one_of
from spoolq.models import STATES, MessageInfo, Page, State

if TYPE_CHECKING:
    from spoolq import interfaces

_ANY = "all"


@command("""
    spoolq ls
    spoolq ls --state scheduled --name report
    spoolq ls --state done --max-age 1h --json
""")
def ls(
    *,
    state: Annotated[
        str,
        option(
            "--state",
            metavar="STATE",
            parse=one_of(*STATES, _ANY),
            choices=(*STATES, _ANY),
            help="ready, scheduled, claimed, done, dead, or all.",
        ),
    ] = "ready",
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    everything: Everything = False,
    name: Named = None,
    reason: Reasoned = None,
    group: Grouped = None,
    min_age_s: MinAge = None,
    max_age_s: MaxAge = None,
    min_attempts: MinAttempts = None,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """List messages: ready ones in the order of delivery, scheduled ones by time, the others oldest first.

    At a terminal a table; else a line each, fields apart by tabs, the id first.
    """
    if state == _ANY and cursor is not None:
        raise ValueError("--cursor goes on within one state: say which with --state")
    where = options.where(
        name=name, reason=reason, group=group, min_age_s=min_age_s, max_age_s=max_age_s, min_attempts=min_attempts
    )
    with session.opened(spool, queue) as source:
        shown = 0
        for one in cast("tuple[State, ...]", STATES if state == _ANY else (state,)):

            def page(after: str | None, one: State = one) -> Page:
                return source.list(one, where=where, limit=limit, cursor=after)

            shown += list_pages(page, None if state == _ANY else one, cursor, everything=everything, as_json=as_json)
        if not shown and at_terminal():
            _say_what_is_there(source, state)
    return failure.DONE


def list_pages(
    page: Callable[[str | None], Page], state: str | None, cursor: str | None, *, everything: bool, as_json: bool
) -> int:
    """Write a page, or all of them, and where the next one begins; returns how many messages were written."""
    shown = 0
    for found in _pages(page, cursor, everything):
        write_messages(found.messages, state, as_json)
        shown += len(found.messages)
        if found.cursor and not everything:
            note(f'{{"cursor": "{found.cursor}"}}' if as_json else f"more: --cursor {found.cursor}, or --all")
    return shown


def _pages(page: Callable[[str | None], Page], cursor: str | None, everything: bool) -> Iterator[Page]:
    found = page(cursor)
    yield found
    while everything and found.cursor:
        found = page(found.cursor)
        yield found


def write_messages(messages: "tuple[MessageInfo, ...] | list[MessageInfo]", state: str | None, as_json: bool) -> None:
    """Messages as objects, or as a table or lines."""
    if as_json:
        for info in messages:
            emit(info.as_dict())
    else:
        table(messages, columns(state))


def _say_what_is_there(source: "interfaces.Queue", state: str) -> None:
    stats = source.stats()
    others = ", ".join(f"{count} {each}" for each in STATES if (count := getattr(stats, each)))
    where = "" if state == _ANY else f" in {state}"
    note(f"nothing to list{where}; the queue {source.name} has {others or 'no message'}")


@command("""
    spoolq search report
    spoolq search "connection refused" --limit 10
""")
def search(
    *,
    text: Annotated[str, argument("TEXT", help="The beginning of an id, or a part of a name or a reason.")],
    limit: Limit = DEFAULT_LIMIT,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Find messages in any state, by id, name or reason. Exit status 3 when there is none."""
    with session.opened(spool, queue) as source:
        found = list(source.search(text, limit=limit))
    write_messages(found, None, as_json)
    return failure.DONE if found else failure.NOTHING


@command("""
    spoolq show "$id"
    spoolq show "$id" --output copy
    spoolq show "$id" --body --json
""")
def show(
    *,
    message_id: Annotated[str, argument("ID", help="The message's id; - reads it from standard input.")],
    body: Annotated[bool, flag("--body", "-b", help="The beginning of the body, too.")] = False,
    output: Annotated[
        str | None, option("--output", "-o", metavar="FILE", help="Write the body there, - for standard output, alone.")
    ] = None,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Everything about a message, the history of its deliveries included."""
    with session.opened(spool, queue) as source:

        def look(one: str) -> None:
            show_message(source, one, body=body, output=output, as_json=as_json)

        return failure.each(session.given([message_id]), look, as_json=as_json)
