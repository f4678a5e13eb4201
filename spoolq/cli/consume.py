"""`spoolq get` takes one message; `spoolq work` runs a command, or a function, for each."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from spoolq.cli import failure, logs, session
from spoolq.cli.declare import argument, command, flag, option, rest
from spoolq.cli.options import DEFAULT_SPOOL, Json, Queue, Spool
from spoolq.cli.output import at_terminal, emit, note
from spoolq.cli.text import safe_lines
from spoolq.cli.values import duration, whole

if TYPE_CHECKING:
    from spoolq.message import Message

_CHUNK_BYTES = 1 << 20

Wait = Annotated[float, option("--wait", "-w", metavar="TIME", parse=duration, help="Wait so long for one: 20, 5m.")]
Lease = Annotated[
    float | None,
    option(
        "--lease", metavar="TIME", parse=duration, help="It comes back if not settled by then; else as the queue says."
    ),
]


@command("""
    receipt=$(spoolq get 2>&1 >body) && spoolq ack "$receipt"
    spoolq get --wait 20 --lease 5m --output body
    spoolq get --json
""")
def get(
    *,
    wait_s: Wait = 0,
    lease_s: Lease = None,
    output: Annotated[str | None, option("--output", "-o", metavar="FILE", help="Write the body there.")] = None,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Take the next message: its body to standard output, its receipt to standard error.

    Settle it with that receipt: ack, requeue, release or bury. Unsettled, it comes back when its lease ends.
    Exit status 3 when there is nothing.
    """
    # Detached: this process ends at once, so its life proves nothing, and the claim lives by time.
    with session.opened(spool, queue, detached=True) as source:
        message = source.dequeue(wait_s=wait_s, lease_s=lease_s)
        if message is None:
            if sys.stderr.isatty():
                note("spoolq: nothing there")
            return failure.NOTHING
        try:
            _hand_over(message, output, as_json)
        except BaseException:
            # Nobody has it: the next consumer shall not wait for the lease to end.
            message.release()
            raise
    return failure.DONE


def _hand_over(message: "Message", output: str | None, as_json: bool) -> None:
    if as_json:
        emit(_as_dict(message) | ({} if output else content(message.body)))
    else:
        note(message.receipt)
    if output:
        with message.open() as body, open(output, "wb") as file:
            copy(body, file)
    elif not as_json:
        with message.open() as body:
            write_body(body)
    sys.stdout.flush()


def _as_dict(message: "Message") -> dict[str, Any]:
    fields = ("id", "receipt", "attempts", "priority", "name", "content_type")
    return {name: getattr(message, name) for name in fields} | {"headers": dict(message.headers)}


def content(body: bytes) -> dict[str, str]:
    """A body for JSON: `body`, or `body_base64` where it is not UTF-8."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        from base64 import b64encode

        return {"body_base64": b64encode(body).decode()}


def write_body(body: BinaryIO) -> None:
    """A body to standard output, byte for byte; at a terminal what would act on it is shown instead."""
    if at_terminal():
        while piece := body.read(_CHUNK_BYTES):
            sys.stdout.write(safe_lines(piece.decode(errors="backslashreplace")))
        return
    sys.stdout.flush()
    copy(body, sys.stdout.buffer)


def copy(source: BinaryIO, target: BinaryIO) -> None:
    """All of one file into another."""
    while piece := source.read(_CHUNK_BYTES):
        target.write(piece)


@command("""
    spoolq work --drain -- sha256sum
    spoolq work -c 4 --timeout 10m --drain -- ./process.sh {}
    spoolq work --once handlers:resize
""")
def work(
    *,
    handler: Annotated[
        str | None, argument("[MODULE:FUNCTION | -- CMD ARGS...]", help="A Python function, or after -- a command.")
    ] = None,
    argv: Annotated[
        list[str] | None, rest("CMD ARGS", help="A command and its arguments; {} is the message's file.")
    ] = None,
    concurrency: Annotated[
        int, option("--concurrency", "-c", metavar="N", parse=whole, help="So many at the same time.")
    ] = 1,
    timeout_s: Annotated[
        float | None,
        option("--timeout", "-t", metavar="TIME", parse=duration, help="Stop a command that takes longer."),
    ] = None,
    grace_s: Annotated[
        float,
        option(
            "--grace",
            metavar="TIME",
            parse=duration,
            env="SPOOLQ_GRACE_S",
            help="From asking to stop until stopping by force.",
        ),
    ] = 30,
    lease_s: Lease = None,
    once: Annotated[bool, flag("--once", help="One message, then leave.")] = False,
    drain: Annotated[bool, flag("--drain", help="Leave when the queue is empty.")] = False,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Run a command, or a Python function, for each message.

    The command gets the body on standard input; {} in its arguments is the message's file, SPOOLQ_ID, SPOOLQ_NAME and
    others are in its environment. Exit status 0 acknowledges; 75 and 111 requeue; 65, 77 and 100 give up on the
    message; anything else requeues, and the attempt counts. TERM finishes what runs, then leaves.
    """
    from spoolq.worker import CommandHandler, Worker, load_handler

    if (handler is None) == (not argv):
        raise ValueError("give one: MODULE:FUNCTION, or -- and a command: spoolq work -- sha256sum")
    if handler is not None and ":" not in handler:
        raise ValueError(f"{handler!r} is not MODULE:FUNCTION; a command comes after --: spoolq work -- {handler}")
    logs.begin("warning")
    run = load_handler(handler) if handler else CommandHandler(argv or [])
    with session.opened(spool, queue, create=True) as source:
        return Worker(
            source,
            run,
            concurrency=concurrency,
            timeout_s=timeout_s,
            grace_s=grace_s,
            lease_s=lease_s,
            once=once,
            drain=drain,
        ).run()
