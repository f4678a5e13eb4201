"""Dead letters: look at them, by reason and one by one; delete them; put them back (redrive)."""

from typing import Annotated

from spoolq.cli import failure, options, session
from spoolq.cli.declare import argument, arguments, command, flag, option
from spoolq.cli.detail import show_message
from spoolq.cli.look import list_pages
from spoolq.cli.options import (
    DEFAULT_LIMIT,
    DEFAULT_SPOOL,
    Cursor,
    DryRun,
    Everything,
    Grouped,
    Json,
    Limit,
    MaxAge,
    MinAge,
    Named,
    Queue,
    Reasoned,
    Spool,
    Yes,
)
from spoolq.cli.output import Column, confirmed, emit, outcome, progress, table
from spoolq.cli.text import counted
from spoolq.cli.values import number, whole
from spoolq.errors import MessageNotFound
from spoolq.models import Page

SomeIds = Annotated[
    list[str],
    arguments("ID...", help="Only these; - reads ids from standard input. None: all that the filters admit."),
]


@command("""
    spoolq dead list
    spoolq dead list --reason timeout --min-age 1h
""")
def ls(
    *,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    everything: Everything = False,
    name: Named = None,
    reason: Reasoned = None,
    group: Grouped = None,
    min_age_s: MinAge = None,
    max_age_s: MaxAge = None,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """List dead letters, oldest first."""
    where = options.where(name=name, reason=reason, group=group, min_age_s=min_age_s, max_age_s=max_age_s)
    with session.opened(spool, queue) as source:

        def page(after: str | None) -> Page:
            return source.dead_letters.list(where=where, limit=limit, cursor=after)

        list_pages(page, "dead", cursor, everything=everything, as_json=as_json)
    return failure.DONE


@command('spoolq dead show "$id"')
def show(
    *,
    message_id: Annotated[str, argument("ID", help="The dead letter's id; - reads it from standard input.")],
    body: Annotated[bool, flag("--body", "-b", help="The beginning of the body, too.")] = False,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Everything about a dead letter: each attempt with its outcome, reason and the end of what it wrote."""
    with session.opened(spool, queue) as source:

        def look(one: str) -> None:
            state = source.get(one).state
            if state != "dead":
                raise MessageNotFound(
                    f"{one} is no dead letter: it is {state}", message_id=one, hint=f"Try: spoolq show {one}"
                )
            show_message(source, one, body=body, output=None, as_json=as_json)

        return failure.each(session.given([message_id]), look, as_json=as_json)


@command("spoolq dead reasons")
def reasons(*, spool: Spool = DEFAULT_SPOOL, queue: Queue = None, as_json: Json = False) -> int:
    """Why messages are dead, and how many for each reason, the most frequent first."""
    with session.opened(spool, queue) as source:
        found = source.dead_letters.reasons()
    if as_json:
        for reason, count in found:
            emit({"reason": reason, "count": count})
    else:
        table(found, _REASONS)
    return failure.DONE


_REASONS: tuple[Column[tuple[str, int]], ...] = (
    Column("COUNT", lambda pair: pair[1], right=True),
    Column("REASON", lambda pair: pair[0]),
)


@command("""
    spoolq dead purge --reason expired --dry-run
    spoolq dead purge --min-age 30d --yes
""")
def purge(
    *,
    ids: SomeIds = [],  # noqa: B006 never changed
    name: Named = None,
    reason: Reasoned = None,
    group: Grouped = None,
    min_age_s: MinAge = None,
    max_age_s: MaxAge = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Delete dead letters for good."""
    where = options.where(name=name, reason=reason, group=group, min_age_s=min_age_s, max_age_s=max_age_s)
    with session.opened(spool, queue) as source:
        chosen = list(session.given(ids)) if ids else None
        count = source.dead_letters.purge(chosen, where=where, dry_run=True)
        what = f"{counted(count, 'dead letter')} of the queue {source.name}"
        if dry_run:
            outcome(as_json, {"queue": source.name, "purged": 0, "would_purge": count}, f"would delete {what}")
            return failure.DONE
        if not confirmed(f"Delete {what} for good?", yes=yes):
            return failure.FAILED
        with progress("deleting") as report:
            purged = source.dead_letters.purge(chosen, where=where, progress=report)
        outcome(as_json, {"queue": source.name, "purged": purged}, f"{counted(purged, 'dead letter')} deleted")
    return failure.DONE


@command("""
    spoolq redrive --reason timeout --dry-run
    spoolq redrive "$id"
    spoolq redrive --min-age 1h --limit 100 --rate 10
""")
def redrive(
    *,
    ids: SomeIds = [],  # noqa: B006 never changed
    name: Named = None,
    reason: Reasoned = None,
    group: Grouped = None,
    min_age_s: MinAge = None,
    max_age_s: MaxAge = None,
    limit: Annotated[int | None, option("--limit", "-l", metavar="N", parse=whole, help="At most so many.")] = None,
    rate: Annotated[float | None, option("--rate", metavar="N", parse=number, help="At most so many a second.")] = None,
    dry_run: DryRun = False,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Put dead letters back to be delivered, attempts at 0, history kept."""
    where = options.where(name=name, reason=reason, group=group, min_age_s=min_age_s, max_age_s=max_age_s)
    with session.opened(spool, queue) as source, progress("redriving") as report:
        chosen = list(session.given(ids)) if ids else None
        count = source.dead_letters.redrive(
            chosen, where=where, limit=limit, rate=rate, dry_run=dry_run, progress=report
        )
        what = counted(count, "dead letter")
    if dry_run:
        outcome(as_json, {"redriven": 0, "would_redrive": count}, f"would redrive {what}")
    else:
        outcome(as_json, {"redriven": count}, f"{what} redriven")
    return failure.DONE
