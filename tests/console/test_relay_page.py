"""The admin console's page of relays: nothing there, at work, the target away, ended, died; hostile words as text."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace

import pytest

from spoolq.clock import Clock
from spoolq.relay import Figures
from spoolq.relay.reports import Report, Reporter, directory_for
from spoolq.spool.holders import process_start
from tests.console.pages import HOSTILE, opened, plain, table, texts, wrong

TARGET = "http://there:8000/queues/default"


@pytest.fixture
def queue(here, open_queue):
    return open_queue()


@pytest.fixture
def mine() -> Report:
    """A relay that is this process."""
    now_ms, pid = Clock().wall_ms(), os.getpid()
    return Report(
        queue="default", target=TARGET, pid=pid, start=process_start(pid), boot=Clock().boot_id(), since_at_ms=now_ms,
        at_ms=now_ms, sent=7,
    )  # fmt: skip


def tell(here, *reports: Report) -> None:
    directory = directory_for(str(here), {})
    directory.mkdir(exist_ok=True)
    for number, report in enumerate(reports):
        (directory / f"{number:08x}-1.json").write_text(json.dumps(asdict(report)))


def test_without_a_relay_it_says_how_to_start_one(queue):
    app = opened("admin", "relay")
    assert "No relay carries anything from here." in texts(app)
    assert "SPOOLQ_RELAY_TARGET" in texts(app)


def test_one_that_works_is_shown_with_its_backlog(queue, here, mine):
    """What waits is the queue's own number, as fresh as the page."""
    queue.enqueue_many([b"1", b"2"])
    tell(here, mine)
    app = opened("admin", "relay")
    assert wrong(app) == ""
    assert (table(app, "is"), table(app, "backlog"), table(app, "sent")) == (["running"], [2], [7])
    assert table(app, "to") == [TARGET]
    assert table(app, "pid") == [str(mine.pid)]  # a name, without thousands


def test_the_lag_of_an_outage_is_what_the_relay_knows(queue, here, mine):
    """What it tries and gives back is ready anew in the queue; once the target is back, the queue knows itself."""
    queue.enqueue(b"1")
    since_ms = mine.at_ms - 3_600_000
    tell(here, replace(mine, is_away=True, error="no server answers", waiting_since_ms=since_ms))
    assert table(opened("admin", "relay"), "lag")[0].startswith("1h")
    tell(here, replace(mine, waiting_since_ms=since_ms))
    assert not table(opened("admin", "relay"), "lag")[0].startswith("1h")


def test_the_report_of_an_older_relay_is_read(queue, here, mine):
    directory = directory_for(str(here), {})
    directory.mkdir()
    told = asdict(mine)
    del told["waiting_since_ms"]
    (directory / "00000000-1.json").write_text(json.dumps(told))
    assert table(opened("admin", "relay"), "sent") == [7]


def test_an_outage_is_an_alarm_with_the_words_of_the_target(queue, here, mine):
    tell(here, replace(mine, is_away=True, error="no server answers"))
    app = opened("admin", "relay")
    assert table(app, "is") == ["the target is away"]
    assert "no server answers" in wrong(app)


@pytest.mark.parametrize(("change", "is_now"), [({"ended": True}, "stopped"), ({"start": 1}, "died")])
def test_nobody_carries_while_messages_wait(queue, here, mine, change, is_now):
    """An alarm only where something waits."""
    tell(here, replace(mine, **change))
    app = opened("admin", "relay")
    assert (table(app, "is"), wrong(app)) == ([is_now], "")
    queue.enqueue(b"x")
    assert "1 message" in wrong(opened("admin", "relay"))


def test_hostile_words_are_text(queue, here, mine):
    """In the table as they are; where markdown is read, without a mark that does anything."""
    tell(here, replace(mine, target=HOSTILE, error=HOSTILE, is_away=True), replace(mine, queue="gone", target=HOSTILE))
    app = opened("admin", "relay")
    assert all("\x1b" not in value for value in table(app, "to"))
    assert all("<b>" not in each.value.replace("\\<b\\>", "") for each in app.error)
    assert "<b>x</b>" in plain(each.value for each in app.error)
    assert list(table(app, "backlog"))[1] != list(table(app, "backlog"))[1]  # a queue that is gone: nothing is known


def test_files_that_are_no_reports_are_left_out(queue, here, mine):
    tell(here, mine)
    directory = directory_for(str(here), {})
    (directory / "aa-1.json").write_text("{")
    (directory / "ab-1.json").write_text(json.dumps(asdict(mine) | {"pid": "x"}))
    (directory / "ac-1.json").write_text(json.dumps([1]))
    (directory / "ad-1.json").symlink_to("/etc/passwd")
    assert table(opened("admin", "relay"), "is") == ["running"]


def test_what_a_relay_writes_is_what_the_page_reads(queue, here):
    """The file of a relay that has died goes when the next one between the same queues starts."""
    reporter = Reporter(directory_for(str(here), {}), "default", TARGET)
    reporter.tell(Figures(sent=3))
    assert (table(opened("admin", "relay"), "sent"), table(opened("admin", "relay"), "is")) == ([3], ["running"])
    reporter.tell(Figures(sent=4), ended=True)
    assert (table(opened("admin", "relay"), "sent"), table(opened("admin", "relay"), "is")) == ([4], ["stopped"])
    Reporter(directory_for(str(here), {}), "default", TARGET)
    assert "No relay" in texts(opened("admin", "relay"))
