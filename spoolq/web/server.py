"""uvicorn, as this API needs it: our own limits on connections, which it does not have, and several workers.

What a worker process is to do comes by the environment (`SPOOLQ_SERVE`, JSON): uvicorn starts its workers anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from spoolq.web.app import create_app
from spoolq.web.problems import KINDS, MEDIA_TYPE, PREFIX
from spoolq.web.service import Limits

log = logging.getLogger("spoolq.web")

ENVIRONMENT = "SPOOLQ_SERVE"
HEAD_BYTES = 256 * 1024
HEAD_S = 10.0
UNREAD_S = 30.0
UNREAD_BYTES = 16 * 1024 * 1024
"""For how long, and how much of what is left of a body is read, and dropped, once it has been answered: closing at once
would reset the connection, and the client would lose the answer. Somebody who sends without end is stopped."""

IDLE_S = 30


def _refusal(kind: str) -> bytes:
    """An answer to what is not even a request."""
    status, title = KINDS[kind]
    document = json.dumps({"type": PREFIX + kind, "title": title, "status": status}, separators=(",", ":"))
    head = f"HTTP/1.1 {status} {title}\r\ncontent-type: {MEDIA_TYPE}\r\nconnection: close\r\n"
    return f"{head}content-length: {len(document)}\r\n\r\n{document}".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """What `spoolq serve` was asked for. uds: a Unix socket instead of host and port."""

    spool: str
    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    workers: int = 1
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token_needed: bool = False
    max_body_bytes: int = 0
    max_uploads: int = 32
    max_waiters: int = 2000
    max_connections: int = 4000
    grace_s: int = 20
    access_log: bool = True


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with an end to heads that do not end, and to too many connections."""

    max_connections = 4000

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._refused = False
        self._in_head = True
        self._head_bytes = 0
        self._unread_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody connects."""
        if len(self.connections) >= self.max_connections:
            log.warning("connection.refused connections=%d", len(self.connections))
            self._refused = True
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_S, self._head_took_too_long)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._refused:
            return
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Something came."""
        if self._refused or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_S, self._head_took_too_long)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_refusal("headers-too-large"))
            self.transport.close()

    def on_headers_complete(self) -> None:
        """The head of a request is whole."""
        self._in_head = False
        self._stop_timers()
        if self._head_bytes > 2 * HEAD_BYTES:
            self.transport.write(_refusal("headers-too-large"))
            self.transport.close()
            return
        self.scope["spoolq.transport"] = self.transport  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        super().on_body(body)
        if not self.cycle.response_complete:
            return
        self._unread_bytes += len(body)
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(UNREAD_S, self.transport.close)
        if self._unread_bytes > UNREAD_BYTES:
            self.transport.close()

    def on_message_complete(self) -> None:
        """A request is whole; the next thing is a head."""
        self._in_head = True
        self._head_bytes = self._unread_bytes = 0
        self._stop_timers()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP."""
        self.transport.write(_refusal("malformed"))
        self.transport.close()

    def _head_took_too_long(self) -> None:
        self._head_timer = None
        if self._in_head:
            self.transport.close()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._unread_timer = None


def app_of(serve: Serve) -> ASGIApp:
    """The application that was asked for."""
    limits = Limits(max_body_bytes=serve.max_body_bytes, max_uploads=serve.max_uploads, max_waiters=serve.max_waiters)
    own = () if serve.uds is not None else (serve.host,)
    return create_app(
        serve.spool,
        limits=limits,
        hosts=(*own, *serve.hosts),
        origins=serve.origins,
        token_needed=serve.token_needed,
    )


def worker_app() -> ASGIApp:
    """The application of a worker process: as its environment says."""
    asked = json.loads(os.environ[ENVIRONMENT])
    for name in ("hosts", "origins"):
        asked[name] = tuple(asked[name])
    serve = Serve(**asked)
    Protocol.max_connections = serve.max_connections
    _log_to_stderr(access=serve.access_log)
    return app_of(serve)


def run(serve: Serve) -> bool:
    """Serve until TERM or INT; False where it could not begin, which the log says."""
    config = uvicorn.Config(
        "spoolq.web.server:worker_app",
        factory=True,
        host=serve.host,
        port=serve.port,
        uds=serve.uds,
        workers=serve.workers,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=serve.grace_s,
        backlog=4096,
    )
    os.environ[ENVIRONMENT] = json.dumps(asdict(serve))
    _log_to_stderr(access=serve.access_log)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn sends itself the signal again once it has ended, which is to be the end of nothing then.
        signal.signal(number, lambda number, frame: None)
    try:
        if serve.workers == 1:
            _run_alone(config, serve)
        else:
            _run_workers(config)
    except SystemExit as ended:
        return not ended.code
    return True


def _run_alone(config: uvicorn.Config, serve: Serve) -> None:
    listening = [] if serve.uds is None else [_unix_socket(serve.uds)]
    try:
        uvicorn.Server(config).run(sockets=listening or None)
    finally:
        if serve.uds is not None:
            _remove_socket(serve.uds)


def _run_workers(config: uvicorn.Config) -> None:
    """Their counters are joined through files that go with the server."""
    from uvicorn.supervisors import Multiprocess

    directory = tempfile.mkdtemp(prefix="spoolq-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    listening = _unix_socket(config.uds) if config.uds is not None else config.bind_socket()
    try:
        Multiprocess(config, sockets=[listening]).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if config.uds is not None:
            _remove_socket(config.uds)


def _unix_socket(path: str) -> socket.socket:
    """A socket that only its owner may use, from the moment it is there."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    _remove_stale(path)
    before = os.umask(0o177)
    try:
        made.bind(path)
    finally:
        os.umask(before)
    return made


def _remove_stale(path: str) -> None:
    """A socket that nobody listens on any more was left by a server that was killed."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ValueError(f"{path} is there, and is no socket")  # which connect() cannot tell from a dead one
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise ValueError(f"somebody serves on {path} already")


def _remove_socket(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _log_to_stderr(*, access: bool) -> None:
    """Lines with a time; what uvicorn says of each connection is ours to say."""
    config: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "()": _Utc}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": sys.stderr}},
        "loggers": {
            "spoolq": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            "spoolq.access": {"level": "INFO" if access else "WARNING"},
            "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            "uvicorn.access": {"handlers": [], "propagate": False},
            "psycopg.pool": {"level": "CRITICAL"},  # two lines a second while a database is away
        },
    }
    logging.config.dictConfig(config)


class _Utc(logging.Formatter):
    """Times in UTC."""

    def __init__(self, format: str) -> None:
        import time

        super().__init__(format, "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
