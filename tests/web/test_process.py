"""`spoolq serve` as a process: killed under load, stopped in order, several workers, sockets, tokens, large bodies."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from spoolq import tokens
from spoolq.spool.queue import SpoolQueue
from spoolq.testing import FakeClock
from tests.helpers import wait_for
from tests.reliability.figures import count, report
from tests.web.conftest import ROOT, Process, free_port
from tests.web.test_waiting import _resident_bytes, poll, waiters

KILLS = count(10, 50)
LARGE_BYTES = 200 * 1024 * 1024


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "spoolq", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=60)


class Load:
    """Clients that enqueue small and large bodies, and wait, until they are stopped; what was confirmed to them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._mutex = threading.Lock()
        self.confirmed: set[str] = set()
        work: list[Callable[[httpx.Client], None]] = [self._small, self._small, self._large, self._take]
        self._threads = [threading.Thread(target=self._run, args=(act,)) for act in work]
        for thread in self._threads:
            thread.start()

    def _run(self, act: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(base_url=self._url, timeout=5) as client:
            while not self._stop.is_set():
                try:
                    act(client)
                except httpx.TransportError:
                    self._stop.wait(0.01)

    def _confirm(self, answer: httpx.Response) -> None:
        if answer.status_code == 201:
            with self._mutex:
                self.confirmed.add(answer.json()["id"])

    def _small(self, client: httpx.Client) -> None:
        self._confirm(client.post("/enqueue", content=b"small"))

    def _large(self, client: httpx.Client) -> None:
        def pieces() -> Iterator[bytes]:
            for _ in range(30):
                yield b"x" * 10_000

        self._confirm(client.post("/enqueue", content=pieces()))

    def _take(self, client: httpx.Client) -> None:
        client.get("/dequeue", params={"wait_s": 1, "lease_s": 0.2})

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * KILLS)
def test_kill_the_server_under_load(process: Callable[..., Process], spool: Path):
    """Every confirmed message is there, every claim comes back after its lease, and what is left over is swept."""
    server = process("--no-access-log")
    load = Load(server.url)
    try:
        for _ in range(KILLS):
            before = len(load.confirmed)
            wait_for(lambda before=before: len(load.confirmed) > before + 5, 30)  # type: ignore[misc]
            server.end(signal.SIGKILL)
            server.start()
    finally:
        load.stop()
    server.end()
    with SpoolQueue.open(spool) as queue:
        wait_for(lambda: queue.maintain() is not None and queue.stats().claimed == 0, 20)
        queue.check(fix=True)
        there = set()
        for state in ("ready", "scheduled", "dead"):
            cursor: str | None = None
            while True:
                page = queue.list(state, limit=1000, cursor=cursor)
                there |= {each.id for each in page.messages}
                cursor = page.cursor
                if cursor is None:
                    break
        assert load.confirmed <= there
        report("REST", kills=KILLS, confirmed=len(load.confirmed), lost=len(load.confirmed - there))
    # An upload that was under way leaves a file in tmp/, which nobody holds; it is swept after 36 hours.
    clock = FakeClock()
    clock.advance(37 * 3600)
    with SpoolQueue.open(spool, clock=clock) as queue:
        queue.clean()
    assert list((spool / "tmp").iterdir()) == []


