"""Three PostgreSQL nodes with quorum commit, and the little orchestrator that promotes a standby when the primary dies.

It fences before it promotes: a primary counts as lost once every one of its processes is killed, and comes back only as
a standby, from a new base backup.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.helpers import needs, wait_for
from tests.postgres_server import Server, as_user, binaries, home_for_a_server

_SETTINGS = (
    *("fsync=off", "full_page_writes=off", "synchronous_commit=on", "max_connections=60", "shared_buffers=32MB"),
    *("wal_keep_size=256MB", "hot_standby=on", "synchronous_standby_names=ANY 1 (n0, n1, n2)"),
    # A standby asks again at once for a primary that was not there yet.
    *("wal_retrieve_retry_interval=200ms", "wal_receiver_timeout=5s"),
)
# fsync=off is fair: a killed process loses nothing that it has written, and what is tested is what the others have.


class Cluster:
    """Nodes n0, n1, n2; one of them is `primary`."""

    def __init__(self, home: Path) -> None:
        self.nodes: list[Server] = []
        for number in range(3):
            place = home / f"n{number}"
            place.mkdir()
            if os.geteuid() == 0:
                shutil.chown(place, home.owner(), home.group())
            self.nodes.append(Server(place, _SETTINGS))
        self.primary = self.nodes[0]
        self.primary.init()
        self.primary.start()
        for node in self.nodes[1:]:
            self._join(node)
        wait_for(self._has_two_standbys, 30)

    def url(self) -> str:
        """All hosts; the one that can be written to is used."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://spoolq@{hosts}/postgres"

    def kill_primary(self) -> Server:
        """SIGKILL to every process of it, none of which can come back: what fencing means here."""
        lost = self.primary
        assert lost.process is not None
        pid = lost.process.pid
        os.kill(pid, signal.SIGSTOP)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        lost.process.kill()
        lost.process.wait(30)
        lost.process = None
        return lost

    def fail_over(self) -> None:
        """Kill the primary, promote the standby that has most, let the other follow it, bring the lost one back."""
        lost = self.kill_primary()
        standbys = [node for node in self.nodes if node is not lost]
        chosen, other = sorted(standbys, key=_received, reverse=True)
        with psycopg.connect(chosen.dsn(), autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote(true, 60)").fetchone() == (True,)
        self.primary = chosen
        other.stop()
        self._follow(other)
        shutil.rmtree(lost.data)
        self._join(lost)
        wait_for(self._has_two_standbys, 60)

    def stop(self) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.stop(signal.SIGQUIT)

    def _join(self, node: Server) -> None:
        source = ("-h", "127.0.0.1", "-p", str(self.primary.port), "-U", "spoolq")
        node.run("pg_basebackup", *source, "-D", node.data, "-X", "stream", "-c", "fast", "--no-sync")
        self._follow(node)

    def _follow(self, node: Server) -> None:
        name = f"n{self.nodes.index(node)}"
        at = f"host=127.0.0.1 port={self.primary.port} user=spoolq application_name={name}"
        node.settings = (*_SETTINGS, f"primary_conninfo={at}")
        node.run_plain("touch", node.data / "standby.signal")
        node.start()

    def _has_two_standbys(self) -> bool:
        with psycopg.connect(self.primary.dsn()) as connection:
            rows = connection.execute("SELECT state, sync_state FROM pg_stat_replication").fetchall()
        return rows == [("streaming", "quorum")] * 2


def _received(node: Server) -> int:
    with psycopg.connect(node.dsn()) as connection:
        row = connection.execute("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return int(row[0])


@contextlib.contextmanager
def three_nodes() -> Iterator[Cluster]:
    """A cluster of the test's own."""
    needs(binaries() is not None, "PostgreSQL's initdb (apt-get install postgresql)")
    assert as_user() or os.geteuid() != 0
    with home_for_a_server() as home:
        cluster = Cluster(home)
        try:
            yield cluster
        finally:
            cluster.stop()
