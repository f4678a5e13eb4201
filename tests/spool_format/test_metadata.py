"""Sections 1 and 3 of docs/spool-format.md: what is in `meta/`, line by line, and what a spool is made of."""

import base64
import json
import os
import re
import stat
from pathlib import Path

import pytest

from spoolq.models import Attempt
from spoolq.settings import Retry, Settings, dump
from spoolq.spool import meta
from spoolq.spool.directory import FORMAT_TEXT, QueueDirectory
from spoolq.spool.files import Files
from spoolq.spool.queue import SpoolQueue
from tests.spool_format.document import section, tables


def lines(spool: Path, id: str) -> list[dict[str, object]]:
    """The metadata of a message as it is on the disk."""
    return [json.loads(line) for line in (spool / "meta" / f"{id}.jsonl").read_bytes().splitlines()]


def fields(cell: str) -> set[str]:
    """The names between backticks."""
    return set(re.findall(r"`([a-z_0-9]+)`", cell))


@pytest.fixture
def queue(spool):
    spool.mkdir(mode=0o700)
    settings = Settings(durability="process", max_attempts=3, retry=Retry(base_s=0, jitter=0))
    (spool / "queue.toml").write_text(dump(settings))
    with SpoolQueue.open(spool) as queue:
        yield queue


FIRST, FURTHER, BY_HAND = tables(3)[0]


def test_nothing_to_say(queue, spool):
    """A plain message has no metadata, and one that was delivered and acknowledged neither."""
    queue.enqueue(b"x", name="report.csv", priority=7, delay_s=0)
    queue.dequeue().ack()
    queue.dequeue()
    assert os.listdir(spool / "meta") == []


def test_first(queue, spool):
    """What came with the message, the fields that apply, and no others."""
    id = queue.enqueue(
        b"x",
        headers={"k": "wert ✓"},
        content_type="text/plain",
        dedup_key="key",
        group="g",
        ttl_s=60,
        name="a b.txt",
    )
    (line,) = lines(spool, id)
    known = fields(FIRST[2]) - {"name_b64"}
    assert set(line) == known | {"kind"}
    assert (line["kind"], line["headers"], line["name"]) == ("message", {"k": "wert ✓"}, "a b.txt")
    (line,) = lines(spool, queue.enqueue(b"x", group="g"))
    assert line == {"kind": "message", "group": "g"}


@pytest.mark.parametrize("name", [b"f\xffo", b"caf\xe9.txt"])
def test_first_of_a_name_that_is_not_utf8(queue, spool, name):
    """Its exact bytes are kept in base64."""
    (spool / "new" / os.fsdecode(name)).write_bytes(b"x")
    message = queue.dequeue()
    (line,) = lines(spool, message.id)
    assert line == {"kind": "message", "name_b64": base64.b64encode(name).decode()}
    exact = meta.read_arrival(queue._directory, message.id).name
    assert exact is not None
    assert os.fsencode(exact) == name


def test_each_further(queue, spool):
    """One line for each delivery that ended otherwise than by acknowledge or release."""
    id = queue.enqueue(b"x")
    details = Attempt(attempt=9, outcome="", ended_at_ms=0, exit_status=1, stderr="no", duration_s=0.5)
    queue.dequeue().requeue(0, "first", details=details)
    queue.dequeue().release()
    assert queue.give_back(queue.dequeue().id) is None
    queue.dequeue().requeue(0, "last", details=Attempt(attempt=0, outcome="", ended_at_ms=0, signal=9))
    found = lines(spool, id)
    assert [(line["kind"], line["attempt"], line["outcome"]) for line in found] == [
        ("attempt", 1, "requeued"),
        ("attempt", 2, "given_back"),
        ("attempt", 3, "dead"),
    ]
    for line in found:
        assert fields(FURTHER[2]) >= set(line) - {"kind"}
        assert {"attempt", "nonce", "outcome", "reason", "ended_at_ms", "host", "pid"} <= set(line)
    assert (found[0]["exit_status"], found[0]["stderr"], found[0]["duration_s"]) == (1, "no", 0.5)
    assert found[2]["signal"] == 9


def test_a_person_sent_it_again(queue, spool):
    """`redriven` and `replayed` are kinds of their own."""
    id = queue.enqueue(b"x")
    queue.dequeue().dead_letter("no")
    queue.dead_letters.redrive()
    queue.dequeue().ack()
    queue.replay(id)
    kinds = [line["kind"] for line in lines(spool, id)]
    assert kinds == ["attempt", "redriven", "replayed"]
    assert all(kind in BY_HAND[2] for kind in kinds[1:])
    assert all("ended_at_ms" in line for line in lines(spool, id))
    assert [each.outcome for each in queue.get(id).history] == ["dead", "redriven", "replayed"]