def test_stopping_ends_long_polls_and_finishes_answers(process: Callable[..., Process], spool: Path):
    server = process()
    polls = [poll(server) for _ in range(3)]
    upload = server.connect()
    upload.sendall(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200001\r\n\r\n" + b"x" * 200_000)
    wait_for(lambda: waiters(server) == 3 and list((spool / "tmp").iterdir()))
    server.process.send_signal(signal.SIGTERM)
    for connection in polls:
        assert connection.recv(1000).startswith(b"HTTP/1.1 204 ")
        connection.close()
    upload.sendall(b"x")
    assert upload.recv(1000).startswith(b"HTTP/1.1 201 ")
    upload.close()
    assert server.process.wait(20) in (0, -signal.SIGTERM)
    text = server.log.read_text()
    assert "Traceback" not in text
    assert "path=/dequeue status=204" in text
    with SpoolQueue.open(spool) as queue:
        assert queue.stats().ready == 1


def test_several_workers_serve_one_spool(process: Callable[..., Process], spool: Path):
    server = process("--workers", "2")
    ids: set[str] = set()
    with ThreadPoolExecutor(8) as pool:
        clients = [httpx.Client(base_url=server.url, timeout=20) for _ in range(8)]
        answers = pool.map(lambda client: [client.post("/enqueue", content=b"x") for _ in range(10)], clients)
        for each in answers:
            ids |= {answer.json()["id"] for answer in each}
        assert len(ids) == 80
        taken = pool.map(lambda client: [client.get("/dequeue").json()["id"] for _ in range(10)], clients)
        assert {id for each in taken for id in each} == ids
        asked = {"Request-Id": "once"}
        server.enqueue(b"y")
        assert len({client.get("/dequeue", headers=asked).json()["receipt"] for client in clients}) == 1
        for client in clients:
            client.close()
    texts = []
    for _ in range(4):
        with httpx.Client(base_url=server.url) as client:
            texts.append(client.get("/metrics").text)
    for text in texts:
        assert 'spoolq_messages{queue="default",state="claimed"} 81.0' in text
        assert 'spoolq_http_requests_total{method="POST",status="201"} 81.0' in text
    assert server.end() in (0, -signal.SIGTERM)


def test_a_worker_that_is_killed_is_replaced_and_counts_no_longer(process: Callable[..., Process]):
    server = process("--workers", "2")
    polls = [poll(server) for _ in range(20)]
    wait_for(lambda: waiters(server) == 20)
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    # One is multiprocessing's resource tracker, which serves nothing.
    workers = [int(word) for word in children.read_text().split() if b"spawn_main" in _command(int(word))]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{workers[0]}").exists(), 30)
    wait_for(lambda: waiters(server) == sum(map(_is_open, polls)))
    wait_for(lambda: str(workers[0]) not in children.read_text().split() and len(children.read_text().split()) >= 3, 30)
    for connection in polls:
        connection.close()
    wait_for(lambda: waiters(server) == 0, 30)


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_a_unix_socket_is_its_owners_alone(spool: Path, tmp_path: Path):
    path = tmp_path / "s.sock"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "spoolq", "serve", "--spool", str(spool), "--unix", str(path)]
    for number in (signal.SIGKILL, signal.SIGTERM):  # one that was killed leaves its socket to the next
        with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE) as process:
            try:
                wait_for(lambda: _listens(path), 20)
                with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
                    assert path.stat().st_mode & 0o777 == 0o600
                    assert client.post("/enqueue", content=b"x").status_code == 201
            finally:
                process.send_signal(number)
            process.communicate(timeout=20)
    assert not path.exists()


def test_what_is_no_socket_is_not_made_one(spool: Path, tmp_path: Path):
    """A file, or a link to a socket, where --unix points: it is somebody's."""
    (tmp_path / "file").write_text("mine")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    (tmp_path / "link").symlink_to(tmp_path / "dead")
    for name in ("file", "link"):
        ran = run("serve", "--spool", str(spool), "--unix", str(tmp_path / name))
        assert ran.returncode == 2
        assert "no socket" in ran.stderr
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "link").is_symlink()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_another_address_needs_a_token(spool: Path, process: Callable[..., Process]):
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        ran = run("serve", "--spool", str(spool), "--host", host, "--port", str(free_port()))
        assert ran.returncode == 2
        assert "token" in ran.stderr
    made = run("token", "create", "operator", "--scope", "admin", "--spool", str(spool))
    text = made.stdout.strip()
    server = process("--host", "0.0.0.0")
    assert server.http.get("/queues").status_code == 401
    assert server.http.get("/queues", headers={"Authorization": f"Bearer {text}"}).status_code == 200
    # Also where the file of tokens goes while it runs.
    (spool / "tokens.toml").unlink()
    wait_for(lambda: server.http.get("/queues", headers={"Authorization": f"Bearer {text}"}).status_code == 401)


