"""`spoolq relay` carries messages from one queue to another: the local spool as an outbox."""

from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs

from spoolq import queue as entry
from spoolq.cli import failure, logs
from spoolq.cli.declare import argument, command, flag, option
from spoolq.cli.options import DEFAULT_SPOOL, Json
from spoolq.cli.output import outcome
from spoolq.cli.stopping import stopping
from spoolq.cli.text import counted
from spoolq.cli.values import number, whole

if TYPE_CHECKING:
    from spoolq.relay import Figures


@command("""
    spoolq relay spool "postgresql://spoolq@localhost/queues?queue=emails"
    spoolq relay "spool?queue=emails" http://example.org:8000/queues/emails --rate 100
""")
def relay(
    *,
    source: Annotated[
        str | None, argument("SOURCE", help="The queue to take from: spool?queue=NAME, or a URL.")
    ] = None,
    target: Annotated[
        str | None, argument("TARGET", help="The queue to put into; it remembers keys for 7 days.")
    ] = None,
    batch: Annotated[int, option("--batch", "-b", metavar="N", parse=whole, help="At most so many in flight.")] = 100,
    rate: Annotated[float | None, option("--rate", metavar="N", parse=number, help="At most so many a second.")] = None,
    drain: Annotated[bool, flag("--drain", help="End when nothing is ready.")] = False,
    metrics: Annotated[
        str | None, option("--metrics", metavar="FILE", help="Keep its figures there, for Prometheus's node exporter.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Carry messages to another queue until TERM or Ctrl-C: each arrives, once, and in order within a group.

    While the target is away they wait, and no attempt is counted. What it refuses goes to the dead letters. Without
    SOURCE and TARGET these are SPOOLQ_RELAY_SOURCE and SPOOLQ_RELAY_TARGET.
    """
    from spoolq.relay import Relay, reports

    source, target, rate = _asked(source, target, rate)
    logs.begin("info")
    if _is_same(source, target):
        raise ValueError(f"{entry.shown_url(source)} is both SOURCE and TARGET: its messages would go round for ever")
    with entry.open_queue(source) as here, stopping() as stop:
        shown = entry.shown_url(target)
        reporter = reports.Reporter(reports.directory_for(source, environ), here.name, shown)

        def told(figures: "Figures") -> None:
            reporter.tell(figures)
            if metrics is not None:
                reports.replace_text(Path(metrics), reports.exposition(here.name, shown, figures))

        carrier = Relay(here, lambda: entry.open_queue(target), batch=batch, rate=rate, stop=stop, told=told)
        try:
            done = carrier.run(drain=drain)
        finally:
            reporter.tell(carrier.figures, ended=True)
    fields = {"sent": done.sent, "refused": done.refused, "outages": done.outages}
    outcome(as_json, fields, f"{counted(done.sent, 'message')} sent, {done.refused} refused")
    return failure.DONE


def _asked(source: str | None, target: str | None, rate: float | None) -> tuple[str, str, float | None]:
    """What was given, else what the settings say."""
    if source is not None and target is not None:
        return source, target, rate
    from spoolq.stack.settings import load

    settings = load(environ)
    target = target or settings.relay_target
    if not target:
        hint = "spoolq relay SOURCE TARGET, or set SPOOLQ_RELAY_TARGET; spoolq relay --help has examples"
        raise failure.Refused("a relay needs to be told where messages go", hint)
    if source is not None:
        hint = "Give TARGET too, or set SPOOLQ_RELAY_SOURCE instead; spoolq relay --help has examples"
        raise failure.Refused("SPOOLQ_RELAY_TARGET counts only where no SOURCE is given", hint)
    spool = environ.get("SPOOLQ_SPOOL") or DEFAULT_SPOOL
    return settings.relay_source or spool, target, rate if rate is not None else settings.relay_rate or None


def _is_same(source: str, target: str) -> bool:
    """Whether both plainly name one queue. What is named in two ways, such as by two hosts, is not noticed."""
    return _named(source) == _named(target)


def _named(url: str) -> tuple[str, str]:
    place, _, query = url.partition("?")
    if "://" not in url:
        place = str(Path(place).resolve())
    queue = parse_qs(query).get("queue", [entry.DEFAULT_QUEUE])[-1]
    return place.rstrip("/"), queue
