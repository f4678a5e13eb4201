"""`spoolq put`: messages from standard input, its lines, or files."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from spoolq.cli import failure, session
from spoolq.cli.declare import arguments, command, flag, option, options
from spoolq.cli.options import DEFAULT_SPOOL, Json, Queue, Spool
from spoolq.cli.output import emit, note, say
from spoolq.cli.values import duration, instant, pair, whole
from spoolq.models import DEFAULT_PRIORITY, NewMessage

if TYPE_CHECKING:
    from spoolq import interfaces

_BATCH = 256
_CHUNK_BYTES = 65536


@command("""
    echo hello | spoolq put
    spoolq put report.csv photo.jpg --priority 9
    spoolq put order.json --delay 10m --header source=shop --dedup-key order-17
    seq 9 | spoolq put --each-line
""")
def put(
    *,
    files: Annotated[
        list[str], arguments("FILE...", help="Files to enqueue; none, or -, reads standard input to its end.")
    ] = [],  # noqa: B006 never changed
    priority: Annotated[
        int, option("--priority", "-p", metavar="0-9", parse=whole, help="9 is delivered first.")
    ] = DEFAULT_PRIORITY,
    delay_s: Annotated[
        float,
        option("--delay", "-d", metavar="TIME", parse=duration, help="Not before so long from now: 90s, 10m, 2h."),
    ] = 0,
    at_ms: Annotated[
        int | None, option("--at", metavar="ISO-TIME", parse=instant, help="Not before then: 2031-05-01T08:00:00Z.")
    ] = None,
    headers: Annotated[
        list[tuple[str, str]],
        options("--header", "-H", metavar="KEY=VALUE", parse=pair, help="Comes with the message."),
    ] = [],  # noqa: B006 never changed
    content_type: Annotated[str | None, option("--content-type", help="What the body is: application/json.")] = None,
    name: Annotated[str | None, option("--name", help="A name for people and commands; a file has its own.")] = None,
    dedup_key: Annotated[
        str | None, option("--dedup-key", help="Of messages with the same key, only the first is enqueued.")
    ] = None,
    group: Annotated[
        str | None, option("--group", help="A group's messages are delivered one at a time, in order.")
    ] = None,
    ttl_s: Annotated[
        float | None,
        option("--ttl", metavar="TIME", parse=duration, help="Expires if not delivered by then; 0 is never."),
    ] = None,
    move: Annotated[bool, flag("--move", help="Take the file itself instead of a copy.")] = False,
    each_line: Annotated[bool, flag("--each-line", help="Each line of standard input is a message.")] = False,
    spool: Spool = DEFAULT_SPOOL,
    queue: Queue = None,
    as_json: Json = False,
) -> int:
    """Put messages in the queue, and print the id of each."""
    _check(files, name=name, dedup_key=dedup_key, move=move, each_line=each_line)
    what: dict[str, Any] = {
        "priority": priority,
        "delay_s": delay_s if at_ms is None else _until(at_ms, delay_s),
        "headers": dict(headers),
        "content_type": content_type,
        "name": name,
        "dedup_key": dedup_key,
        "group": group,
        "ttl_s": ttl_s,
    }

    with session.opened(spool, queue, create=True) as target:

        def tell(message_id: str) -> None:
            if as_json:
                emit({"id": message_id, "queue": target.name})
            else:
                say(message_id)

        def put_one(file: str) -> None:
            if file == "-":
                tell(target.enqueue(_standard_input(), **what))
            else:
                tell(target.enqueue_file(file, move=move, **what))

        if each_line:
            for message_id in _put_lines(target, what):
                tell(message_id)
            return failure.DONE
        return failure.each(files or ["-"], put_one, as_json=as_json, also=(failure.UnsafeFile, failure.StorageError))


def _check(files: list[str], *, name: str | None, dedup_key: str | None, move: bool, each_line: bool) -> None:
    if each_line and files:
        raise ValueError("--each-line reads standard input: give no FILE with it")
    if move and (not files or "-" in files):
        raise ValueError("--move takes files: there is none to move in standard input")
    if len(files) > 1 or each_line:
        for option_name, value in (("--dedup-key", dedup_key), ("--name", name)):
            if value is not None:
                raise ValueError(f"{option_name} {value!r} is for one message, and there may be several")


def _until(at_ms: int, delay_s: float) -> float:
    from spoolq.clock import Clock

    if delay_s:
        raise ValueError("--delay and --at exclude each other")
    return max(0.0, (at_ms - Clock().wall_ms()) / 1000)


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise ValueError("standard input is closed: give FILE, or < /dev/null for an empty message")
    if sys.stdin.isatty():
        note("spoolq: reading the message from the terminal; Ctrl-D ends it")
    return sys.stdin.buffer


def _put_lines(target: "interfaces.Queue", what: dict[str, Any]) -> Iterator[str]:
    """Enqueue each line; all that have arrived together, together, so that a slow writer's are not kept waiting."""
    for lines in _lines(_standard_input()):
        for at in range(0, len(lines), _BATCH):
            yield from target.enqueue_many(NewMessage(body=line, **what) for line in lines[at : at + _BATCH])
        sys.stdout.flush()


def _lines(file: BinaryIO) -> Iterator[list[bytes]]:
    """Lines without their ends, as they arrive."""
    read = getattr(file, "read1", file.read)
    begun: list[bytes] = []
    while chunk := read(_CHUNK_BYTES):
        head, *following = chunk.split(b"\n")
        begun.append(head)
        if following:
            yield [b"".join(begun), *following[:-1]]
            begun = following[-1:]
    if any(begun):
        yield [b"".join(begun)]
