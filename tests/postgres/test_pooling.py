"""How many connections a program takes, and what a pooler between (pgbouncer) has to leave alone."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from spoolq.errors import StorageError
from tests.helpers import needs, wait_for
from tests.postgres_server import as_user, free_port

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture
def most(dsn):
    """`most("name")`: the most connections at once, so far, of those who call themselves that."""
    found: dict[str, int] = {}
    ending = threading.Event()

    def look() -> None:
        sql = "SELECT application_name, count(*) FROM pg_stat_activity WHERE application_name <> '' GROUP BY 1"
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not ending.wait(0.01):
                for name, count in connection.execute(sql).fetchall():
                    found[name] = max(found.get(name, 0), count)

    looking = threading.Thread(target=look)
    looking.start()
    yield lambda name: found.get(name, 0)
    ending.set()
    looking.join()


@pytest.mark.parametrize(("allowed", "expected"), [("8", 9), ("2", 3)])
def test_many_threads_share_a_queue_objects_connections(open_queue, dsn, most, allowed, expected):
    """As many as the URL says, and one on which those who wait are told."""
    queue = open_queue(url=f"{dsn}?application_name=shared&connections={allowed}")

    def use() -> None:
        for _ in range(20):
            queue.enqueue(b"x")
            message = queue.dequeue(wait_s=1)
            if message is not None:
                message.ack()

    threads = [threading.Thread(target=use) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 < most("shared") <= expected


def test_a_worker_takes_one_for_each_slot_and_one_more(queue, dsn, environ, most):
    """Whatever its commands do."""
    url = f"{dsn}?application_name=worker"
    worker = subprocess.Popen([sys.executable, "-m", "spoolq", "work", "-s", url, "-c", "3", "--", "true"], env=environ)
    try:
        wait_for(lambda: most("worker") >= 2, 30)
        queue.enqueue_many([b"x"] * 30)
        wait_for(lambda: queue.stats().done == 30, 30)
    finally:
        worker.terminate()
        worker.wait(30)
    assert most("worker") <= 4


@pytest.fixture
def pooler(postgres, tmp_path_factory) -> Iterator:
    """`pooler("session")`: the URL of the database behind a pgbouncer of the test's own."""
    needs(PGBOUNCER is not None, "pgbouncer")
    started: list[subprocess.Popen[bytes]] = []

    def start(mode: str) -> str:
        port = free_port()
        settings = postgres.home / f"pgbouncer-{mode}.ini"
        settings.write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={postgres.port} user=spoolq\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {mode}\n"
        )
        settings.chmod(0o644)
        command = [*as_user(), str(PGBOUNCER), "-q", str(settings)]
        started.append(subprocess.Popen(command, cwd=postgres.home, stderr=subprocess.DEVNULL))
        url = f"postgresql://spoolq@127.0.0.1:{port}/postgres"
        wait_for(lambda: started[-1].poll() is None and _answers(url), 20)
        return url

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_pooler_of_sessions_changes_nothing(open_queue, queue, pooler):
    """Who waits is woken at once through it."""
    there = open_queue(url=pooler("session"))
    for _ in range(20):  # past where statements are prepared
        there.enqueue(b"x")
        there.dequeue().ack()
    found = []
    waiting = threading.Thread(target=lambda: found.append((there.dequeue(wait_s=20), time.monotonic())))
    waiting.start()
    wait_for(lambda: there.listener._listeners)
    time.sleep(0.3)  # until it waits: nothing shows that from outside
    sent_s = time.monotonic()
    queue.enqueue(b"wake up")
    waiting.join(20)
    assert found[0][1] - sent_s < 0.3
    found[0][0].ack()


def test_a_pooler_of_transactions_is_refused_by_what_it_breaks(open_queue, pooler):
    """What one session has prepared is not there in the next: said in PostgreSQL's words."""
    there = open_queue(url=pooler("transaction"))
    errors = []

    def use() -> None:
        try:
            for _ in range(50):
                there.enqueue(b"x")
        except StorageError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    assert all("prepared statement" in error for error in errors)
