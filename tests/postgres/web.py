"""`spoolq serve` before a database, and asking it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.helpers import wait_for
from tests.postgres_server import free_port


def ask(url: str, data: bytes | None = None, method: str | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=30) as answer:
        return answer.read()


@contextlib.contextmanager
def serving(environ: Mapping[str, str], home: Path) -> Iterator[tuple[str, int]]:
    """A server of the test's own: its URL and its process."""
    port = free_port()
    with open(home / "log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "spoolq", "serve", "--port", str(port)],
            env=environ, cwd=home, stdout=log, stderr=log,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def answers() -> bytes:
        assert server.poll() is None, (home / "log").read_text()
        try:
            return ask(f"{url}/readyz")
        except OSError:
            return b""

    wait_for(answers, 30)
    yield url, server.pid
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0, (home / "log").read_text()
