"""The queues of a spool: list, create, delete, settings."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from spoolq import queue as entry
from spoolq.cli import failure, session
from spoolq.cli.declare import argument, arguments, command
from spoolq.cli.options import DEFAULT_SPOOL, DryRun, Json, Queue, Spool, Yes
from spoolq.cli.output import confirmed, emit, outcome, say
from spoolq.cli.text import counted

if TYPE_CHECKING:
    from spoolq.settings import Settings

Name = Annotated[str, argument("NAME", help="The queue's name.")]


@command("spoolq queues list")
def ls(*, spool: Spool = DEFAULT_SPOOL, as_json: Json = False) -> int:
    """List the spool's queues by name. Their counts: stats --all-queues."""
    for name in entry.list_queues(spool):
        outcome(as_json, {"queue": name}, name)
    return failure.DONE


@command("""
    spoolq queues create emails
    spoolq queues create thumbnails max_attempts=3 retry.base_s=1
""")
def create(
    *,
    name: Name,
    changes: Annotated[list[str], arguments("KEY=VALUE...", help="Settings that differ from the defaults.")] = [],  # noqa: B006
    spool: Spool = DEFAULT_SPOOL,
    as_json: Json = False,
) -> int:
    """Make a queue."""
    from spoolq.settings import Settings

    settings = changed(Settings(), changes) if changes else None
    with entry.create_queue(spool, name, settings) as made:
        outcome(as_json, {"queue": made.name}, f"{made.name} created")
    return failure.DONE


@command("""
    spoolq queues delete thumbnails --dry-run
    spoolq queues delete thumbnails --yes
""")
def delete(
    *, name: Name, yes: Yes = False, dry_run: DryRun = False, spool: Spool = DEFAULT_SPOOL, as_json: Json = False
) -> int:
    """Delete a queue with all its messages, also while others have it open."""
    with session.opened(spool, name) as target:
        stats = target.stats()
    count = stats.ready + stats.scheduled + stats.claimed + stats.done + stats.dead
    what = f"the queue {name} with {counted(count, 'message')}"
    if dry_run:
        outcome(as_json, {"queue": name, "deleted": 0, "would_delete": count}, f"would delete {what}")
        return failure.DONE
    if not confirmed(f"Delete {what} for good?", yes=yes):
        return failure.FAILED
    deleted = entry.delete_queue(spool, name)
    outcome(as_json, {"queue": name, "deleted": deleted}, f"{name} deleted with {counted(deleted, 'message')}")
    return failure.DONE


@command("""
    spoolq queues settings
    spoolq queues settings emails max_attempts=3 retry.list_s="[1, 10, 60]"
""")
def settings(
    *,
    words: Annotated[
        list[str], arguments("[NAME] KEY=VALUE...", help="The queue, and what to change; nothing: show the settings.")
    ] = [],  # noqa: B006 never changed
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Show a queue's settings as queue.toml has them, or change some, for every process at once."""
    from dataclasses import asdict

    from spoolq.settings import dump

    name, changes = (words[0], words[1:]) if words and "=" not in words[0] else (queue, words)
    with session.opened(spool, name) as target:
        if changes:
            target.change_settings(changed(target.stored_settings(), changes))
        if as_json:
            emit(asdict(target.settings))
        elif changes:
            say(f"{target.name} changed: {', '.join(changes)}")
        else:
            say(dump(target.settings, only_changed=False).rstrip("\n"))
    return failure.DONE


def changed(settings: "Settings", changes: Iterable[str]) -> "Settings":
    """The settings with `table.key=VALUE` applied to them and checked; SettingsError names what is not allowed."""
    from dataclasses import asdict

    from spoolq.cli.values import pair
    from spoolq.settings import parse

    data = asdict(settings)
    for change in changes:
        key, text = pair(change)
        *tables, last = key.split(".")
        place = data
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ValueError(f"{key}: {table} is a setting, not a table")
        place[last] = toml_value(text)
    return parse(data)


def toml_value(text: str) -> Any:
    """What TOML makes of it; what is no TOML is text, so that nobody needs to quote a word twice."""
    import tomllib

    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text
