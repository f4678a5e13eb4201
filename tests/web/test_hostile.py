"""What somebody may send who means no good: documented answers, and nothing outside the spool is touched."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from spoolq import tokens
from spoolq.spool.queue import SpoolQueue
from spoolq.web import server
from spoolq.web.app import create_app
from spoolq.web.security import Names
from spoolq.web.service import Limits
from tests.helpers import wait_for
from tests.web.conftest import Api
from tests.web.test_routes import LOST, NOBODY, kind

NAMES = [
    *(
        "..",
        ".",
        "../x",
        "..%2fx",
        "%2e%2e",
        "%2e%2e%2fx",
        "..%5cx",
        "/etc",
        "%2fetc%2fpasswd",
        "a%00b",
        "a%0ab",
        "%ff",
    ),
    *("default%20", "DEFAULT", "-x", ".x", "x" * 65, "%c3%bc", "queues/default", "default/..", "*", "'", "%22%3e"),
]


def tree(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_spool(api: Api, name: str):
    """In each place where one is taken; the names go as they are, since clients would tidy them."""
    before = tree(api.spool.parent)
    paths = [
        *(("GET", f"/queues/{name}/stats"), ("DELETE", f"/queues/{name}"), ("GET", f"/dequeue?queue={name}")),
        *(("POST", f"/enqueue?queue={name}"), ("GET", f"/queues/default/messages/{name}/body")),
        ("DELETE", f"/queues/default/messages/{name}"),
        ("POST", f"/queues/default/claims/{name}/acknowledge"),
        ("GET", f"/queues/default/claims/{name}/body"),
        ("GET", f"/queues/default/claims/{NOBODY}.{name}/body"),
    ]
    for method, path in paths:
        lines = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        answer = api.raw(lines.encode())
        assert 400 <= int(answer.split(b" ", 2)[1]) < 500, (path, answer)
        assert b"application/problem+json" in answer
    assert api.http.post("/queues", json={"name": name}).status_code == 422
    assert tree(api.spool.parent) - before <= {f"{api.spool.name}/index.db-wal", f"{api.spool.name}/index.db-shm"}


def test_a_label_of_any_text_is_a_label(api: Api):
    for text in (
        "../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        "\n",
        "\u202e",
        "..",
        "x" * 1000,
        "$(rm -rf /)",
        ",a=9,r=k",
    ):
        api.enqueue(b"x", name=text)
    messages = api.http.get("/queues/default/messages").json()["messages"]
    assert len(messages) == 9 == len(os.listdir(api.spool / "new"))
    assert all("/" not in (each["name"] or "") and "\n" not in (each["name"] or "") for each in messages)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(
            (name, 200)
            for name in ("localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000", "10.1.2.3")
        ),
        *((name, 403) for name in ("evil.example", "localhost.evil.example", "localhost:x", "127.0.0.1.evil.example")),
        *((name, 403) for name in ("", "[", "[::1", "[::1]x", "a b", "127.1", "::1", "localhost:123456", "\xe4")),
        ("queue.example", 200),
        ("queue.example:8000", 200),
    ],
)
def test_only_our_own_names_are_answered(serve: Callable[..., Api], host: str, expected: int):
    api = serve(hosts=["Queue.example"])
    answer = api.raw(b"GET /queues HTTP/1.1\r\nHost: " + host.encode("latin-1") + b"\r\nConnection: close\r\n\r\n")
    assert int(answer.split(b" ", 2)[1]) == expected, answer
    if expected == 403:
        assert b"host-not-allowed" in answer


def test_a_request_has_one_host(api: Api):
    for lines in (b"", b"Host: localhost\r\nHost: localhost\r\n"):
        answer = api.raw(b"GET /queues HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 "), answer


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 201),
        ({"Origin": "{url}"}, 201),
        ({"Origin": "https://admitted.example"}, 201),
        ({"Origin": "https://admitted.example", "Sec-Fetch-Site": "cross-site"}, 201),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "{url}.evil.example"}, 403),
        ({"Origin": "file://"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "{url}", "Sec-Fetch-Site": "cross-site"}, 201),
    ],
)
def test_pages_of_other_sites_may_not_ask(serve: Callable[..., Api], headers: dict[str, str], expected: int):
    api = serve(origins=["https://admitted.example/"])
    sent = {name: value.format(url=api.url) for name, value in headers.items()}
    answers = [api.http.post("/enqueue", headers=sent, content=b"x"), api.http.get("/dequeue", headers=sent)]
    assert answers[0].status_code == expected
    if expected == 403:
        assert [kind(answer) for answer in answers] == [(403, "cross-site")] * 2
        assert api.stats()["enqueued_total"] == 0
    for answer in answers:
        assert "access-control-allow-origin" not in answer.headers


def test_a_web_socket_is_closed(spool: Path):
    """No server of ours speaks them; were it another's, a page of any site could open one."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    app = create_app(spool)
    scope = {"type": "websocket", "path": "/dequeue", "headers": []}
    with ThreadPoolExecutor(1) as pool:  # the browser's tests may have left a loop running in this one
        pool.submit(lambda: asyncio.run(app(scope, receive, send))).result()  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_names_are_judged_alone():
    names = Names()
    assert names.is_origin(b"http://localhost:8000", b"localhost:8000")
    assert not names.is_origin(b"http://localhost:8001", b"localhost:8000")
    assert not names.is_host(b"localhost:8000:9")


