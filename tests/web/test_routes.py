"""What each route answers, and when. docs/rest-api.md, sections 4 to 10."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from spoolq import queue as entry
from spoolq.errors import Unreachable
from spoolq.settings import Settings
from spoolq.web import status
from tests.web.conftest import Api

NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"
LOST = f"{NOBODY}.t0123456789ab"


def kind(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["request_id"] == answer.headers["request-id"]
    return answer.status_code, document["type"].removeprefix("urn:spoolq:problem:")


# The two verbs


def test_what_is_enqueued_is_dequeued_and_acknowledged(api: Api):
    id = api.enqueue(b"hello")
    got = api.dequeue()
    assert got["body"] == "hello"
    assert {key: got[key] for key in ("id", "attempts", "priority", "name", "headers", "body_bytes")} == {
        "id": id,
        "attempts": 1,
        "priority": 5,
        "name": None,
        "headers": {},
        "body_bytes": 5,
    }
    path = f"/queues/default/claims/{got['receipt']}/acknowledge"
    assert [api.http.post(path).status_code for _ in range(2)] == [204, 204]
    assert api.dequeue() == {}
    assert api.stats()["done"] == 1


@pytest.mark.parametrize("durability", ["process", "power", "full"])
@pytest.mark.parametrize("body", [b"", b"text", b"\xff\x00", b"x" * 70_000, b"\xe4" * 1_100_000])
def test_a_body_of_any_size_and_kind_comes_back_as_it_was(api: Api, durability: str, body: bytes):
    api.http.put("/queues/default/settings", json={"durability": durability})
    api.enqueue(body)
    got = api.dequeue()
    if len(body) > 1024 * 1024:
        assert "body" not in got
        assert "body_base64" not in got
    else:
        text = got.get("body")
        assert (text.encode() if text is not None else base64.b64decode(got["body_base64"])) == body
    assert api.http.get(got["body_url"]).content == body
    assert got["body_bytes"] == len(body)


def test_all_that_is_said_of_a_message_comes_with_it(api: Api):
    answer = api.http.post(
        "/enqueue",
        params={"priority": 9, "name": "Übersicht a,b.csv", "group": "g", "ttl_s": 60, "dedup_key": "k"},
        headers={"Spoolq-Headers": json.dumps({"trace": "ä", "b": ""}), "Content-Type": "text/csv; charset=utf-8"},
        content=b"1,2",
    )
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/queues/default/messages/{answer.json()['id']}"
    known = api.http.get(answer.headers["location"]).json()
    assert known["dedup_key"] == "k"
    assert known["expires_at_ms"] > known["enqueued_at_ms"]
    got = api.dequeue()
    assert got["priority"] == 9
    assert got["name"] == "Übersicht_a_b.csv"
    assert got["original_name"] == "Übersicht a,b.csv"
    assert got["headers"] == {"trace": "ä", "b": ""}
    assert got["content_type"] == "text/csv; charset=utf-8"
    assert got["group"] == "g"


def test_octets_come_with_their_metadata_in_headers(api: Api):
    headers = {"Spoolq-Headers": '{"a":"\\u00e4"}', "Content-Type": "text/html"}
    api.http.post("/enqueue", params={"name": "ä b.html"}, headers=headers, content=b"<script>")
    answer = api.http.get("/dequeue", headers={"Accept": "application/octet-stream"})
    assert answer.content == b"<script>"
    assert answer.headers["content-type"] == "text/html"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["spoolq-name"] == "%C3%A4_b.html"
    assert answer.headers["spoolq-original-name"] == "%C3%A4%20b.html"
    assert json.loads(answer.headers["spoolq-headers"]) == {"a": "ä"}
    assert answer.headers["spoolq-attempts"] == "1"
    assert api.http.post(f"/queues/default/claims/{answer.headers['spoolq-receipt']}/release").status_code == 204


def test_a_form_carries_what_is_said_and_the_body(api: Api):
    said = json.dumps({"priority": 7, "headers": {"a": "b"}, "dedup_key": "k"})
    answer = api.http.post(
        "/queues/default/messages", files={"message": (None, said), "file": ("r.csv", b"1,2", "text/csv")}
    )
    assert answer.status_code == 201, answer.text
    got = api.dequeue()
    assert (got["body"], got["priority"], got["name"], got["content_type"]) == ("1,2", 7, "r.csv", "text/csv")
    assert got["headers"] == {"a": "b"}
    big = bytes(range(256)) * 1000
    assert api.http.post("/enqueue", files={"file": ("big", big)}).status_code == 201
    got = api.dequeue()
    assert api.http.get(got["body_url"]).content == big


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([("a", b"1"), ("b", b"2")], (422, "invalid")),
        ([("file", b"1"), ("message", b"{}")], (422, "invalid")),
        ([("message", b"{}")], (422, "invalid")),
        ([("message", b"{"), ("file", b"1")], (400, "malformed")),
        ([("message", b"[]"), ("file", b"1")], (422, "invalid")),
        ([("message", b'{"prio":1}'), ("file", b"1")], (422, "invalid")),
        ([("message", b'{"priority":"x"}'), ("file", b"1")], (422, "invalid")),
    ],
)
def test_a_form_that_is_not_right_leaves_nothing(api: Api, files: Any, expected: tuple[int, str]):
    assert kind(api.http.post("/enqueue", files=[(name, ("f", body)) for name, body in files])) == expected
    assert api.stats()["enqueued_total"] == 0


def test_a_form_that_is_not_whole_is_refused(api: Api):
    for body in (b"", b"--x\r\n", b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\nabc', b"nothing of it"):
        answer = api.http.post("/enqueue", headers={"Content-Type": "multipart/form-data; boundary=x"}, content=body)
        assert answer.status_code in (400, 422), body
    for text in ("multipart/form-data", f"multipart/form-data; boundary={'x' * 1000}", "multipart/mixed; boundary=x"):
        assert kind(api.http.post("/enqueue", headers={"Content-Type": text}, content=b"x"))[0] == 400
    assert api.stats()["enqueued_total"] == 0


def test_what_the_type_says_is_overruled_by_the_parameter(api: Api):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    api.http.post("/enqueue", params={"content_type": "multipart/form-data"}, headers=headers, content=b"--x")
    got = api.dequeue()
    assert (got["body"], got["content_type"]) == ("--x", "multipart/form-data")
    api.http.post("/enqueue", headers={"Content-Type": "application/x-www-form-urlencoded"}, content=b"a=b")
    assert api.dequeue()["content_type"] is None


def test_a_key_is_answered_the_first_id(api: Api):
    ids = {
        api.http.post("/enqueue", headers={"Idempotency-Key": "k"}, content=b"%d" % number).json()["id"]
        for number in range(3)
    }
    assert len(ids) == 1
    both = api.http.post("/enqueue", params={"dedup_key": "k"}, headers={"Idempotency-Key": "k"})
    assert both.json()["id"] in ids
    apart = api.http.post("/enqueue", params={"dedup_key": "k"}, headers={"Idempotency-Key": "l"})
    assert kind(apart) == (422, "invalid")


def test_a_lost_answer_is_had_again_from_any_server(api: Api, serve: Any):
    for number in range(3):
        api.enqueue(b"%d" % number)
    other = serve()
    asked = {"Request-Id": "take-1"}
    first = api.http.get("/dequeue", headers=asked)
    assert first.headers["request-id"] == "take-1"
    again = other.http.get("/dequeue", headers=asked)
    assert again.json() == first.json()
    claims = api.http.post("/queues/default/claims", headers={"Request-Id": "take-2"}, json={"count": 2}).json()
    assert (
        other.http.post("/queues/default/claims", headers={"Request-Id": "take-2"}, json={"count": 2}).json() == claims
    )
    assert len(claims["messages"]) == 2
    api.http.post(f"/queues/default/claims/{first.json()['receipt']}/acknowledge")
    assert api.http.get("/dequeue", headers=asked).status_code == 204


# Queues


def test_queues_are_made_listed_changed_and_deleted(api: Api):
    made = api.http.post("/queues", json={"name": "emails", "settings": {"max_attempts": 3}})
    assert (made.status_code, made.headers["location"]) == (201, "/queues/emails")
    assert kind(api.http.post("/queues", json={"name": "emails"})) == (409, "queue-exists")
    assert api.http.get("/queues").json() == {"queues": ["default", "emails"]}
    about = api.http.get("/queues/emails").json()
    assert about["settings"]["max_attempts"] == 3
    assert about["capabilities"]["drops"] is True
    assert about["stats"]["queue"] == "emails"
    api.enqueue(queue="emails")
    changed = api.http.put("/queues/emails/settings", json={"retry": {"base_s": 1}}).json()
    assert (changed["max_attempts"], changed["retry"]["base_s"]) == (Settings().max_attempts, 1)
    assert api.http.get("/queues/emails/settings").json() == changed
    assert kind(api.http.put("/queues/emails/settings", json={"retries": 1})) == (422, "invalid")
    assert api.http.post("/queues/emails/pause").status_code == 204
    assert api.dequeue(queue="emails") == {}
    assert api.stats("emails")["paused"] is True
    assert api.http.post("/queues/emails/resume").status_code == 204
    assert api.http.get("/queues/emails/minutes").json()["minutes"][0]["enqueued"] == 1
    assert api.http.get("/queues/emails/ages", params={"bounds_s": "60,600"}).json() == {"counts": [1, 0, 0]}
    assert kind(api.http.get("/queues/emails/ages", params={"bounds_s": "60,x"})) == (422, "invalid")
    assert api.http.get("/queues/emails/health").json()["has_room"] is True
    assert api.http.get("/queues/emails/drops").json() == {"drops": []}
    assert api.http.get("/queues/emails/holders").json() == {"holders": []}
    assert api.http.post("/queues/emails/purge").json() == {"count": 1}
    assert kind(api.http.post("/queues/emails/purge", json={"states": ["claimed"]})) == (422, "invalid")
    assert api.http.delete("/queues/emails").json() == {"deleted": 0}
    assert kind(api.http.get("/queues/emails/stats")) == (404, "queue-not-found")
    assert kind(api.http.delete("/queues/default")) == (422, "invalid")


def test_a_queue_that_was_made_again_by_others_is_found(api: Api, serve: Any):
    other = serve()
    for server in (api, other, api):
        server.http.post("/queues", json={"name": "q"})
        assert server.http.get("/queues/q/stats").status_code == 200
        assert other.http.get("/queues/q/stats").status_code == 200
        server.http.delete("/queues/q")
        assert kind(api.http.get("/queues/q/stats")) == (404, "queue-not-found")
        assert kind(other.http.get("/dequeue", params={"queue": "q"})) == (404, "queue-not-found")


# Messages


def test_messages_are_found_and_changed(api: Api):
    ids = [api.enqueue(b"%d" % number, name=f"file{number}", delay_s=600) for number in range(5)]
    base = "/queues/default/messages"
    page = api.http.get(base, params={"state": "scheduled", "limit": 2}).json()
    seen = [each["id"] for each in page["messages"]]
    while page["cursor"]:
        page = api.http.get(base, params={"state": "scheduled", "limit": 2, "cursor": page["cursor"]}).json()
        seen += [each["id"] for each in page["messages"]]
    assert seen == ids
    found = api.http.get(base, params={"state": "scheduled", "name": "FILE3", "max_age_s": 60}).json()["messages"]
    assert [each["id"] for each in found] == [ids[3]]
    assert [each["id"] for each in api.http.get(f"{base}/search", params={"text": "file4"}).json()["messages"]] == [
        ids[4]
    ]
    assert api.http.get(f"{base}/peek").status_code == 204
    assert api.http.patch(f"{base}/{ids[0]}", json={"priority": 9}).status_code == 204
    assert api.http.post(f"{base}/{ids[0]}/run-now").status_code == 204
    assert api.http.get(f"{base}/peek").json()["priority"] == 9
    got = api.dequeue()
    assert got["id"] == ids[0]
    assert api.http.get(f"{base}/{ids[0]}").json()["receipt"] == got["receipt"]
    assert api.http.post(f"{base}/{ids[0]}/give-back", json={"reason": "stuck"}).status_code == 204
    assert api.http.get(f"{base}/{ids[0]}").json()["history"][0]["reason"] == "stuck"
    got = api.dequeue()
    api.http.post(f"/queues/default/claims/{got['receipt']}/acknowledge")
    assert api.http.post(f"{base}/{ids[0]}/replay").status_code == 204
    assert api.http.delete(f"{base}/{ids[0]}").status_code == 204
    for path, method in (("", "GET"), ("", "DELETE"), ("/run-now", "POST"), ("/replay", "POST"), ("/body", "GET")):
        assert kind(api.http.request(method, f"{base}/{ids[0]}{path}")) == (404, "message-not-found")


def test_a_batch_is_enqueued_in_order(api: Api):
    lines = [
        {"body": "one", "priority": 9},
        {"body_base64": "/wA=", "name": "two"},
        {"body": "three", "dedup_key": "k"},
    ]
    text = "\n".join(map(json.dumps, lines)) + "\n\n"
    answer = api.http.post(
        "/queues/default/messages/batch", content=text, headers={"Content-Type": "application/x-ndjson"}
    )
    assert answer.status_code == 201
    claimed = api.http.post("/queues/default/claims", json={"count": 5}).json()["messages"]
    assert [each["id"] for each in claimed] == answer.json()["ids"]
    assert [each.get("body", each.get("body_base64")) for each in claimed] == ["one", "/wA=", "three"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", (400, "malformed")),
        ("[]", (422, "invalid")),
        ("{}", (422, "invalid")),
        ('{"body":"a","body_base64":""}', (422, "invalid")),
        ('{"body_base64":"*"}', (422, "invalid")),
        ('{"body":"\\ud800"}', (422, "invalid")),
        ('{"body":"a","priority":10}', (422, "invalid")),
        ('{"body":"a","delay":1}', (422, "invalid")),
        ("[" * 100_000, (400, "malformed")),
    ],
)
def test_a_batch_says_which_line_is_wrong_and_what_is_there(api: Api, line: str, expected: tuple[int, str]):
    text = '{"body":"a"}\n' * 300 + line
    answer = api.http.post("/queues/default/messages/batch", content=text)
    assert kind(answer) == expected
    assert answer.json()["line"] == 301
    assert len(answer.json()["ids"]) == 256 == api.stats()["ready"]


# Claims


def test_claims_are_settled_in_every_way(api: Api):
    claims = "/queues/default/claims"
    for _ in range(5):
        api.enqueue()
    taken = api.http.post(claims, json={"count": 5, "lease_s": 60}).json()["messages"]
    first, second, third, *rest = [each["receipt"] for each in taken]
    assert api.http.post(f"{claims}/{first}/release").status_code == 204
    failure = {"delay_s": 60, "reason": "no", "details": {"exit_status": 3, "stderr": "boom", "host": "h", "pid": 7}}
    assert api.http.post(f"{claims}/{second}/requeue", json=failure).json() == {"state": "scheduled"}
    known = api.http.get(f"/queues/default/messages/{second.split('.')[0]}").json()["history"][0]
    assert (known["exit_status"], known["stderr"], known["host"], known["pid"]) == (3, "boom", "h", 7)
    assert api.http.post(f"{claims}/{third}/extend", json={"lease_s": 600}).status_code == 204
    assert api.http.post(f"{claims}/{third}/dead-letter", json={"reason": "bad"}).status_code == 204
    answer = api.http.post(f"{claims}/acknowledge", json={"receipts": [*rest, first, LOST]}).json()
    assert answer == {"acknowledged": 2, "lost": [first, LOST]}
    stats = api.stats()
    assert [stats[state] for state in ("ready", "scheduled", "claimed", "done", "dead")] == [1, 1, 0, 2, 1]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "acknowledge", None),
        ("POST", "requeue", {}),
        ("POST", "release", None),
        ("POST", "extend", {"lease_s": 1}),
        ("POST", "dead-letter", {"reason": "x"}),
        ("GET", "body", None),
    ],
)
def test_a_claim_that_has_ended_is_a_conflict(api: Api, method: str, path: str, body: Any):
    assert kind(api.http.request(method, f"/queues/default/claims/{LOST}/{path}", json=body)) == (409, "lease-lost")
    assert kind(api.http.request(method, f"/queues/default/claims/what/{path}", json=body)) == (422, "invalid")
    assert kind(api.http.request(method, f"/queues/none/claims/{LOST}/{path}", json=body)) == (404, "queue-not-found")


def test_bodies_are_inline_as_far_as_was_asked(api: Api):
    for size in (10, 100):
        api.enqueue(b"x" * size)
    taken = api.http.post("/queues/default/claims", json={"count": 2, "inline_bytes": 50}).json()["messages"]
    assert [("body" in each, each["body_bytes"]) for each in taken] == [(True, 10), (False, 100)]
    assert api.http.get(taken[1]["body_url"]).content == b"x" * 100


# Dead letters, keeping


def test_dead_letters_are_listed_by_reason_redriven_and_purged(api: Api):
    for reason in ("bad address", "bad address", "no route"):
        api.enqueue()
        api.http.post(f"/queues/default/claims/{api.dequeue()['receipt']}/dead-letter", json={"reason": reason})
    base = "/queues/default/dead-letters"
    assert api.http.get(f"{base}/reasons").json()["reasons"][0] == {"reason": "bad address", "count": 2}
    page = api.http.get(base, params={"reason": "ADDRESS"}).json()
    assert len(page["messages"]) == 2
    where = {"where": {"reason": "address"}}
    dry = api.http.post(f"{base}/redrive", json={**where, "dry_run": True}).json()
    assert dry == {"count": 2, "dry_run": True}
    ids = [page["messages"][0]["id"]]
    assert api.http.post(f"{base}/redrive", json={"ids": ids}).json()["count"] == 1
    assert kind(api.http.post(f"{base}/redrive", json={"ids": [NOBODY]})) == (404, "message-not-found")
    assert kind(api.http.post(f"{base}/redrive", json={"ids": ["x"]})) == (422, "invalid")
    assert api.http.post(f"{base}/purge", json={**where, "dry_run": True}).json()["count"] == 1
    assert api.http.post(f"{base}/purge").json() == {"count": 2, "dry_run": False}
    assert api.stats()["ready"] == 1


def test_a_queue_is_cleaned_checked_and_rebuilt(api: Api):
    api.enqueue()
    assert api.http.post("/queues/default/clean", json={"dry_run": True}).json()["counts"]["done"] == 0
    assert api.http.post("/queues/default/check", json={"fix": False}).json() == {"problems": []}
    assert api.http.post("/queues/default/rebuild").json() == {"messages": 1}
    (api.spool / "new" / "01890a5d-ac96-774b-bcce-b302099a8057,p=1").write_bytes(b"x")
    (api.spool / "cur" / "what is this").write_bytes(b"x")
    problems = api.http.post("/queues/default/check").json()["problems"]
    assert problems
    assert str(api.spool) not in json.dumps(problems)
    (api.spool / "cur" / "what is this").unlink()


# What goes for all


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/nowhere", None, (404, "not-found")),
        ("GET", "/enqueue", None, (405, "method-not-allowed")),
        ("HEAD", "/queues", None, None),
        ("POST", "/enqueue?prority=1", None, (422, "invalid")),
        ("POST", "/enqueue?priority=10", None, (422, "invalid")),
        ("POST", "/enqueue?priority=x", None, (422, "invalid")),
        ("POST", "/enqueue?delay_s=nan", None, (422, "invalid")),
        ("POST", "/enqueue?delay_s=-1", None, (422, "invalid")),
        ("POST", "/enqueue?queue=none", None, (404, "queue-not-found")),
        ("POST", "/enqueue?queue=..", None, (422, "invalid")),
        ("POST", "/enqueue?group=%0a", None, (422, "invalid")),
        ("GET", "/dequeue?queue=none", None, (404, "queue-not-found")),
        ("GET", "/dequeue?queue=NONE", None, (422, "invalid")),
        ("GET", "/dequeue?wait_s=-1", None, (422, "invalid")),
        ("GET", "/dequeue?wait_s=inf", None, (422, "invalid")),
        ("GET", "/dequeue?lease_s=0", None, (422, "invalid")),
        ("GET", "/dequeue?lease_s=x", None, (422, "invalid")),
        ("GET", "/queues/default/messages?state=new", None, (422, "invalid")),
        ("GET", "/queues/default/messages?limit=0", None, (422, "invalid")),
        ("GET", "/queues/default/messages?cursor=x", None, (422, "invalid")),
        ("GET", "/queues/default/messages/search", None, (422, "invalid")),
        ("GET", "/queues/default/stats?x=1", None, (422, "invalid")),
        ("POST", "/queues", b"{", (400, "malformed")),
        ("POST", "/queues", b"[" * 100_000, (400, "malformed")),
        ("POST", "/queues", b'{"name":NaN}', (400, "malformed")),
        ("POST", "/queues", b"\xff\xfe", (400, "malformed")),
        ("POST", "/queues", b"", (422, "invalid")),
        ("POST", "/queues", b"[]", (422, "invalid")),
        ("POST", "/queues", b'{"name":"x","y":1}', (422, "invalid")),
        ("POST", "/queues", b'{"name":"../x"}', (422, "invalid")),
    ],
)
def test_what_is_not_right_is_said(api: Api, method: str, path: str, body: bytes | None, expected: Any):
    answer = api.http.request(method, path, content=body)
    if expected is None:
        assert answer.status_code == 405
        assert answer.headers["allow"]
        return
    assert kind(answer) == expected
    assert "Traceback" not in answer.text
    assert str(api.spool) not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert api.stats()["enqueued_total"] == 0


def test_json_is_taken_as_json_only(api: Api):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert kind(api.http.post("/queues", content=b"{}", headers=form)) == (415, "unsupported-media-type")
    batch = api.http.post("/queues/default/messages/batch", content=b"{}", headers=form)
    assert kind(batch) == (415, "unsupported-media-type")
    merge = {"Content-Type": "application/merge-patch+json"}
    assert api.http.post("/queues", content=b'{"name":"x"}', headers=merge).status_code == 201
    assert api.http.post("/queues", content=b'{"name":"y"}').status_code == 201
    large = b'{"name":"' + b"x" * 9_000_000 + b'"}'
    assert kind(api.http.post("/queues", content=large)) == (413, "too-large")


def test_limits_of_the_queue_are_told_apart(api: Api):
    limits = {"limits": {"body_bytes": 100_000, "messages": 1}}
    api.http.put("/queues/default/settings", json=limits)
    for size in (100_001, 200_000, 5_000_000):
        assert kind(api.http.post("/enqueue", content=b"x" * size)) == (413, "too-large")
    api.enqueue()
    assert kind(api.http.post("/enqueue", content=b"x")) == (507, "queue-full")
    api.http.put("/queues/default/settings", json={"reserve": {"bytes": 2**62}})
    ready = api.http.get("/readyz")
    assert kind(ready) == (503, "not-ready")
    for size in (1, 1_000_000):
        answer = api.http.post("/enqueue", content=b"x" * size)
        assert kind(answer) == (507, "disk-full")
        assert str(api.spool) not in answer.text
    assert ready.headers["retry-after"] == "1"
    assert "reserve" in ready.json()["problems"][0]
    assert api.dequeue()["body"] == "x"
    assert list((api.spool / "tmp").iterdir()) == []


def test_busy_is_said_with_retry_after(api: Api, open_queue: Any):
    api.http.put("/queues/default/settings", json={"busy_s": 0.05})
    with open_queue()._session.alone():
        answer = api.http.get("/dequeue")
        assert kind(answer) == (503, "busy")
        assert answer.headers["retry-after"] == "1"
    assert api.http.get("/dequeue").status_code == 204


def test_a_link_in_the_spool_is_not_followed(api: Api, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    id = api.enqueue()
    got = api.dequeue()
    name = next((api.spool / "cur").iterdir())
    name.unlink()
    name.symlink_to(secret)
    assert kind(api.http.get(f"/queues/default/messages/{id}/body")) == (409, "unsafe-file")
    assert kind(api.http.get(got["body_url"])) == (409, "unsafe-file")
    name.unlink()
    api.http.post(f"/queues/default/claims/{got['receipt']}/acknowledge")


def test_a_database_that_is_away_makes_not_ready_at_once(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A queue that is open would ask for half a minute, which no probe waits for."""
    asked = []

    def away(spool: str) -> list[str]:
        raise Unreachable("no server answers", op="open")

    monkeypatch.setattr(entry, "list_queues", away)
    monkeypatch.setattr(status, "figures", asked.append)
    assert kind(api.http.get("/readyz")) == (503, "not-ready")
    assert asked == []
    assert "no server answers" in caplog.text


def test_the_server_says_how_it_is(api: Api):
    assert api.http.get("/healthz").json() == {"status": "ok"}
    assert api.http.get("/readyz").json() == {"status": "ready"}
    api.enqueue(b"12345")
    text = api.http.get("/metrics").text
    assert 'spoolq_messages{queue="default",state="ready"} 1.0' in text
    assert 'spoolq_bytes{queue="default",state="ready"} 5.0' in text
    assert 'spoolq_enqueued_total{queue="default"} 1.0' in text
    assert 'spoolq_wait_seconds_bucket{le="+Inf",queue="default"} 0.0' in text
    assert 'spoolq_http_requests_total{method="POST",status="201"} 1.0' in text
    assert "spoolq_disk_free_bytes" in text
    schema = api.http.get("/openapi.json").json()
    assert "/queues/{q}/claims/{receipt}/acknowledge" in schema["paths"]
