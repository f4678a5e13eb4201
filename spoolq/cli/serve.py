"""`spoolq serve`: the REST API, for programs in any language. What it answers is in docs/rest-api.md."""

from typing import Annotated, Any

from spoolq.cli import failure
from spoolq.cli.declare import command, flag, option, options
from spoolq.cli.options import DEFAULT_SPOOL, Json, Spool
from spoolq.cli.output import emit, note
from spoolq.cli.values import duration, whole
from spoolq.errors import NotCapable

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
_PROXY = "Leave out --host, and let a proxy on this machine decide who may ask"
_NO_TOKEN = "Make one first: spoolq token create NAME --scope admin. Or leave out --host"


@command("""
    spoolq serve
    spoolq serve --unix /run/spoolq.sock
    spoolq serve --host 0.0.0.0 --allow-host queue.example.org --workers 2
""")
def serve(
    *,
    host: Annotated[
        str, option("--host", metavar="ADDRESS", env="SPOOLQ_API_HOST", help="The address to listen on.")
    ] = DEFAULT_HOST,
    port: Annotated[
        int, option("--port", "-p", metavar="N", parse=whole, env="SPOOLQ_API_PORT", help="The port.")
    ] = DEFAULT_PORT,
    unix: Annotated[
        str | None, option("--unix", metavar="PATH", help="A Unix socket instead, for this user alone.")
    ] = None,
    workers: Annotated[int, option("--workers", "-w", metavar="N", parse=whole, help="Processes that answer.")] = 1,
    allow_host: Annotated[
        list[str], options("--allow-host", metavar="NAME", help="A further name that it answers to.")
    ] = [],  # noqa: B006 never changed
    allow_origin: Annotated[
        list[str], options("--allow-origin", metavar="ORIGIN", help="A site whose pages may ask: https://example.org.")
    ] = [],  # noqa: B006 never changed
    max_body_bytes: Annotated[
        int, option("--max-body-bytes", metavar="N", parse=whole, help="The largest body; 0 for no limit.")
    ] = 0,
    max_uploads: Annotated[
        int, option("--max-uploads", metavar="N", parse=whole, help="Large uploads at once, a process.")
    ] = 32,
    max_waiters: Annotated[
        int, option("--max-waiters", metavar="N", parse=whole, help="Long polls at once, a process.")
    ] = 2000,
    max_connections: Annotated[
        int, option("--max-connections", metavar="N", parse=whole, help="Connections at once, a process.")
    ] = 4000,
    grace: Annotated[
        float, option("--grace", metavar="TIME", parse=duration, help="For answers under way, when it is stopped.")
    ] = 20.0,
    no_access_log: Annotated[bool, flag("--no-access-log", help="Do not log each request.")] = False,
    spool: Spool = DEFAULT_SPOOL,
    as_json: Json = False,
) -> int:
    """Serve the REST API until TERM or Ctrl-C: on this machine only, unless told otherwise and a token is there."""
    try:
        from spoolq.web import server
    except ModuleNotFoundError as error:
        raise NotCapable(
            f"{error.name} is not installed", op="serve", hint="Install it with: pip install 'spoolq[rest]'"
        ) from error
    from spoolq import queue as entry
    from spoolq.stack.ports import check_free, is_loopback

    entry.open_queue(spool).close()  # make the spool, or say at once why it cannot be used
    is_open = unix is None and not is_loopback(host)
    if is_open:
        _check_token(spool)
    asked: dict[str, Any] = {
        "spool": spool,
        "host": host,
        "port": _positive("--port", port, 65_535, least=0),
        "uds": unix,
        "workers": _positive("--workers", workers, 256),
        "hosts": tuple(allow_host),
        "origins": tuple(allow_origin),
        "token_needed": is_open,
        "max_body_bytes": _positive("--max-body-bytes", max_body_bytes, 2**63 - 1, least=0),
        "max_uploads": _positive("--max-uploads", max_uploads, 1000),
        "max_waiters": _positive("--max-waiters", max_waiters, 1_000_000, least=0),
        "max_connections": _positive("--max-connections", max_connections, 1_000_000),
        "grace_s": round(grace),
        "access_log": not no_access_log,
    }
    if unix is None:
        check_free(host, port, "SPOOLQ_API_PORT, or --port,")
    if as_json:
        emit({"event": "serving", "host": host, "port": port, "unix": unix})
    else:
        note(f"serving {entry.shown_url(spool)} on {unix or f'http://{host}:{port}'}")
    return failure.DONE if server.run(server.Serve(**asked)) else failure.FAILED


def _positive(flag: str, value: int, most: int, *, least: int = 1) -> int:
    if not least <= value <= most:
        raise ValueError(f"{flag} must be {least} to {most}, not {value}")
    return value


def _check_token(spool: str) -> None:
    """Whoever can reach another address than this machine's own must show a token."""
    from spoolq import queue as entry
    from spoolq.tokens import list_tokens

    if entry.is_url(spool):
        raise failure.Refused(
            "listening elsewhere than on this machine needs a token, which only a spool keeps", _PROXY
        )
    if not list_tokens(spool):
        raise failure.Refused("listening elsewhere than on this machine needs a token", _NO_TOKEN)
