"""`spoolq up`, `down` and `programs`: the whole stack under supervisord."""

import sys
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from spoolq import queue as entry
from spoolq.cli import failure
from spoolq.cli.declare import argument, command, flag, rest
from spoolq.cli.options import DEFAULT_SPOOL, Json, Spool
from spoolq.cli.output import emit, note, outcome, say
from spoolq.cli.text import safe

if TYPE_CHECKING:
    from spoolq.stack.place import Place
    from spoolq.stack.programs import Program
    from spoolq.stack.settings import StackSettings

Directory = Annotated[str | None, argument("DIR", help="The spool; else as --spool says.")]
Checkout = Annotated[
    bool, flag("--checkout", help="With the supervisord.conf and the logs/ of the current directory, a checkout.")
]


@command("spoolq up /var/spool/orders")
def up(
    *, directory: Directory = None, checkout: Checkout = False, spool: Spool = DEFAULT_SPOOL, as_json: Json = False
) -> int:
    """Run the API, both consoles, watch, consumers and cleanup in the foreground, until TERM or Ctrl-C.

    Waits until all are healthy, then says where they are. Logs are in logs/ in the spool. Ports and addresses are set
    by SPOOLQ_ variables or spoolq.toml; yours goes into supervisord.local.conf in the spool.
    """
    from spoolq.stack import settings as stack_settings
    from spoolq.stack import up as stack

    place = _place(directory or spool, checkout)
    wanted = stack_settings.load(environ)
    note(f"starting; logs are in {safe(str(_shown(place.logs, checkout)))}")
    tell = _emit if as_json else _tell
    return stack.up(place, wanted, lambda programs: tell(place, wanted, programs))


@command("spoolq down /var/spool/orders")
def down(
    *, directory: Directory = None, checkout: Checkout = False, spool: Spool = DEFAULT_SPOOL, as_json: Json = False
) -> int:
    """Stop what `spoolq up` started: consumers finish what they have, up to their grace."""
    from spoolq.stack import up as stack

    stopped = stack.down(_place(directory or spool, checkout))
    outcome(as_json, {"stopped": stopped}, "stopped" if stopped else "nothing runs")
    return failure.DONE


@command("""
    spoolq programs --spool /var/spool/orders
    spoolq programs --spool /var/spool/orders -- restart api
""")
def programs(
    *,
    argv: Annotated[
        list[str] | None, rest("ARGS", help="For supervisorctl: status, stop NAME, start NAME, tail -f NAME.")
    ] = None,
    checkout: Checkout = False,
    spool: Spool = DEFAULT_SPOOL,
    as_json: Json = False,
) -> int:
    """Show, stop, start or restart the programs that `spoolq up` started, by supervisorctl.

    --json is for looking only.
    """
    from spoolq.stack import up as stack

    if as_json and not argv:
        return _list(_place(spool, checkout))
    return stack.control(_place(spool, checkout), argv or ["status"])


def _place(spool: str, checkout: bool) -> "Place":
    from spoolq.stack import place

    if "://" in spool:
        raise failure.Refused(
            f"{entry.shown_url(spool)} is a server's address or a database's; this is for a spool on this machine",
            "Programs can be started one by one with it: spoolq serve, work, console, watch",
        )
    return place.of_checkout(Path.cwd(), spool) if checkout else place.of_spool(Path(spool))


def _shown(path: Path, checkout: bool) -> Path:
    """A path as people would write it, not by the short link."""
    return path.resolve().relative_to(Path.cwd().resolve()) if checkout else path.resolve()


def _list(place: "Place") -> int:
    from dataclasses import asdict

    from spoolq.stack.programs import Programs

    found = Programs(place.socket).all()
    for each in found:
        emit(asdict(each) | {"label": each.label})
    return failure.DONE if found else failure.NOTHING


def _emit(place: "Place", settings: "StackSettings", programs: "list[Program]") -> None:
    """As `_tell`, for machines."""
    from spoolq.stack.programs import addresses

    running = sorted(each.label for each in programs if each.state == "RUNNING")
    urls = {name: url for name, (url, _) in addresses(settings).items() if name in running}
    emit({"event": "healthy", "programs": running, "addresses": urls, "logs": str(place.logs.resolve())})
    sys.stdout.flush()


def _tell(place: "Place", settings: "StackSettings", programs: "list[Program]") -> None:
    """Where everything is, and three things to try."""
    from spoolq.stack.programs import addresses

    running = {each.name for each in programs if each.state == "RUNNING"}
    titles = {"api": "REST API", "ops_console": "operations console", "admin_console": "administration console"}
    spool = _readable(place.spool)
    ctl = "scripts/run.sh" if place.is_checkout else f"spoolq programs --spool {spool} --"
    lines = ["", f"healthy: {len(running)} programs. Ctrl-C stops all of them; {ctl} status shows them.", ""]
    lines += [
        f"  {titles[name]:24}{url}{'/docs' if name == 'api' else ''}"
        for name, (url, _) in addresses(settings).items()
        if name in running
    ]
    api = addresses(settings)["api"][0]
    lines += [
        "",
        "In another terminal, try:",
        "",
        f"  cp /etc/hostname {_readable(place.spool / 'new')}/",
        f"  cat {_readable(place.logs / 'consumer_00.log')}",
        f"  curl --data-binary @/etc/hostname {api}/enqueue",
        "",
    ]
    say("\n".join(lines))
    sys.stdout.flush()


def _readable(path: Path) -> str:
    import shlex

    real, here = path.resolve(), Path.cwd().resolve()
    return shlex.quote(str(real.relative_to(here) if real.is_relative_to(here) else real))
