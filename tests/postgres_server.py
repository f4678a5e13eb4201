"""A PostgreSQL of the tests' own: made by initdb in a directory of theirs, on a free port, as nobody special.

Never a server that somebody else runs. It dies with the process that started it. Syncs nothing: no test here can tell.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg

from tests.helpers import needs, wait_for

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum_naptime=5s", "max_connections=200")


def binaries() -> Path | None:
    """Where initdb and postgres are, the newest of several; they are in no PATH on Debian."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    places = [path for pattern in _PLACES for path in sorted(Path("/").glob(pattern.lstrip("/")))]
    return next((path for path in reversed(places) if (path / "initdb").exists()), None)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def as_user() -> Sequence[str]:
    """What to put before a command that refuses to run as root; and so that it ends with whoever started it."""
    command = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() != 0:
        return command if shutil.which("setpriv") else ()
    return [*command, f"--reuid={_user()}", f"--regid={_user()}", "--clear-groups"]


def _user() -> str:
    return "postgres" if Path("/etc/passwd").read_text().find("\npostgres:") >= 0 else "nobody"


class Server:
    """One server. settings: for its command line. addresses: where it listens, and lets in the four beside each."""

    def __init__(
        self,
        home: Path,
        settings: Sequence[str] = _FAST,
        *,
        port: int | None = None,
        addresses: Sequence[str] = ("127.0.0.1",),
    ) -> None:
        self.home = home
        self.data = home / "data"
        self.port = port or free_port()
        self.settings = settings
        self.addresses = addresses
        self.process: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str = "postgres", *, address: str | None = None) -> str:
        return f"postgresql://spoolq@{address or self.addresses[0]}:{self.port}/{database}"

    def init(self) -> None:
        options = ("-U", "spoolq", "-E", "UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync")
        self.run("initdb", "-D", self.data, *options)
        with open(self.data / "pg_hba.conf", "a") as rules:
            rules.writelines(f"host all all {address}/30 trust\n" for address in self.addresses)

    def run(self, command: str, *arguments: str | Path) -> None:
        subprocess.run(
            [*as_user(), str(_bin() / command), *map(str, arguments)], cwd=self.home, check=True, capture_output=True
        )

    def run_plain(self, command: str, *arguments: str | Path) -> None:
        """A program that is not PostgreSQL's, as its user."""
        subprocess.run([*as_user(), command, *map(str, arguments)], cwd=self.home, check=True, capture_output=True)

    def start(self) -> None:
        options = [word for each in self.settings for word in ("-c", each)]
        with open(self.home / "log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*as_user(), str(_bin() / "postgres"), "-D", str(self.data), "-p", str(self.port)),
                    *("-c", f"listen_addresses={','.join(self.addresses)}", "-k", "", *options),
                ],
                cwd=self.home,
                stdout=log,
                stderr=log,
            )
        wait_for(self.is_up, 30)

    def is_up(self) -> bool:
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            assert self.process is not None
            assert self.process.poll() is None, (self.home / "log").read_text()
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: in order, at once. SIGQUIT: as a crash."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None


def _bin() -> Path:
    found = binaries()
    assert found is not None
    return found


@contextlib.contextmanager
def home_for_a_server() -> Iterator[Path]:
    """A directory that the server's user owns; in memory where that is possible."""
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="spoolq-pg-", dir=memory if memory.is_dir() else None))
    if os.geteuid() == 0:
        shutil.chown(home, _user(), _user())
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def running(addresses: Sequence[str] = ("127.0.0.1",)) -> Iterator[Server]:
    """A server with the schema in its database "postgres"; skips, or fails under CI, where there is no PostgreSQL."""
    from spoolq.postgres import init

    needs(binaries() is not None, "PostgreSQL's initdb (apt-get install postgresql)")
    with home_for_a_server() as home:
        server = Server(home, addresses=addresses)
        server.init()
        server.start()
        try:
            init(server.dsn())
            yield server
        finally:
            server.stop()
