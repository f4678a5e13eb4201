"""`spoolq relay` carries messages from one queue to another: the local spool as an outbox."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from spoolq import queue as entry
from spoolq.cli import failure, logs
from spoolq.cli.declare import argument, command, flag, option
from spoolq.cli.options import Json
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
    source: Annotated[str, argument("SOURCE", help="The queue to take from: spool?queue=NAME, or a URL.")],
    target: Annotated[str, argument("TARGET", help="The queue to put into; it remembers keys for 7 days.")],
    batch: Annotated[int, option("--batch", "-b", metavar="N", parse=whole, help="At most so many in flight.")] = 100,
    rate: Annotated[float | None, option("--rate", metavar="N", parse=number, help="At most so many a second.")] = None,
    drain: Annotated[bool, flag("--drain", help="End when nothing is ready.")] = False,
    metrics: Annotated[
        str | None, option("--metrics", metavar="FILE", help="Keep its figures there, for Prometheus's node exporter.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Carry messages to another queue until TERM or Ctrl-C: each arrives, once, and in order within a group.

    While the target is away they wait, and no attempt is counted. What it refuses goes to the dead letters.
    """
    from spoolq.relay import Relay

    logs.begin("info")

    def told(figures: "Figures") -> None:
        if metrics is not None:
            _write(Path(metrics), figures, entry.shown_url(target))

    with entry.open_queue(source) as here, entry.open_queue(target) as there, stopping() as stop:
        done = Relay(here, there, batch=batch, rate=rate, stop=stop, told=told).run(drain=drain)
    fields = {"sent": done.sent, "refused": done.refused, "outages": done.outages}
    outcome(as_json, fields, f"{counted(done.sent, 'message')} sent, {done.refused} refused")
    return failure.DONE


def _write(path: Path, figures: "Figures", target: str) -> None:
    """As a whole, by a rename: whoever reads it sees no half."""
    label = target.replace("\\", r"\\").replace('"', r"\"")
    values = {
        "sent_total": figures.sent,
        "refused_total": figures.refused,
        "outages_total": figures.outages,
        "target_away": int(figures.is_away),
        "backlog": figures.backlog,
        "lag_seconds": round(figures.lag_s, 3),
    }
    text = "".join(f'spoolq_relay_{name}{{target="{label}"}} {value}\n' for name, value in values.items())
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    aside.replace(path)
