"""`spoolq console`: the consoles in the browser. What they show is in docs/consoles.md."""

from typing import Annotated

from spoolq.cli import output
from spoolq.cli.declare import Command, command, option
from spoolq.cli.options import DEFAULT_SPOOL, Json, Spool
from spoolq.cli.values import whole
from spoolq.console import launch

HOST_HELP = "The address to listen on; any but this machine's own needs SPOOLQ_CONSOLE_TOKEN."
Host = Annotated[str, option("--host", metavar="ADDRESS", env="SPOOLQ_CONSOLE_HOST", help=HOST_HELP)]
MaxUpload = Annotated[
    int, option("--max-upload-mb", metavar="N", parse=whole, help="The largest file that can be dragged in, in MB.")
]


def _console(kind: launch.Kind, examples: str, doc: str) -> Command:
    """The command of one of the two: they differ in their port, and in what they say."""
    variable = f"SPOOLQ_{kind.upper()}_PORT"

    def start(
        *,
        host: Host = launch.DEFAULT_HOST,
        port: Annotated[
            int, option("--port", "-p", metavar="N", parse=whole, env=variable, help="The port.")
        ] = launch.DEFAULT_PORTS[kind],
        max_upload_mb: MaxUpload = launch.DEFAULT_UPLOAD_MB,
        spool: Spool = DEFAULT_SPOOL,
        as_json: Json = False,
    ) -> None:
        _start(kind, host=host, port=port, max_upload_mb=max_upload_mb, spool=spool, as_json=as_json)

    start.__name__ = start.__qualname__ = kind
    start.__doc__ = doc
    return command(examples)(start)


def _start(kind: launch.Kind, *, host: str, port: int, max_upload_mb: int, spool: str, as_json: bool) -> None:
    if not 1 <= port <= 65_535:
        raise ValueError(f"--port must be 1 to 65535, not {port}")
    if not 1 <= max_upload_mb <= 10_000:
        raise ValueError(f"--max-upload-mb must be 1 to 10000, not {max_upload_mb}")
    if as_json:
        output.emit({"event": "serving", "host": host, "port": port})
    launch.launch(kind, spool=spool, host=host, port=port, max_upload_mb=max_upload_mb)


ops = _console(
    "ops",
    """
    spoolq console ops
    spoolq console ops --spool http://127.0.0.1:8000 --port 8601
    """,
    "Work with messages in the browser: send, take, look, redrive. The spool may be a server's URL.",
)
admin = _console(
    "admin",
    """
    spoolq console admin
    """,
    "Look after queues in the browser: numbers over time, settings, health, cleanup. The spool may be a URL.",
)
