"""The parameters that many commands share. The words of DESIGN 11: `--spool`, `--queue`, `--json`, ids, filters."""

from typing import Annotated

from spoolq.cli.declare import arguments, flag, option
from spoolq.cli.values import duration, one_of, whole
from spoolq.models import STATES, Filter

DEFAULT_SPOOL = "spool"
DEFAULT_LIMIT = 100

Spool = Annotated[str, option("--spool", "-s", metavar="PATH", env="SPOOLQ_SPOOL", help="The spool's directory.")]
Queue = Annotated[
    str | None, option("--queue", "-q", metavar="NAME", env="SPOOLQ_QUEUE", help='The queue; "default" unless given.')
]
OnlyQueue = Annotated[
    str | None,
    option("--queue", "-q", metavar="NAME", env="SPOOLQ_QUEUE", help="Only this queue; all of the spool unless given."),
]
Json = Annotated[bool, flag("--json", help="For machines: one JSON object a line, errors too.")]
Yes = Annotated[bool, flag("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, flag("--dry-run", "-n", help="Only say what would be done.")]

Ids = Annotated[
    list[str], arguments("ID...", help="Message ids; - reads them from standard input, the first word a line.")
]
Receipts = Annotated[
    list[str], arguments("RECEIPT...", help="Receipts; - reads them from standard input, the first word a line.")
]

Named = Annotated[str | None, option("--name", help="Only where this is part of the name.")]
Reasoned = Annotated[str | None, option("--reason", help="Only where this is part of the reason.")]
Grouped = Annotated[str | None, option("--group", help="Only this group.")]
MinAge = Annotated[
    float | None,
    option(
        "--min-age",
        metavar="TIME",
        parse=duration,
        help="Only what has been in its state for so long: 90s, 10m, 2h, 7d.",
    ),
]
MaxAge = Annotated[
    float | None,
    option("--max-age", metavar="TIME", parse=duration, help="Only what has been in its state no longer than this."),
]
MinAttempts = Annotated[
    int | None, option("--min-attempts", metavar="N", parse=whole, help="Only after so many deliveries.")
]
Limit = Annotated[int, option("--limit", "-l", metavar="N", parse=whole, help="At most so many.")]
Cursor = Annotated[str | None, option("--cursor", help="Go on where the last page ended; it says where.")]
Everything = Annotated[bool, flag("--all", "-a", help="Every page, not only the first.")]

read_state = one_of(*STATES)


def where(
    *,
    name: str | None = None,
    reason: str | None = None,
    group: str | None = None,
    min_age_s: float | None = None,
    max_age_s: float | None = None,
    min_attempts: int | None = None,
) -> Filter | None:
    """The filter that these options make; None when none was given."""
    made = Filter(
        name=name, reason=reason, group=group, min_age_s=min_age_s, max_age_s=max_age_s, min_attempts=min_attempts
    )
    return None if made == Filter() else made