def test_tokens_are_made_listed_and_revoked(spool: Path):
    run("init", str(spool))
    here = ("--spool", str(spool))
    assert run("token", "create", "a", *here).returncode == 2
    assert run("token", "create", "a", "--scope", "root", *here).returncode == 2
    assert run("token", "create", "../a", "--scope", "admin", *here).returncode == 2
    assert run("token", "create", "a", "--scope", "admin", "-q", "../x", *here).returncode == 2
    text = run("token", "create", "a", "--scope", "enqueue", "--scope", "consume", "-q", "emails", *here).stdout.strip()
    assert text.startswith("spoolq_")
    assert run("token", "create", "a", "--scope", "admin", *here).returncode == 1
    (token,) = tokens.list_tokens(spool)
    assert (token.name, token.scopes, token.queues) == ("a", ("enqueue", "consume"), ("emails",))
    assert token.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert run("token", "revoke", "b", *here).returncode == 5
    assert run("token", "revoke", "a", *here).returncode == 0
    assert run("token", "list", *here).stdout == ""


def test_a_port_that_is_taken_is_said(spool: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = run("serve", "--spool", str(spool), "--port", str(taken.getsockname()[1]))
    assert ran.returncode == 1
    assert "is taken by" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_connections_are_limited(process: Callable[..., Process]):
    server = process("--max-connections", "5")
    server.http.close()
    held = [server.connect() for _ in range(8)]
    closed = 0
    for connection in held[5:]:
        connection.settimeout(5)  # each is closed in the end, for want of a head
        try:
            closed += connection.recv(1) == b""
        except ConnectionError:
            closed += 1
    assert closed == 3
    for connection in held:
        connection.close()
    wait_for(server.answers)


@pytest.mark.slow
def test_a_large_body_does_not_go_through_memory(process: Callable[..., Process]):
    """200 MB up and down: the server's memory stays what it was. benchmarks/http.py does it with 2 GB."""
    server = process("--no-access-log")
    server.enqueue(b"x" * 300_000)
    server.http.get(server.dequeue()["body_url"])
    before = _resident_bytes(server.process.pid)
    block = bytes(range(256)) * 4096
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for _ in range(LARGE_BYTES // len(block)):
            digest.update(block)
            yield block

    assert server.http.post("/enqueue", content=pieces(), timeout=60).status_code == 201
    after_upload = _resident_bytes(server.process.pid)
    got = server.dequeue()
    received = hashlib.sha256()
    with server.http.stream("GET", got["body_url"]) as answer:
        for piece in answer.iter_bytes():
            received.update(piece)
    after_download = _resident_bytes(server.process.pid)
    assert received.digest() == digest.digest()
    assert got["body_bytes"] == LARGE_BYTES
    assert max(after_upload, after_download) - before < 30_000_000, (before, after_upload, after_download)
    assert server.http.delete(f"/queues/default/messages/{got['id']}").status_code == 404


def test_the_log_has_a_line_for_each_request_and_no_secret(process: Callable[..., Process], spool: Path):
    server = process()
    server.http.get("/queues", headers={"Request-Id": "my-id"})
    server.http.post("/enqueue", params={"name": "secret-name"}, content=b"secret-body")
    answer = server.http.get("/que%0aues%20x", headers={"Authorization": "Bearer secret-token"})
    assert answer.status_code == 404
    server.end()
    text = server.log.read_text()
    assert "http.request request_id=my-id method=GET path=/queues status=200" in text
    assert "path=/que%0aues%20x status=404" in text
    assert f"request_id={answer.headers['request-id']}" in text
    assert "secret" not in text


def test_api_py_is_what_uvicorn_loads(spool: Path):
    port = free_port()
    environ = {**os.environ, "SPOOLQ_SPOOL": str(spool), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "uvicorn", "api:app", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            wait_for(lambda: _answers(client), 20)
            client.post("/enqueue", content=b"\xff")
            got: dict[str, Any] = client.get("/dequeue").json()
            assert base64.b64decode(got["body_base64"]) == b"\xff"
            with ThreadPoolExecutor(1) as pool:
                waits = pool.submit(client.get, "/dequeue", params={"wait_s": 50})
                wait_for(lambda: "spoolq_http_waiters 1.0" in httpx.get(f"http://127.0.0.1:{port}/metrics").text)
                process.send_signal(signal.SIGTERM)
                assert waits.result(20).status_code == 204
        assert b"Traceback" not in process.communicate(timeout=20)[1]