@pytest.mark.parametrize(
    "torn",
    [b'{"kind":"attempt","attempt":1,"out', b"\0\0\0\0", b"[]", b'"text"', b"nonsense", b"[" * 100_000, b"\xff\xfe"],
)
def test_a_line_that_is_not_whole_is_ignored(queue, spool, torn):
    """A torn line says nothing; the next line is not glued to it."""
    id = queue.enqueue(b"x", headers={"a": "b"})
    with open(spool / "meta" / f"{id}.jsonl", "ab") as file:
        file.write(torn)
    queue.dequeue().requeue(0, "no")
    info = queue.get(id)
    assert info.headers == {"a": "b"}
    assert [each.reason for each in info.history] == ["no"]


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "message", "headers": {"a": 1}, "group": 5, "expires_at_ms": "soon", "name_b64": "%%%"},
        {"kind": "message", "headers": ["a"], "dedup_key": None, "dedup_until_ms": -1, "name": 1},
        {"kind": "attempt", "attempt": "1", "outcome": 2, "ended_at_ms": None},
        {"kind": "attempt", "attempt": True, "outcome": "dead", "ended_at_ms": 1e300},
        {"kind": ["message"]},
        {},
    ],
)
def test_a_line_edited_by_hand_is_read_as_far_as_it_makes_sense(spool, line):
    """Nothing that stands in the file makes reading fail."""
    (spool / "meta").mkdir(parents=True)
    directory = QueueDirectory(spool, Files(), "")
    (spool / "meta" / "x.jsonl").write_bytes(json.dumps(line).encode() + b"\n")
    found = meta.read_meta(directory, "x")
    assert found.history == ()
    assert found.arrival.is_empty()
    assert meta.read_arrival(directory, "x").is_empty()


def test_a_line_that_cannot_be_written_is_no_reason_not_to_move(queue, spool, caplog):
    """The message is more than its history."""
    id = queue.enqueue(b"x")
    message = queue.dequeue()
    (spool / "meta" / f"{id}.jsonl").mkdir()
    message.requeue(0, "no")
    assert "history.not_written" in caplog.text
    assert queue.dequeue().id == id
    (spool / "meta" / f"{id}.jsonl").rmdir()


def test_metadata_is_swept_when_nothing_needs_it(spool, open_queue):
    """No message of its id, and its window over."""
    from spoolq.testing import FakeClock

    clock = FakeClock()
    queue = open_queue(clock=clock)
    gone = queue.enqueue(b"x", headers={"a": "b"}, dedup_key="k")
    kept = queue.enqueue(b"y", headers={"a": "b"})
    os.unlink(next((spool / "new").glob(f"{gone}*")))
    queue.check(fix=True)
    clock.advance(200)
    queue.clean()
    assert sorted(os.listdir(spool / "meta")) == sorted([f"{gone}.jsonl", f"{kept}.jsonl"])
    clock.advance(37 * 3600)
    queue.clean()
    assert os.listdir(spool / "meta") == [f"{kept}.jsonl"]


# Section 1


def test_layout(spool, open_queue):
    """Everything that section 1 names is there, and nothing else, with its modes."""
    queue = open_queue()
    queue.enqueue(b"x", headers={"a": "b"})
    queue.dequeue()
    queue.pause()
    queue.resume()
    (named,) = re.findall(r"```\n(spool/ .*?)```", section(1), re.DOTALL)
    known = set(re.findall(r"^  ([A-Za-z_.]+?)(?:/|,| )", named, re.MULTILINE))
    assert {"tmp", "new", "cur", "done", "dead", "meta", "holders", "lock", "FORMAT"} <= known
    there = set(os.listdir(spool))
    assert {re.sub(r"-(wal|shm)$", "", name) for name in there} <= known
    assert known - there <= {"queue.toml", "paused", "index.db-clean"}
    assert (spool / "FORMAT").read_text() == FORMAT_TEXT == "spoolq 1\n"
    for path, _, files in os.walk(spool):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700, path
        for name in files:
            mode = stat.S_IMODE(os.stat(os.path.join(path, name)).st_mode)
            assert mode & 0o077 == 0 or name.startswith("index.db"), name


def test_the_index_is_nobody_elses(spool, open_queue):
    """What is in it of names and reasons is as private as the messages are."""
    queue = open_queue()
    queue.enqueue(b"x")
    queue.rebuild()
    queue.enqueue(b"y")
    for path in spool.glob("index.db*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path.name


@pytest.mark.parametrize("there", ["missing", "empty", "only queue.toml"])
def test_opening_makes_the_spool(spool, open_queue, there):
    """A directory that is missing, empty, or holds only `queue.toml`."""
    if there != "missing":
        spool.mkdir(mode=0o700)
    if there == "only queue.toml":
        (spool / "queue.toml").write_text("max_attempts = 7\n")
    queue = open_queue()
    queue.enqueue(b"x")
    assert queue.settings.max_attempts == (7 if there == "only queue.toml" else 5)


def test_the_ballast_is_there(spool, open_queue):
    """4 MiB whose blocks are really there, in the default queue."""
    open_queue()
    found = (spool / "ballast").stat()
    assert found.st_size == 4 << 20
    assert found.st_blocks * 512 >= 4 << 20


def test_the_clean_mark_says_the_size(spool, open_queue):
    """There while the index on the disk is whole: made by the last to close, gone while anybody has it open."""
    first, second = open_queue(), open_queue()
    first.enqueue(b"x")
    assert not (spool / "index.db-clean").exists()
    first.close()
    assert not (spool / "index.db-clean").exists()
    second.close()
    assert (spool / "index.db-clean").read_text() == str((spool / "index.db").stat().st_size)
    open_queue()
    assert not (spool / "index.db-clean").exists()
