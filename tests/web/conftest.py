"""Servers for the tests of the REST API: in a thread of this process, or, where it is killed, in one of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from spoolq.web.app import create_app
from tests.helpers import LIMIT_S, wait_for
from tests.http_server import AppServer

ROOT = Path(__file__).parents[2]


class Api:
    """A server of a spool, and a client of it."""

    def __init__(self, spool: Path, port: int) -> None:
        self.spool = spool
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=LIMIT_S)

    def enqueue(self, body: bytes = b"x", **parameters: Any) -> str:
        """The id."""
        answer = self.http.post("/enqueue", params=parameters, content=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def dequeue(self, **parameters: Any) -> dict[str, Any]:
        """The envelope; {} for nothing."""
        answer = self.http.get("/dequeue", params=parameters)
        assert answer.status_code in (200, 204), answer.text
        return dict(answer.json()) if answer.status_code == 200 else {}

    def stats(self, queue: str = "default") -> dict[str, Any]:
        """As JSON."""
        return dict(self.http.get(f"/queues/{queue}/stats").json())

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S)

    def raw(self, request: bytes) -> bytes:
        """What a server answers to these bytes until it closes."""
        with self.connect() as connection:
            connection.sendall(request)
            pieces = []
            while piece := connection.recv(65536):
                pieces.append(piece)
            return b"".join(pieces)


@pytest.fixture(scope="session")
def app_servers() -> Iterator[list[AppServer]]:
    """The servers of this session; one, and one more where a test wants another beside it."""
    made: list[AppServer] = []
    yield made
    for each in made:
        each.close()


@pytest.fixture
def serve(spool: Path, app_servers: list[AppServer]) -> Iterator[Callable[..., Api]]:
    """`serve(**options of create_app)`: a server of `spool` in this process."""
    used = 0
    with ExitStack() as stack:

        def start(**options: Any) -> Api:
            nonlocal used
            if used == len(app_servers):
                app_servers.append(AppServer())
            server = app_servers[used]
            used += 1
            stack.enter_context(server.serving(lambda: create_app(spool, **options)))
            api = Api(spool, int(server.url.rpartition(":")[2]))
            stack.callback(api.http.close)
            return api

        yield start


@pytest.fixture
def api(serve: Callable[..., Api]) -> Api:
    """A server without tokens."""
    return serve()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process(Api):
    """`spoolq serve` as a process."""

    def __init__(self, spool: Path, *flags: str, log: Path) -> None:
        super().__init__(spool, free_port())
        self.log = log
        self._flags = flags
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "spoolq", "serve", "--spool", str(self.spool), "--port", str(self.port)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*command, *self._flags], stderr=log, env=environ)
        wait_for(self.answers, 30.0)

    def answers(self) -> bool:
        """Whether it does."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/healthz", timeout=1).status_code == 200
        except httpx.TransportError:
            return False

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(LIMIT_S * 3)


@pytest.fixture
def process(spool: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """`process(*flags)`: a server process of `spool`."""
    made: list[Process] = []

    def start(*flags: str) -> Process:
        made.append(Process(spool, *flags, log=tmp_path / "serve.log"))
        return made[-1]

    yield start
    for each in made:
        each.end(signal.SIGKILL)
        each.http.close()
