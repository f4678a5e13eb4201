"""The logic of each page of the admin console, without a browser; what it does is on the disk, and in the trail."""

from __future__ import annotations

import json
import os
import socketserver
import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

import pytest
import streamlit as st

from spoolq import audit
from spoolq.console.admin import acts, processes
from spoolq.errors import StorageError
from spoolq.queue import create_queue, list_queues
from spoolq.stack import watched
from spoolq.stack.programs import Program
from tests.console import pages
from tests.console.pages import HOSTILE, checked, click, confirmed, said, table, texts, wrong
from tests.helpers import messages

opened = partial(pages.opened, "admin")


def trail(spool: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (spool / "audit.jsonl").read_text().splitlines()]


# Overview and disk --------------------------------------------------------------------------


def test_all_queues_are_in_one_table_and_what_waits_is_counted_by_age(queue, here):
    create_queue(here, "emails").close()
    queue.enqueue_many([b"1", b"2", b"3"])
    queue.enqueue(b"later", delay_s=60)
    app = opened("overview")
    assert table(app, "oldest waits")[1] == "-"
    assert [list(app.dataframe[0].value[name]) for name in ("queue", "ready", "scheduled")] == [
        ["default", "emails"], [3, 0], [1, 0],
    ]  # fmt: skip
    assert table(app, "waiting") == [3, 3, 0]
    assert table(app, "to 1m") == [3, 3, 0]
    labels = {each.label: each.value for each in app.metric}
    assert labels["wait p50"] == "-"
    queue.dequeue().ack()
    assert {each.label: each.value for each in opened("overview").metric}["wait p50"].endswith("s")


def test_numbers_have_their_thousands_and_a_pid_is_a_name(queue):
    queue.enqueue(b"x")
    queue.dequeue()
    found = [json.loads(each.proto.columns) for each in opened("holders").dataframe]
    assert found[0]["claims"]["type_config"]["format"] == "%,d"
    assert "pid" not in found[0]


def test_charts_come_with_the_first_message(queue):
    """Before it there is nothing to draw, and that is said."""
    assert "Nothing happened in the last hour." in texts(opened("overview"))
    queue.enqueue(b"x")
    st.cache_data.clear()  # the history is kept for some seconds
    app = opened("overview")
    assert "Nothing happened" not in texts(app)
    assert "What happened, per 1m" in texts(app)


def test_the_reserve_that_is_reached_is_said(here, open_queue, settings_of):
    settings_of("[reserve]\nbytes = 9000000000000000\n")
    app = opened("disk")
    assert "The reserve is reached" in wrong(app)
    assert "Space: none is left" in texts(app)


@pytest.fixture
def settings_of(here) -> Callable[[str], None]:
    def write(text: str) -> None:
        (here / "queue.toml").write_text(text)

    return write


# Queues ----------------------------------------------------------------------------------------


def test_a_queue_is_made_and_chosen(queue, here):
    app = opened("queues")
    app.text_input(key="new-name").set_value("emails")
    click(app, "create-do")
    assert "The queue emails was made" in said(app)
    assert list_queues(here) == ["default", "emails"]
    assert app.selectbox[0].value == "emails"
    assert [(line["what"], line["queue"]) for line in trail(here)] == [("create", "emails")]


@pytest.mark.parametrize("name", ["", "../up", "Upper", "default"])
def test_a_queue_that_cannot_be_made_is_refused_in_words(queue, here, name):
    app = opened("queues")
    app.text_input(key="new-name").set_value(name)
    click(app, "create-do")
    assert wrong(app)
    assert list_queues(here) == ["default"]
    assert str(trail(here)[0]["outcome"]).startswith("refused: ")


def test_pause_and_resume(queue, here):
    app = opened("queues")
    click(app, "pause")
    assert (here / "paused").exists()
    assert app.button(key="pause").label == "Resume"
    click(app, "pause")
    assert not (here / "paused").exists()
    assert [line["what"] for line in trail(here)] == ["pause", "resume"]


def test_purge_asks_with_the_counts_and_deletes_only_these_states(queue, here):
    queue.enqueue_many([b"1", b"2"])
    dead = queue.enqueue(b"dead", priority=9)
    queue.dequeue().dead_letter("no")
    app = click(opened("queues"), "purge")
    assert "2 messages of the queue default" in texts(app)
    assert len(messages(here)) == 3
    confirmed(app)
    assert set(messages(here)) == {dead}
    assert [(line["what"], line["count"]) for line in trail(here)] == [("purge ready, scheduled", 2)]


