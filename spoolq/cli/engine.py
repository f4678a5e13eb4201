"""The database of an engine: what spoolq needs in it is made once, and brought up to date after an upgrade."""

from typing import Annotated

from spoolq import queue as entry
from spoolq.cli import failure
from spoolq.cli.declare import argument, command
from spoolq.cli.options import Json
from spoolq.cli.output import outcome

Dsn = Annotated[str, argument("DSN", help="The database: postgresql://user@host/db")]


@command("spoolq engine init postgresql://spoolq@localhost/queues")
def init(*, dsn: Dsn, as_json: Json = False) -> int:
    """Make the schema "spoolq" and the queue "default" in a PostgreSQL database; nothing where they are there."""
    made = entry.init_engine(dsn)
    place = entry.shown_url(dsn)
    outcome(as_json, {"engine": place, "made": made}, f"{place} {'made' if made else 'is there already'}")
    return failure.DONE


@command("spoolq engine upgrade postgresql://spoolq@localhost/queues")
def upgrade(*, dsn: Dsn, as_json: Json = False) -> int:
    """Bring the schema to this version of spoolq. Stop its clients first: older ones fail from then on."""
    version = entry.upgrade_engine(dsn)
    place = entry.shown_url(dsn)
    outcome(as_json, {"engine": place, "version": version}, f"{place} fits this spoolq now; it had version {version}")
    return failure.DONE
