"""`spoolq init`, `clean`, `check`, `rebuild`, `watch`: what keeps a spool well."""

from __future__ import annotations

import threading
import time

import pytest

from spoolq import queue as entry
from spoolq.cli.watch import Watcher
from spoolq.errors import Busy
from spoolq.models import Problem


def test_init_makes_a_spool_and_says_how_to_go_on(spoolq, tmp_path):
    assert "cp FILE there/new/" in spoolq("init", "there", "--durability", "full").text
    assert (tmp_path / "there" / "new").is_dir()
    assert 'durability = "full"' in (tmp_path / "there" / "queue.toml").read_text()
    assert spoolq("init", "--json").objects == [{"spool": "spool", "made": True}]
    assert spoolq("init").text == "spool is a spool already, and was left as it is\n"
    assert spoolq("init", "x", "--durability", "best", ok=False).status == 2
    assert spoolq("init", "x", "--group", "no-such-group-here", ok=False).status in {1, 2}


def test_init_refuses_a_directory_that_is_something_else(spoolq, tmp_path):
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "holiday.jpg").write_bytes(b"x")
    result = spoolq("init", ok=False)
    assert result.status == 1
    assert result.errors.startswith("spoolq: ")


def test_clean_deletes_what_retention_says_in_every_queue(spoolq):
    spoolq("init")
    spoolq("queues", "create", "emails")
    for name in ("default", "emails"):
        spoolq("put", "-q", name, stdin="x")
        spoolq("ack", "-q", name, spoolq("get", "-q", name).errors.strip())
        spoolq("queues", "settings", name, "retention.done_s=0.001")
    assert [line.partition(":")[0] for line in spoolq("clean", "--dry-run").lines] == ["default", "emails"]
    assert [found["queue"] for found in spoolq("clean", "--json").objects] == ["default", "emails"]
    assert spoolq("clean", "-q", "emails").text == "emails: nothing deleted\n"
    assert spoolq("stats", "--json").objects[0]["done"] == 0


def test_clean_every_goes_on_through_trouble_until_stopped(spoolq, monkeypatch):
    turns = []

    def names(spool, only):
        turns.append(only)
        raise Busy("held by pid 1") if len(turns) == 1 else KeyboardInterrupt

    monkeypatch.setattr("spoolq.cli.session.names", names)
    result = spoolq("clean", "--every", "1ms", ok=False)
    assert result.status == 130
    assert "held by pid 1" in result.errors
    assert spoolq("clean", "--every", "0", ok=False).status == 2


def test_check_of_a_sound_spool(spoolq):
    spoolq("put", stdin="x")
    assert spoolq("check").text == "default: nothing wrong\n"
    assert spoolq("check", "--json").objects == []


def test_check_says_what_is_wrong_and_exits_1_until_it_is_mended(spoolq, monkeypatch):
    spoolq("put", stdin="x")
    _break(monkeypatch)
    found = spoolq("check", ok=False)
    assert found.status == 1
    assert found.text == "default: a row without a file\\x07 (--fix: deletes the row)\n"
    assert spoolq("check", "--json", ok=False).objects[0]["kind"] == "row"
    assert spoolq("check", "--fix").text == "default: a row without a file\\x07 (done: deletes the row)\n"


def _break(monkeypatch):
    queue = type(entry.open_queue("spool"))

    def check(self, *, fix=False, progress=None):
        return [Problem(kind="row", what="a row without a file\x07", fix="deletes the row", fixed=fix)]

    monkeypatch.setattr(queue, "check", check)


def test_rebuild_counts_messages(spoolq):
    spoolq("put", "--each-line", stdin="a\nb\n")
    assert spoolq("rebuild").text == "default: 2 messages\n"
    assert spoolq("rebuild", "--json").objects == [{"queue": "default", "messages": 2}]
    assert spoolq("stats", "--json").objects[0]["ready"] == 2


@pytest.fixture
def watching(spoolq, monkeypatch):
    """Start `watch` in a thread; it is stopped at the end, and must have ended well."""
    monkeypatch.setattr("spoolq.cli.watch.LOOK_S", 0.1)
    spoolq("init")
    stop = threading.Event()
    watcher = Watcher("spool", None, stop)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(watcher.run()))
    yield thread.start
    stop.set()
    thread.join(10)
    assert ended == [0]


def _taken_in(queue):
    """Whether the one file in `new/` has the name of a message: looking with a command might take it in itself."""
    (name,) = [each.name for each in (queue / "new").iterdir()]
    return name != "dropped.txt"


def test_watch_takes_in_a_drop_while_nobody_dequeues(spoolq, tmp_path, until, watching):
    watching()
    (tmp_path / "spool" / "new" / "dropped.txt").write_text("hello")
    until(lambda: _taken_in(tmp_path / "spool"))


def test_watch_notices_new_queues(spoolq, tmp_path, until, watching):
    watching()
    spoolq("queues", "create", "emails")
    (tmp_path / "spool" / "queues" / "emails" / "new" / "dropped.txt").write_text("hello")
    until(lambda: _taken_in(tmp_path / "spool" / "queues" / "emails"))


def test_watch_goes_on_when_a_queue_is_deleted(spoolq, tmp_path, until, watching):
    spoolq("queues", "create", "emails")
    watching()
    spoolq("queues", "delete", "emails", "--yes")
    spoolq("queues", "create", "emails")
    (tmp_path / "spool" / "queues" / "emails" / "new" / "dropped.txt").write_text("hello")
    until(lambda: _taken_in(tmp_path / "spool" / "queues" / "emails"))


def test_watch_goes_on_through_trouble_that_can_pass(spoolq, tmp_path, until, watching, monkeypatch):
    queue = type(entry.open_queue("spool"))
    maintain = queue.maintain
    troubles = [Busy("held by pid 1"), Busy("held by pid 1")]

    def troubled(self, *, budget_s=0.02):
        if troubles:
            raise troubles.pop()
        return maintain(self, budget_s=budget_s)

    monkeypatch.setattr(queue, "maintain", troubled)
    watching()
    (tmp_path / "spool" / "new" / "dropped.txt").write_text("hello")
    until(lambda: not troubles and _taken_in(tmp_path / "spool"))


def test_watch_keeps_a_pace_where_waiting_ends_at_once(spoolq, until, watching, monkeypatch):
    """As it does while producers are busy, on every engine."""
    queue = type(entry.open_queue("spool"))
    maintain = queue.maintain
    turns = []

    def counted(self, *, budget_s=0.02):
        turns.append(time.monotonic())
        return maintain(self, budget_s=budget_s)

    monkeypatch.setattr(queue, "maintain", counted)
    monkeypatch.setattr(queue, "wait", lambda self, timeout_s: True)
    watching()
    until(lambda: len(turns) >= 6)
    assert turns[5] - turns[0] >= 5 * 0.019


def test_watch_fails_on_what_nobody_expected(spoolq, monkeypatch):
    spoolq("init")
    monkeypatch.setattr(type(entry.open_queue("spool")), "maintain", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Watcher("spool", None, threading.Event()).run()
