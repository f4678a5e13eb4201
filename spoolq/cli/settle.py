"""What is done with a receipt: ack, requeue, release, extend, bury."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated

from spoolq.cli import failure, session
from spoolq.cli.declare import argument, command, option
from spoolq.cli.options import DEFAULT_SPOOL, Json, Queue, Receipts, Spool
from spoolq.cli.output import emit, outcome
from spoolq.cli.values import duration

if TYPE_CHECKING:
    from spoolq import interfaces

_BATCH = 256


@command("""
    spoolq ack "$receipt"
    spoolq ack - < receipts
""")
def ack(*, receipts: Receipts, spool: Spool = DEFAULT_SPOOL, queue: Queue = None, as_json: Json = False) -> int:
    """Processed: the message moves to done.

    Exit status 4 when a claim had ended; then somebody else has, or had, the message.
    """
    status = failure.DONE
    with session.opened(spool, queue) as source:
        given = session.given(receipts)
        while batch := list(islice(given, _BATCH)):
            status = _ack_batch(source, batch, as_json) or status
    return status


def _ack_batch(source: "interfaces.Queue", receipts: list[str], as_json: bool) -> int:
    """Acknowledge many in one transaction, or, where that is refused, one by one, to say which is wrong."""
    try:
        lost = set(source.acknowledge_many(receipts)) if len(receipts) > 1 else set(receipts)
    except ValueError:
        lost = set(receipts)

    def acknowledge(receipt: str) -> None:
        if receipt in lost:
            source.acknowledge(receipt)
        if as_json:
            emit({"receipt": receipt, "state": "done"})

    return failure.each(receipts, acknowledge, as_json=as_json)


@command("""
    spoolq requeue "$receipt" --reason "mail server is down"
    spoolq requeue "$receipt" --delay 10m
""")
def requeue(
    *,
    receipts: Receipts,
    delay_s: Annotated[
        float | None,
        option(
            "--delay", "-d", metavar="TIME", parse=duration, help="Deliver again after this; else as the queue says."
        ),
    ] = None,
    reason: Annotated[str, option("--reason", "-r", help="Why, for the history.")] = "",
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Failed: deliver it again later, the attempt counted. Prints the state it is in now.

    After the queue's max_attempts that is dead.
    """
    with session.opened(spool, queue) as source:

        def give_back(receipt: str) -> None:
            state = source.requeue(receipt, delay_s=delay_s, reason=reason)
            outcome(as_json, {"receipt": receipt, "state": state}, state)

        return failure.each(session.given(receipts), give_back, as_json=as_json)


@command('spoolq release "$receipt"')
def release(*, receipts: Receipts, spool: Spool = DEFAULT_SPOOL, queue: Queue = None, as_json: Json = False) -> int:
    """Give it back untouched: deliverable at once, the attempt not counted."""

    def give_back(source: "interfaces.Queue", receipt: str) -> None:
        source.release(receipt)

    return session.to_each("receipt", receipts, give_back, (spool, queue), as_json, state="ready")


@command('spoolq extend "$receipt" 5m')
def extend(
    *,
    receipt: Annotated[str, argument("RECEIPT", help="The receipt that get gave; - reads it from standard input.")],
    lease_s: Annotated[float, argument("TIME", parse=duration, help="From now on: 60, 90s, 10m.")],
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """More time: the claim now ends so long from now."""

    def prolong(source: "interfaces.Queue", one: str) -> None:
        source.extend(one, lease_s)

    return session.to_each("receipt", [receipt], prolong, (spool, queue), as_json, state="claimed", lease_s=lease_s)


@command('spoolq bury "$receipt" --reason "not an image"')
def bury(
    *,
    receipts: Receipts,
    reason: Annotated[str, option("--reason", "-r", help="Why, for whoever looks at it.")] = "buried by hand",
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Give up on it: the message moves to dead, where a person finds it."""

    def give_up(source: "interfaces.Queue", receipt: str) -> None:
        source.move_to_dead_letter_queue(receipt, reason)

    return session.to_each("receipt", receipts, give_up, (spool, queue), as_json, state="dead", reason=reason)
