"""What changes messages and the queue: run-now, reprioritize, replay, rm, purge, pause, resume."""

from typing import TYPE_CHECKING, Annotated, cast

from spoolq.cli import failure, session
from spoolq.cli.declare import argument, command, options
from spoolq.cli.options import DEFAULT_SPOOL, DryRun, Ids, Json, Queue, Spool, Yes, read_state
from spoolq.cli.output import confirmed, outcome, progress
from spoolq.cli.text import counted
from spoolq.cli.values import whole
from spoolq.models import STATES, State

if TYPE_CHECKING:
    from spoolq import interfaces


@command("""
    spoolq run-now "$id"
    spoolq ls --state scheduled | spoolq run-now -
""")
def run_now(*, ids: Ids, spool: Spool = DEFAULT_SPOOL, queue: Queue = None, as_json: Json = False) -> int:
    """Deliver scheduled messages now."""
    return session.to_each("id", ids, lambda target, one: target.run_now(one), (spool, queue), as_json, state="ready")


@command('spoolq reprioritize 9 "$id"')
def reprioritize(
    *,
    priority: Annotated[int, argument("0-9", parse=whole, help="The new priority; 9 is delivered first.")],
    ids: Ids,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Change the priority of waiting messages."""

    def change(target: "interfaces.Queue", message_id: str) -> None:
        target.set_priority(message_id, priority)

    return session.to_each("id", ids, change, (spool, queue), as_json, priority=priority)


@command("""
    spoolq replay "$id"
    spoolq ls --state done --name report | spoolq replay -
""")
def replay(*, ids: Ids, spool: Spool = DEFAULT_SPOOL, queue: Queue = None, as_json: Json = False) -> int:
    """Deliver messages again that are done."""
    return session.to_each("id", ids, lambda target, one: target.replay(one), (spool, queue), as_json, state="ready")


@command("""
    spoolq rm "$id" --dry-run
    spoolq rm "$id" --yes
""")
def rm(
    *,
    ids: Ids,
    yes: Yes = False,
    dry_run: DryRun = False,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Delete messages for good, whatever their state, unless somebody holds them."""
    with session.opened(spool, queue) as target:
        given = session.given(ids) if yes or dry_run else list(session.given(ids))
        if not dry_run and not confirmed(f"Delete {_how_many(given)} for good?", yes=yes):
            return failure.FAILED

        def delete(message_id: str) -> None:
            if dry_run:
                target.get(message_id)
            else:
                target.delete(message_id)
            if as_json or dry_run:
                outcome(as_json, {"id": message_id, "deleted": not dry_run}, f"would delete {message_id}")

        return failure.each(given, delete, as_json=as_json)


def _how_many(given: object) -> str:
    return counted(len(given), "message") if isinstance(given, list) else "these messages"


@command("""
    spoolq purge --dry-run
    spoolq purge --state done --yes
""")
def purge(
    *,
    states: Annotated[
        list[str],
        options("--state", metavar="STATE", parse=read_state, choices=STATES, help="Which; else ready and scheduled."),
    ] = ["ready", "scheduled"],  # noqa: B006 never changed
    yes: Yes = False,
    dry_run: DryRun = False,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Delete every message in these states for good."""
    chosen = cast("list[State]", states)
    with session.opened(spool, queue) as target:
        found = target.stats()
        count = sum(getattr(found, state) for state in set(chosen))
        what = f"{counted(count, 'message')} ({', '.join(chosen)}) of the queue {target.name}"
        if dry_run:
            outcome(as_json, {"queue": target.name, "purged": 0, "would_purge": count}, f"would delete {what}")
            return failure.DONE
        if "claimed" not in chosen and not confirmed(f"Delete {what} for good?", yes=yes):
            return failure.FAILED
        with progress("deleting") as report:
            purged = target.purge(chosen, progress=report)
        outcome(as_json, {"queue": target.name, "purged": purged}, f"{counted(purged, 'message')} deleted")
    return failure.DONE


@command("spoolq pause")
def pause(*, spool: Spool = DEFAULT_SPOOL, queue: Queue = None, as_json: Json = False) -> int:
    """Deliver nothing until resume. What is claimed goes on, and so does enqueueing."""
    return _pause(spool, queue, as_json, paused=True)


@command("spoolq resume")
def resume(*, spool: Spool = DEFAULT_SPOOL, queue: Queue = None, as_json: Json = False) -> int:
    """Deliver again."""
    return _pause(spool, queue, as_json, paused=False)


def _pause(spool: str, queue: str | None, as_json: bool, *, paused: bool) -> int:
    with session.opened(spool, queue) as target:
        if paused:
            target.pause()
        else:
            target.resume()
        outcome(as_json, {"queue": target.name, "paused": paused}, f"{target.name} {'paused' if paused else 'resumed'}")
    return failure.DONE
