"""What keeps a spool well: init, clean, check, rebuild."""

import sys
from dataclasses import asdict
from typing import Annotated

from spoolq import queue as entry
from spoolq.cli import failure, session
from spoolq.cli.declare import argument, command, flag, option
from spoolq.cli.options import DEFAULT_SPOOL, DryRun, Json, OnlyQueue, Spool
from spoolq.cli.output import outcome, progress, say
from spoolq.cli.text import counted, safe
from spoolq.cli.values import duration, one_of

_DURABILITIES = ("process", "power", "full")


@command("""
    spoolq init
    spoolq init /var/spool/orders --group www-data --durability full
""")
def init(
    *,
    directory: Annotated[str | None, argument("DIR", help="Where; else as --spool says.")] = None,
    group: Annotated[
        str | None, option("--group", metavar="GROUP", help="Whose members may drop files into new/ too.")
    ] = None,
    durability: Annotated[
        str | None,
        option(
            "--durability",
            parse=one_of(*_DURABILITIES),
            choices=_DURABILITIES,
            metavar="|".join(_DURABILITIES),
            help="What an enqueue survives: kills, also power cuts (the default), or everything is synced.",
        ),
    ] = None,
    spool: Spool = DEFAULT_SPOOL,
    as_json: Json = False,
) -> int:
    """Make a spool. Commands that enqueue or work make one too, with the defaults."""
    from spoolq.cli.queues import changed
    from spoolq.settings import Settings

    where = directory or spool
    settings = changed(Settings(), [f"durability={durability}"]) if durability else None
    made = entry.init_spool(where, group=group, settings=settings)
    words = f"is a spool: try  cp FILE {safe(where)}/new/" if made else "is a spool already"
    if not made:
        words += f"; the group {group} may drop files now" if group else ", and was left as it is"
    outcome(as_json, {"spool": where, "made": made}, f"{safe(where)} {words}")
    return failure.DONE


@command("""
    spoolq clean --dry-run
    spoolq clean
    spoolq clean --every 10m
""")
def clean(
    *,
    every_s: Annotated[
        float | None, option("--every", metavar="TIME", parse=duration, help="Again and again, until TERM or Ctrl-C.")
    ] = None,
    dry_run: DryRun = False,
    spool: Spool = DEFAULT_SPOOL,
    queue: OnlyQueue = None,
    as_json: Json = False,
) -> int:
    """Delete what the retention settings say: old done messages, and dead ones where that is set."""
    if every_s is None:
        return _clean(spool, queue, dry_run, as_json)
    if every_s <= 0:
        raise ValueError(f"--every must be over 0, not {every_s:g}")
    from spoolq.cli.stopping import until_stopped

    for _ in until_stopped(every_s):
        try:
            _clean(spool, queue, dry_run, as_json)
        except failure.SpoolqError as error:
            # What is wrong now (a busy queue, a full disk) may be right next time.
            failure.report(error, as_json=as_json)
        sys.stdout.flush()
    return failure.DONE


def _clean(spool: str, queue: str | None, dry_run: bool, as_json: bool) -> int:
    for name in session.names(spool, queue):
        with session.opened(spool, name) as target, progress(f"cleaning {name}") as report:
            found = target.clean(dry_run=dry_run, progress=report)
        words = ", ".join(f"{count} {what}" for what, count in found.items() if count) or "nothing"
        outcome(as_json, {"queue": name, **found}, f"{name}: {words}{' to delete' if dry_run else ' deleted'}")
    return failure.DONE


@command("""
    spoolq check
    spoolq check --fix
""")
def check(
    *,
    fix: Annotated[bool, flag("--fix", help="Mend what is wrong; it says how first without this.")] = False,
    spool: Spool = DEFAULT_SPOOL,
    queue: OnlyQueue = None,
    as_json: Json = False,
) -> int:
    """Compare files and index, both ways, and say what is wrong and what --fix does about it.

    Exit status 1 while something is wrong.
    """
    wrong = 0
    for name in session.names(spool, queue):
        with session.opened(spool, name) as target, progress(f"checking {name}") as report:
            problems = target.check(fix=fix, progress=report)
        for problem in problems:
            words = f"{name}: {problem.what} ({'done: ' if problem.fixed else '--fix: '}{problem.fix})"
            outcome(as_json, {"queue": name, **asdict(problem)}, safe(words))
        wrong += sum(not problem.fixed for problem in problems)
        if not problems and not as_json:
            say(f"{name}: nothing wrong")
    return failure.FAILED if wrong else failure.DONE


@command("spoolq rebuild")
def rebuild(*, spool: Spool = DEFAULT_SPOOL, queue: OnlyQueue = None, as_json: Json = False) -> int:
    """Make the index anew from the files. Totals and the minute history start anew with it."""
    for name in session.names(spool, queue):
        with session.opened(spool, name) as target, progress(f"rebuilding {name}") as report:
            count = target.rebuild(progress=report)
        outcome(as_json, {"queue": name, "messages": count}, f"{name}: {counted(count, 'message')}")
    return failure.DONE