# Tokens


@pytest.fixture
def guarded(serve: Callable[..., Api], spool: Path) -> tuple[Api, dict[str, str]]:
    """A server, and tokens by their names."""
    api = serve()
    api.http.post("/queues", json={"name": "emails"})
    made = {
        name: tokens.create_token(spool, name, scopes=scopes, queues=queues)
        for name, scopes, queues in (
            ("importer", ["enqueue"], []),
            ("worker", ["consume"], []),
            ("mailer", ["consume", "enqueue"], ["emails"]),
            ("operator", ["admin"], []),
            ("clerk", ["admin"], ["emails"]),
        )
    }
    wait_for(lambda: api.http.get("/queues").status_code == 401)
    return api, made


def test_each_token_may_what_its_scopes_and_queues_say(guarded: tuple[Api, dict[str, str]]):
    api, made = guarded
    asked: list[tuple[str, str, Any, set[str]]] = [
        ("POST", "/enqueue", None, {"importer", "operator"}),
        ("POST", "/enqueue?queue=emails", None, {"importer", "mailer", "operator", "clerk"}),
        ("POST", "/queues/emails/messages", None, {"importer", "mailer", "operator", "clerk"}),
        ("POST", "/queues/emails/messages/batch", None, {"importer", "mailer", "operator", "clerk"}),
        ("GET", "/dequeue", None, {"worker", "operator"}),
        ("GET", "/dequeue?queue=emails&lease_s=1", None, {"worker", "mailer", "operator", "clerk"}),
        ("POST", "/queues/emails/claims", None, {"worker", "mailer", "operator", "clerk"}),
        ("POST", "/queues/emails/claims/acknowledge", {"receipts": []}, {"worker", "mailer", "operator", "clerk"}),
        ("GET", "/queues", None, set(made)),
        ("GET", "/queues/emails/stats", None, {"worker", "mailer", "operator", "clerk"}),
        ("GET", "/queues/default/messages", None, {"worker", "operator"}),
        ("GET", "/queues/none/messages", None, {"worker", "operator"}),
        ("GET", "/queues/default/messages/search?text=", None, {"worker", "operator"}),
        ("POST", "/queues/emails/pause", None, {"operator", "clerk"}),
        ("POST", "/queues/emails/resume", None, {"operator", "clerk"}),
        ("POST", "/queues/default/purge", {"states": []}, {"operator"}),
        ("PUT", "/queues/emails/settings", {}, {"operator", "clerk"}),
        ("POST", "/queues/default/rebuild", None, {"operator"}),
        ("POST", "/queues", {"name": "x"}, {"operator"}),
        ("GET", "/metrics", None, {"worker", "operator"}),
        ("GET", f"/queues/default/messages/{NOBODY}/body", None, {"worker", "operator"}),
        ("POST", f"/queues/default/claims/{LOST}/release", None, {"worker", "operator"}),
        ("DELETE", f"/queues/emails/messages/{NOBODY}", None, {"operator", "clerk"}),
    ]
    for method, path, body, allowed in asked:
        for name, text in made.items():
            answer = api.http.request(method, path, json=body, headers={"Authorization": f"Bearer {text}"})
            if name in allowed:
                assert answer.status_code not in (401, 403), (name, path, answer.text)
            else:
                assert kind(answer) == (403, "forbidden"), (name, path)
        assert kind(api.http.request(method, path, json=body)) == (401, "unauthorized")
    assert api.http.get("/healthz").status_code == 200 == api.http.get("/readyz").status_code
    seen = api.http.get("/queues", headers={"Authorization": f"bearer  {made['mailer']}"}).json()
    assert seen == {"queues": ["emails"]}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer x",
        b"Bearer \xe4\xff",
        b"Basic eDp5",
        b"Bearer \xf0\x9f\x98\x80",
        b"x" * 5000,
    ],
)
def test_what_is_no_token_is_refused(guarded: tuple[Api, dict[str, str]], value: bytes):
    api, _ = guarded
    answer = api.raw(
        b"GET /queues HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: " + value + b"\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 401 "), answer
    assert b"www-authenticate: Bearer" in answer