def test_a_queue_is_deleted_when_its_name_was_typed(queue, here):
    with create_queue(here, "emails") as emails:
        emails.enqueue(b"x")
    app = click(opened("queues", queue="emails"), "delete")
    assert "1 message" in texts(app)
    app.text_input(key="confirm-typed").set_value("email")
    confirmed(app)
    assert "not what is to be typed" in wrong(app)
    assert list_queues(here) == ["default", "emails"]
    app.text_input(key="confirm-typed").set_value("emails")
    confirmed(app)
    assert list_queues(here) == ["default"]
    assert app.selectbox[0].value == "default"
    assert trail(here)[-1]["outcome"] == "The queue emails was deleted, with 1 message"


def test_the_default_queue_cannot_be_deleted(queue):
    assert opened("queues").button(key="delete").disabled


def test_settings_are_shown_as_they_become_and_saved(queue, here):
    app = opened("queues")
    assert app.button(key="save").disabled
    app.text_input(key="set-default-max_attempts-5").set_value("9")
    checked(app.run())
    assert "max_attempts = 9" in texts(app)
    assert not (here / "queue.toml").exists()
    click(app, "save")
    assert (here / "queue.toml").read_text() == "max_attempts = 9\n"
    assert "Changed: max_attempts" in said(app)
    assert app.text_input(key="set-default-max_attempts-9").value == "9"
    assert trail(here)[0]["what"] == "settings max_attempts"


def test_a_setting_that_is_not_allowed_cannot_be_saved(queue, here):
    app = opened("queues")
    app.text_input(key="set-default-max_attempts-5").set_value("0")
    checked(app.run())
    assert "from 1 to 999999" in wrong(app)
    assert "save" not in [each.key for each in app.button]


# Holders -----------------------------------------------------------------------------------------


def test_who_holds_what_and_giving_it_back(queue, here, rows):
    id = queue.enqueue(b"x", name="job")
    message = queue.dequeue()
    assert message is not None
    rows[:] = [0]
    app = opened("holders")
    assert table(app, "pid") == [str(os.getpid())]
    assert table(app, "until (UTC)") == ["its process ends"]
    click(app, "give-back")
    assert "1 message of the queue default" in texts(app)
    assert [kind for kind, _ in messages(here)[id]] == ["cur"]
    confirmed(app)
    assert "1 message given back" in said(app)
    assert [kind for kind, _ in messages(here)[id]] == ["new"]
    assert queue.get(id).history[-1].reason == "given back in the admin console"


def test_what_was_settled_meanwhile_is_not_given_back(queue, rows):
    queue.enqueue(b"x")
    message = queue.dequeue()
    rows[:] = [0]
    app = click(opened("holders"), "give-back")
    message.ack()
    confirmed(app)
    assert "0 messages given back, 1 were settled before" in said(app)


# Health and cleanup ---------------------------------------------------------------------------------


def test_what_check_finds_is_shown_and_fixed(queue, here):
    id = queue.enqueue(b"x")
    [file] = (here / "new").iterdir()
    file.rename(here / "done" / file.name)
    app = click(opened("health"), "check")
    assert len(table(app, "kind")) >= 1
    click(app, "fix")
    confirmed(app)
    assert "fixed" in said(app)
    assert queue.get(id).state == "done"
    assert queue.check() == []
    assert trail(here)[-1]["what"] == "fix"


def test_the_index_is_made_anew_after_asking(queue, here):
    queue.enqueue_many([b"1", b"2"])
    before = (here / "index.db").stat().st_ino
    app = click(opened("health"), "rebuild")
    assert "about 2 messages" in texts(app)
    assert (here / "index.db").stat().st_ino == before
    confirmed(app)
    assert "The index was made anew, with 2 messages" in said(app)
    assert (here / "index.db").stat().st_ino != before
    assert queue.stats().ready == 2


def test_cleanup_looks_first(here, open_queue, settings_of, queue):
    from spoolq.settings import Retention, Settings

    id = queue.enqueue(b"x")
    queue.dequeue().ack()
    queue.change_settings(Settings(retention=Retention(done_s=0.001)))
    app = click(opened("cleanup"), "preview")
    assert 1 in table(app, "how many")
    assert id in messages(here)
    click(app, "clean")
    confirmed(app)
    assert id not in messages(here)
    assert trail(here)[-1]["what"] == "clean"


def test_when_new_was_last_looked_through_is_said(queue):
    labels = {each.label: each.value for each in opened("health").metric}
    assert labels["last scan of new/"] == "not yet"
    while queue.maintain():
        pass
    labels = {each.label: each.value for each in opened("health").metric}
    assert labels["last scan of new/"] != "not yet"


# Drops, processes, audit ----------------------------------------------------------------------------------


