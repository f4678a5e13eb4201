"""Long polls: woken at once, given back where the client has gone, and a thousand beside other requests."""

from __future__ import annotations

import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx
import pytest

from spoolq.web.service import Limits
from tests.helpers import needs, wait_for
from tests.web.conftest import Api, Process
from tests.web.test_routes import kind

POLLS = 1000


def poll(api: Api, wait_s: float = 30, more: str = "") -> socket.socket:
    """A long poll that has been sent."""
    connection = api.connect()
    connection.sendall(f"GET /dequeue?wait_s={wait_s}{more} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def waiters(api: Api) -> int:
    for line in api.http.get("/metrics").text.splitlines():
        if line.startswith("spoolq_http_waiters "):
            return int(float(line.split()[1]))
    return 0


def test_a_message_wakes_the_first_who_waits(api: Api, open_queue: Callable[..., Any]):
    """Also where another process enqueues it."""
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(api.dequeue, wait_s=30)
        wait_for(lambda: waiters(api) == 1)
        second = pool.submit(lambda: httpx.get(f"{api.url}/dequeue", params={"wait_s": 30}).json())
        wait_for(lambda: waiters(api) == 2)
        queue = open_queue()
        assert first.result if queue.enqueue(b"one") else None
        assert first.result(10)["body"] == "one"
        api.enqueue(b"two")
        assert second.result(10)["body"] == "two"


def test_what_comes_by_time_alone_is_noticed(api: Api):
    api.enqueue(b"later", delay_s=0.3)
    assert api.dequeue(wait_s=20, lease_s=0.3)["body"] == "later"
    again = api.dequeue(wait_s=20)
    assert (again["body"], again["attempts"]) == ("later", 2)


def test_a_drop_wakes_who_waits(api: Api):
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(api.dequeue, wait_s=30)
        wait_for(lambda: waiters(api) == 1)
        (api.spool / "tmp" / "report.csv").write_bytes(b"1,2")
        (api.spool / "tmp" / "report.csv").rename(api.spool / "new" / "report.csv")
        assert found.result(20)["name"] == "report.csv"


def test_nothing_is_answered_in_time(api: Api):
    began = time.monotonic()
    assert api.http.get("/dequeue", params={"wait_s": 0.2}).status_code == 204
    assert 0.2 <= time.monotonic() - began < 5
    assert api.http.post("/queues/default/claims", json={"wait_s": 0.1}).json() == {"messages": []}


def test_who_has_gone_is_left_out_of_the_line(api: Api):
    gone = [poll(api) for _ in range(5)]
    wait_for(lambda: waiters(api) == 5)
    for connection in gone:
        connection.close()
    wait_for(lambda: waiters(api) == 0)
    api.enqueue(b"x")
    got = api.dequeue()
    assert got["attempts"] == 1


def test_a_message_claimed_for_who_has_gone_is_given_back_uncounted(api: Api):
    """As well as it can be told: connections that end while messages come, and each message is still there."""
    given_back = 0
    for number in range(30):
        connection = poll(api)
        wait_for(lambda: waiters(api) == 1)
        enqueue = threading.Thread(target=api.enqueue, args=(b"%d" % number,))
        connection.close()
        enqueue.start()
        enqueue.join()
        wait_for(lambda: waiters(api) == 0)
        got = api.dequeue()
        if got:
            assert (got["body"], got["attempts"]) == (str(number), 1)
            api.http.post(f"/queues/default/claims/{got['receipt']}/acknowledge")
            given_back += 1
    assert given_back + api.stats()["claimed"] == 30
    # Only an answer that was sent before the connection's end was seen has been claimed.
    assert given_back >= 25


def test_a_large_body_that_is_not_taken_to_its_end_is_given_back(api: Api):
    api.enqueue(b"x" * 20_000_000)
    with api.connect() as connection:
        lines = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\nAccept: application/octet-stream\r\n\r\n"
        connection.sendall(lines)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    wait_for(lambda: api.stats()["ready"] == 1)
    assert api.dequeue()["attempts"] == 1


def test_who_takes_nothing_of_a_body_is_left(serve: Callable[..., Api]):
    api = serve(limits=Limits(pause_s=0.2))
    api.http.post("/enqueue", content=b"x" * 20_000_000)
    with api.connect() as connection:
        lines = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\nAccept: application/octet-stream\r\n\r\n"
        connection.sendall(lines)
        wait_for(lambda: api.stats()["claimed"] == 1)
        wait_for(lambda: api.stats()["ready"] == 1)


def test_work_ends_between_two_messages_when_nobody_asks_any_more(api: Api):
    lines = '{"body":"x"}\n' * 50
    api.http.post("/queues/default/messages/batch", content=lines)
    taken = api.http.post("/queues/default/claims", json={"count": 50}).json()["messages"]
    for each in taken:
        api.http.post(f"/queues/default/claims/{each['receipt']}/dead-letter", json={"reason": "bad"})
    with api.connect() as connection:
        body = b'{"rate":10}'
        head = b"POST /queues/default/dead-letters/redrive HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        wait_for(lambda: api.stats()["ready"] >= 2)
    path = "/queues/default/dead-letters/redrive"
    wait_for(lambda: 'method="POST",status="503"' in api.http.get("/metrics").text)
    assert api.stats()["dead"] > 20
    assert api.http.post(path).json()["count"] > 20


def test_too_many_who_wait_are_told_so(serve: Callable[..., Api]):
    api = serve(limits=Limits(max_waiters=2))
    first, second = poll(api), poll(api)
    wait_for(lambda: waiters(api) == 2)
    answer = api.http.get("/dequeue", params={"wait_s": 1})
    assert kind(answer) == (429, "too-many")
    assert answer.headers["retry-after"] == "1"
    assert api.http.get("/dequeue").status_code == 204
    first.close()
    second.close()
    wait_for(lambda: waiters(api) == 0)


def test_uploads_at_once_are_limited(serve: Callable[..., Api]):
    api = serve(limits=Limits(max_uploads=1))
    with api.connect() as connection:
        connection.sendall(
            b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200001\r\n\r\n" + b"x" * 200_000
        )
        wait_for(lambda: list((api.spool / "tmp").iterdir()))
        assert kind(api.http.post("/enqueue", content=b"x" * 200_000)) == (429, "too-many")
        assert api.http.post("/enqueue", content=b"small").status_code == 201
        connection.sendall(b"x")
        assert connection.recv(1000).startswith(b"HTTP/1.1 201 ")
    assert api.http.post("/enqueue", content=b"x" * 200_000).status_code == 201


def test_a_queue_that_is_deleted_ends_the_waits_for_it(api: Api):
    api.http.post("/queues", json={"name": "q"})
    connection = poll(api, more="&queue=q")
    wait_for(lambda: waiters(api) == 1)
    assert api.http.delete("/queues/q").status_code == 200
    assert connection.recv(1000).startswith(b"HTTP/1.1 404 ")
    connection.close()


@pytest.mark.slow
def test_a_thousand_long_polls_beside_requests(process: Callable[..., Process]):
    """No error, and the requests are answered at once; the issue's figure is p99 under 100 ms on an idle machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needs(hard > 4 * POLLS or hard == resource.RLIM_INFINITY, "4,000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    server = process("--no-access-log")
    server.http.post("/queues", json={"name": "other"})
    polls = [poll(server, 60, "&queue=other") for _ in range(POLLS)]
    try:
        wait_for(lambda: waiters(server) == POLLS, 30)
        times = []
        for _ in range(100):
            began = time.perf_counter()
            server.enqueue(b"x")
            got = server.dequeue()
            assert server.http.post(f"/queues/default/claims/{got['receipt']}/acknowledge").status_code == 204
            times.append((time.perf_counter() - began) / 3)
        assert sorted(times)[-2] < 0.5, times
        assert _resident_bytes(server.process.pid) < 200_000_000
        lines = "".join('{"body":"x"}\n' for _ in range(POLLS))
        assert server.http.post("/queues/other/messages/batch", content=lines).status_code == 201
        assert _answered(polls) == POLLS
        assert server.stats("other")["claimed"] == POLLS
    finally:
        for connection in polls:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _answered(polls: list[socket.socket]) -> int:
    """How many have their message within the limit."""
    count = 0
    ends = time.monotonic() + 30
    with selectors.DefaultSelector() as selector:
        for connection in polls:
            selector.register(connection, selectors.EVENT_READ)
        while count < len(polls) and time.monotonic() < ends:
            for key, _ in selector.select(1):
                connection = cast("socket.socket", key.fileobj)
                assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
                selector.unregister(connection)
                count += 1
    return count


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