def test_a_token_is_compared_with_every_one_in_constant_time(spool: Path, monkeypatch: pytest.MonkeyPatch):
    """Whether the first is the right one, or none is."""
    SpoolQueue.open(spool).close()
    made = [tokens.create_token(spool, name, scopes=["admin"]) for name in ("a", "b", "c")]
    compared: list[bytes] = []
    monkeypatch.setattr(tokens.hmac, "compare_digest", lambda one, other: compared.append(one) or one == other)
    known = tokens.TokenFile(spool).current()
    assert known is not None
    for given in (*made, "none"):
        found = known.find(given.encode())
        assert (found is None) == (given == "none")
        assert compared == [each.sha256.encode() for each in known.all]
        compared.clear()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/dequeue?queue=default&queue=emails", True),
        ("/dequeue?queue=emails&queue=default", False),
        ("/dequeue?queue=emails&%71ueue=default", False),
        ("/dequeue?queue=emails&Queue=default", False),
        ("/dequeue?queue=emails%00", False),
        ("/queues/emails/../default/messages", False),
        ("/queues/emails%2f..%2fdefault/messages", False),
        ("/queues/default/messages?q=emails", False),
    ],
)
def test_what_a_token_admits_is_what_is_answered(guarded: tuple[Api, dict[str, str]], path: str, allowed: bool):
    """However often, and however spelled, a queue is named."""
    api, made = guarded
    operator = {"Authorization": f"Bearer {made['operator']}"}
    for queue in ("default", "emails"):
        api.http.post(f"/enqueue?queue={queue}", content=queue.encode(), headers=operator)
    lines = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {made['mailer']}\r\n\r\n"
    )
    head, _, body = api.raw(lines.encode()).partition(b"\r\n\r\n")
    if allowed:
        assert b'"body":"emails"' in body
    else:
        assert 400 <= int(head.split(b" ", 2)[1]) < 500, head
        assert b'"body"' not in body


def test_a_revoked_token_is_worth_nothing_and_the_last_one_opens_nothing(guarded: tuple[Api, dict[str, str]]):
    api, made = guarded
    for name in made:
        tokens.revoke_token(api.spool, name)
    header = {"Authorization": f"Bearer {made['operator']}"}
    wait_for(lambda: api.http.get("/queues", headers=header).status_code == 401)
    assert api.http.get("/queues").status_code == 401
    assert (api.spool / "tokens.toml").stat().st_mode & 0o777 == 0o600
    assert all(text not in (api.spool / "tokens.toml").read_text() for text in made.values())


def test_a_file_of_tokens_that_cannot_be_trusted_lets_nobody_in(guarded: tuple[Api, dict[str, str]]):
    api, made = guarded
    header = {"Authorization": f"Bearer {made['operator']}"}
    path = api.spool / "tokens.toml"
    whole = path.read_text()
    for text in ("[[token]", whole + 'made_at_ms = "never"', "a = " + "[" * 100_000, "token = 5"):
        path.write_text(text)
        wait_for(lambda: api.http.get("/queues", headers=header).status_code == 503)
    path.write_text(whole)
    wait_for(lambda: api.http.get("/queues", headers=header).status_code == 200)
    for mode in (0o620, 0o602):
        path.chmod(mode)
        wait_for(lambda: api.http.get("/queues", headers=header).status_code == 503)
    path.chmod(0o600)
    wait_for(lambda: api.http.get("/queues", headers=header).status_code == 200)


# Bodies and heads


def test_a_body_over_the_servers_limit_leaves_nothing(serve: Callable[..., Api]):
    api = serve(limits=Limits(max_body_bytes=100_000))
    assert api.http.post("/enqueue", content=b"x" * 100_000).status_code == 201

    def chunks() -> Any:
        for _ in range(200):
            yield b"x" * 1000

    for content in (b"x" * 100_001, b"x" * 3_000_000, chunks()):
        assert kind(api.http.post("/enqueue", content=content)) == (413, "too-large")
    form = api.http.post("/enqueue", files={"file": ("f", b"x" * 200_000)})
    assert kind(form) == (413, "too-large")
    batch = api.http.post("/queues/default/messages/batch", content=b"\n" * 200_000)
    assert kind(batch) == (413, "too-large")
    assert list((api.spool / "tmp").iterdir()) == []
    assert api.stats()["ready"] == 1


def test_a_line_of_a_batch_that_does_not_end_is_refused(api: Api):
    answer = api.http.post("/queues/default/messages/batch", content=b"x" * 5_000_000)
    assert kind(answer) == (413, "too-large")
    many = api.http.post("/queues/default/messages/batch", content=b"\n" * 10_001)
    assert kind(many) == (413, "too-large")