def test_ignored_waiting_and_quarantined_drops_with_their_reasons(queue, here):
    (here / "new" / "half.part").write_bytes(b"123")
    (here / "new" / "folder").mkdir()
    os.symlink("/etc/passwd", here / "new" / "link")
    assert queue.dequeue() is None
    app = opened("drops")
    whys = [why for each in app.dataframe for why in each.value["why"]]
    assert whys == ["a directory cannot be a message", "its name is one of *.part", "not a regular file: symbolic link"]
    (here / "new" / "folder").rmdir()
    (here / "new" / "half.part").unlink()


class _Supervisor(socketserver.UnixStreamServer):
    """What supervisord answers, on its kind of socket."""

    def __init__(self, path: Path, state: str) -> None:
        self.dispatcher = SimpleXMLRPCDispatcher(encoding="utf-8")
        info = {"name": "api", "group": "api", "statename": state, "pid": 0, "description": "Exited too quickly",
                "logfile": "logs/api.log"}  # fmt: skip
        self.dispatcher.register_function(lambda: [info], "supervisor.getAllProcessInfo")
        super().__init__(str(path), _Handler)

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["dispatcher"], name)


class _Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/RPC2",)
    disable_nagle_algorithm = False

    def address_string(self) -> str:
        return "unix"

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


def test_a_program_that_does_not_start_is_said_with_what_happened(queue, tmp_path, monkeypatch):
    (tmp_path / "events.log").write_text(
        '{"program": "api", "from_state": "STARTING", "to_state": "BACKOFF", "at_ms": 1, "what": "crashed"}\n{"torn'
    )
    monkeypatch.setenv("SPOOLQ_SUPERVISOR_SOCKET", str(tmp_path / "s.sock"))
    with _Supervisor(tmp_path / "s.sock", "FATAL") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            app = opened("processes")
        finally:
            server.shutdown()
            thread.join()
    assert "api crashed too often: supervisord gave up" in wrong(app)
    assert table(app, "state") == ["FATAL"]
    assert table(app, "what") == ["crashed"]


def test_since_when_a_program_runs_is_told_without_its_pid():
    """That has a column of its own; what stopped or crashed is told as supervisord says it."""
    runs = Program("api", "api", "RUNNING", 7, "pid 7, uptime 0:01:00", "")
    assert processes.since(runs) == "uptime 0:01:00"
    assert processes.since(Program("api", "api", "STOPPED", 0, "Not started", "")) == "Not started"


def test_no_supervisor_is_said_with_where_it_was_looked_for(queue, here):
    assert f"No supervisord answers at {here}/logs/supervisor.sock" in texts(opened("processes"))


def test_where_the_socket_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = watched.find_socket
    assert found("s", {watched.SOCKET_VARIABLE: "/a"}) == Path("/a")
    assert found("s", {"SUPERVISOR_SERVER_URL": "unix:///b c/s.sock"}) == Path("/b c/s.sock")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "supervisor.sock").touch()
    assert found(str(tmp_path / "spool"), {}) == tmp_path / "logs" / "supervisor.sock"
    assert found("http://h/", {}) == Path("logs/supervisor.sock")


def test_the_trail_is_private_synced_appended_and_outlives_a_torn_line(tmp_path, monkeypatch):
    path = tmp_path / "spool" / "audit.jsonl"
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    audit.add(path, audit.Done(at_ms=1, who="a", what="purge", count=3))
    with path.open("ab") as file:
        file.write(b'{"at_ms": 2, "who"\n[]\n{"at_ms": "x"}\n')
    audit.add(path, audit.Done(at_ms=3, who="b", what="delete queue", outcome=HOSTILE))
    assert [(each.at_ms, each.who) for each in audit.last(path, 10)] == [(3, "b"), (1, "a")]
    assert [each.at_ms for each in audit.last(path, 1)] == [3]
    assert len(synced) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_in_the_place_of_the_trail_is_not_followed(tmp_path):
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError):
        audit.add(tmp_path / "audit.jsonl", audit.Done(at_ms=1, who="a", what="b"))
    assert not (tmp_path / "victim").exists()


def test_where_the_trail_of_a_server_is():
    assert audit.path_for("/s?queue=q", {}) == Path("/s/audit.jsonl")
    assert audit.path_for("http://h", {"XDG_STATE_HOME": "/x"}) == Path("/x/spoolq/audit.jsonl")
    assert audit.path_for("http://h", {"HOME": "/h"}) == Path("/h/.local/state/spoolq/audit.jsonl")


def test_an_act_is_done_and_said_where_the_trail_cannot_be_written(queue, here):
    (here / "audit.jsonl").mkdir()
    app = click(opened("queues"), "pause")
    assert (here / "paused").exists()
    assert "The audit trail could not be written" in said(app)
    (here / "audit.jsonl").rmdir()


def test_who_it_was(here, monkeypatch):
    assert acts.who().endswith("on this machine")
    monkeypatch.setenv("SPOOLQ_CONSOLE_TOKEN", "secret")
    assert acts.who() == "console token"