def test_an_upload_that_ends_early_leaves_nothing(api: Api):
    for size, head in ((200_000, b""), (10, b""), (200_000, b"Transfer-Encoding: chunked")):
        with api.connect() as connection:
            length = head or b"Content-Length: 1000000"
            connection.sendall(b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n")
            piece = b"x" * size
            connection.sendall(b"%x\r\n%b\r\n" % (size, piece) if head else piece)
            if size > 100_000:
                wait_for(lambda: list((api.spool / "tmp").iterdir()))
        wait_for(lambda: not list((api.spool / "tmp").iterdir()))
    assert api.stats()["enqueued_total"] == 0


def test_a_body_that_pauses_is_given_up(serve: Callable[..., Api]):
    api = serve(limits=Limits(pause_s=0.1))
    for size in (10, 200_000):
        with api.connect() as connection:
            connection.sendall(
                b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * size
            )
            assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert list((api.spool / "tmp").iterdir()) == []


@pytest.mark.parametrize("lines", [b"GET /que", b"GET /queues HTTP/1.1\r\nHost: local", b""])
def test_a_head_that_does_not_end_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch, lines: bytes):
    monkeypatch.setattr(server, "HEAD_S", 0.1)
    with api.connect() as connection:
        connection.sendall(lines)
        assert connection.recv(100) == b""


def test_a_head_that_comes_drop_by_drop_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "HEAD_S", 0.2)
    with api.connect() as connection:
        connection.settimeout(0.01)
        wait_for(lambda: _has_closed_after_another(connection, b"a"), 5)


def _has_closed_after_another(connection: socket.socket, drop: bytes) -> bool:
    try:
        connection.sendall(drop)
        return connection.recv(100) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "head",
    [
        b"GET /queues HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 700_000,
        b"GET /queues?" + b"x" * 700_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /queues HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 150_000 + b"\r\n",
    ],
)
def test_a_head_that_is_too_large_is_refused(api: Api, head: bytes):
    with api.connect() as connection:
        try:
            connection.sendall(head)
        except ConnectionError:
            return
        try:
            answer = connection.recv(65536)
        except ConnectionError:
            return
        assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), answer
    assert api.http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"\0\0\0\0\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_is_refused(api: Api, request_: bytes):
    with api.connect() as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert api.stats()["enqueued_total"] == 0


@pytest.mark.parametrize("value", ["", "x" * 201, "a b", "\xe4"])
def test_a_request_id_is_printable(api: Api, value: str):
    answer = api.http.get("/queues", headers=[(b"Request-Id", value.encode("latin-1"))])
    assert kind(answer) == (422, "invalid")
    assert len(answer.headers["request-id"]) == 16


@pytest.mark.parametrize("text", ["{", "[]", '{"a":1}', '{"a":"x\\ny"}', '{"":"x"}', "\xe4", "[" * 50_000])
def test_headers_that_are_none_are_refused(api: Api, text: str):
    answer = api.http.post("/enqueue", headers=[(b"Spoolq-Headers", text.encode("latin-1"))])
    assert kind(answer) == (422, "invalid")
    long = api.http.post("/enqueue", headers={"Spoolq-Headers": '{"a":"' + "x" * 150_000 + '"}'})
    assert kind(long) == (431, "headers-too-large")


# Ranges


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-100", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-999999999999999999", 206, b"56789", "bytes 5-9/10"),
        ("bytes=9-9", 206, b"9", "bytes 9-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        *(
            (text, 200, b"0123456789", None)
            for text in ("bytes=", "bytes=-", "bytes=3-2", "bytes=a-b", "lines=0-1", "x")
        ),
        *(
            (text, 200, b"0123456789", None)
            for text in ("bytes=0-1,3-4", "bytes=" + "0-," * 5000, "bytes=" + "9" * 100 + "-")
        ),
    ],
)
def test_ranges(api: Api, asked: str, status: int, body: bytes | None, content_range: str | None):
    id = api.enqueue(b"0123456789")
    answer = api.http.get(f"/queues/default/messages/{id}/body", headers={"Range": asked})
    assert answer.status_code == status
    assert answer.headers.get("content-range") == content_range
    if body is None:
        assert kind(answer) == (416, "range-not-satisfiable")
    else:
        assert answer.content == body


def test_a_body_that_is_known_is_not_sent_again(api: Api):
    id = api.enqueue(b"0123456789")
    path = f"/queues/default/messages/{id}/body"
    etag = api.http.get(path).headers["etag"]
    for value, status in ((etag, 304), ("*", 304), (f'"x", {etag}', 304), (f"W/{etag}", 304), ('"x"', 200)):
        answer = api.http.get(path, headers={"If-None-Match": value})
        assert answer.status_code == status, value
    for value, status in ((etag, 206), ('"x"', 200)):
        assert api.http.get(path, headers={"Range": "bytes=1-2", "If-Range": value}).status_code == status
