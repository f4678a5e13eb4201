"""What stands on queues works on a database: the command line, workers, the REST API and its metrics."""

import json
import os
import shlex
import signal
import subprocess
import sys

import psycopg
import pytest

from spoolq import tokens
from spoolq.console import guard, place
from spoolq.console.ops import preview
from spoolq.postgres.installing import VERSION
from tests.console.pages import HOSTILE, PAGES, click, confirmed, opened, said, table, texts, wrong
from tests.helpers import wait_for
from tests.postgres.web import ask


@pytest.fixture
def spoolq(environ, tmp_path):
    """Run a command line; what it printed. A list of objects with --json."""

    def run(*words, input="", status=0):
        done = subprocess.run(
            [sys.executable, "-m", "spoolq", *words],
            input=input, cwd=tmp_path, env=environ, check=False, text=True, capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()] if "--json" in words else done.stdout.strip()

    return run


def test_a_message_from_put_to_ack(spoolq):
    """By the commands that people use, none of which knows what it talks to."""
    message_id = spoolq("put", input="hello")
    assert spoolq("ls").splitlines()[-1].find(message_id[:8]) >= 0
    (claimed,) = spoolq("get", "--json")
    assert (claimed["id"], claimed["body"], claimed["attempts"]) == (message_id, "hello", 1)
    spoolq("extend", claimed["receipt"], "2m")
    spoolq("ack", claimed["receipt"])
    (counts,) = spoolq("stats", "--json")
    assert (counts["ready"], counts["done"]) == (0, 1)
    spoolq("get", status=3)
    spoolq("ack", f"{message_id}.t0", status=4)


def test_dead_letters_by_command(spoolq):
    """Buried, looked at, redriven."""
    message_id = spoolq("put", input="x")
    (claimed,) = spoolq("get", "--json")
    spoolq("bury", claimed["receipt"], "--reason", "not JSON")
    assert "not JSON" in spoolq("dead", "reasons")
    assert "not JSON" in spoolq("show", message_id)
    spoolq("redrive")
    assert spoolq("search", message_id[:13]) != ""
    assert spoolq("stats", "--json")[0]["ready"] == 1


def test_queues_and_keeping_by_command(spoolq):
    """Made, set, paused, cleaned, checked and deleted."""
    spoolq("queues", "create", "emails", "max_attempts=2")
    assert spoolq("queues", "list").splitlines() == ["default", "emails"]
    spoolq("queues", "settings", "emails", "retention.done_s=0")
    assert spoolq("queues", "settings", "emails", "--json")[0]["max_attempts"] == 2
    spoolq("pause", "--queue", "emails")
    spoolq("put", "--queue", "emails", input="x")
    spoolq("get", "--queue", "emails", status=3)
    spoolq("resume", "--queue", "emails")
    assert "nothing wrong" in spoolq("check")
    spoolq("clean")
    spoolq("rebuild")
    spoolq("purge", "--queue", "emails", "--yes")
    spoolq("queues", "delete", "emails", "--yes")
    assert spoolq("queues", "list") == "default"


def test_the_engine_is_made_by_command(spoolq, postgres):
    """Once; the password is not shown."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS fresh WITH (FORCE)")
        admin.execute("CREATE DATABASE fresh")
    url = postgres.dsn("fresh").replace("spoolq@", "spoolq:geheim@")
    spoolq("stats", "--spool", url, status=1)
    assert spoolq("engine", "init", url) == f"{postgres.dsn('fresh')} made"
    assert spoolq("engine", "init", url, "--json") == [{"engine": postgres.dsn("fresh"), "made": False}]
    assert spoolq("engine", "upgrade", url).endswith(f"fits this spoolq now; it had version {VERSION}")
    assert spoolq("stats", "--spool", url, "--json")[0]["ready"] == 0
    spoolq("engine", "init", "spool", status=2)


def test_a_worker_runs_commands(spoolq, queue):
    """Bodies on standard input; a failure comes back with what it said."""
    ids = queue.enqueue_many([b"%d" % number for number in range(5)])
    spoolq("work", "--drain", "-c", "2", "--", "sh", "-c", "cat >> out")
    assert queue.stats().done == 5
    queue.enqueue(b"x")
    spoolq("work", "--once", "--", "sh", "-c", "echo broken >&2; exit 3")
    (failed,) = queue.list("scheduled").messages
    (attempt,) = queue.get(failed.id).history
    assert (attempt.exit_status, attempt.stderr.strip()) == (3, "broken")
    assert len(ids) == 5


def test_a_worker_keeps_its_message_by_extending(environ, queue, tmp_path):
    """Work that takes longer than the lease is done once."""
    from dataclasses import replace

    queue.change_settings(replace(queue.settings, lease_s=1))
    message_id = queue.enqueue(b"x")
    worker = subprocess.Popen(
        [sys.executable, "-m", "spoolq", "work", "--once", "--", "sh", "-c", "sleep 3; echo done >> out"],
        env=environ, cwd=tmp_path,
    )  # fmt: skip
    assert worker.wait(30) == 0
    assert (tmp_path / "out").read_text() == "done\n"
    info = queue.get(message_id)
    assert (info.state, info.attempts) == ("done", 1)


def test_the_rest_api_before_a_database(served, queue):
    """A message by curl's means, through long polling, and with a large body both ways."""
    import threading

    found = []
    poll = threading.Thread(target=lambda: found.append(ask(f"{served}/dequeue?wait_s=20")))
    poll.start()
    ask(f"{served}/enqueue", b"hello")
    poll.join(30)
    assert [json.loads(answer)["body"] for answer in found] == ["hello"]
    large = os.urandom(3 << 20)
    sent = json.loads(ask(f"{served}/queues/default/messages", large))
    assert ask(f"{served}/queues/default/messages/{sent['id']}/body") == large
    from spoolq import open_queue

    with open_queue(f"{served}/queues/default") as client:
        message = client.dequeue()
        assert message.body == large
        message.ack()
    assert queue.get(sent["id"]).state == "done"


def test_metrics_of_a_database(served, queue):
    """Counts and histograms of each queue."""
    queue.enqueue_many([b"1", b"2"])
    queue.dequeue().ack()
    text = ask(f"{served}/metrics").decode()
    assert 'spoolq_messages{queue="default",state="ready"} 1.0' in text
    assert 'spoolq_messages{queue="default",state="done"} 1.0' in text
    assert 'spoolq_wait_seconds_count{queue="default"} 1.0' in text


def test_serving_a_database_to_others_is_refused(spoolq, dsn):
    """Tokens are kept in a spool's directory; without any, nobody listens to strangers."""
    spoolq("serve", "--host", "0.0.0.0", status=2)
    spoolq("token", "create", "x", "--scope", "admin", status=2)
    with pytest.raises(ValueError, match="URL"):
        tokens.list_tokens(dsn)


# The consoles -------------------------------------------------------------------------


@pytest.fixture
def consoles(monkeypatch, tmp_path, dsn):
    """Pages without a browser, of the database, as they are on this machine."""
    for name in [name for name in os.environ if name.startswith("SPOOLQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SPOOLQ_SPOOL", dsn)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(guard, "host_header", lambda: "localhost:8501")
    monkeypatch.setattr(guard, "listens_beyond", lambda: False)
    opens = place.OpenQueues()
    monkeypatch.setattr(place, "_open_queues", lambda: opens)
    yield
    opens.close()


@pytest.mark.parametrize(("kind", "page"), PAGES)
def test_every_page_of_both_consoles_shows_a_database(consoles, queue, kind, page):
    """Empty, and with messages in every state: what the engine has not is said in words, and nothing is an error."""
    assert wrong(opened(kind, page)) == ""
    queue.enqueue(b"ready", name=HOSTILE, group="g")
    queue.enqueue(b"later", delay_s=600)
    queue.dequeue().dead_letter(HOSTILE)
    queue.enqueue(b"done")
    queue.dequeue().ack()
    queue.enqueue(b"claimed")
    queue.dequeue()
    app = opened(kind, page)
    assert wrong(app) == ""
    assert "As of" in texts(app)


def test_pages_speak_of_a_database_as_one(consoles, queue):
    """No files, no index, no directory; which settings mean nothing; that a lease lasts, not that a process lives."""
    queue.enqueue(b"x")
    queue.dequeue()
    assert "index" not in texts(opened("admin", "overview")).lower()
    assert "look there" in texts(opened("admin", "disk"))
    assert "Only a spool is a directory" in texts(opened("admin", "drops"))
    assert "counts with messages" in texts(opened("admin", "health"))
    assert "These mean nothing in a database" in texts(opened("admin", "queues"))
    assert "queue.toml" not in texts(opened("admin", "queues"))
    assert table(opened("admin", "holders"), "alive") == ["its lease lasts"]


def test_a_body_too_large_for_the_page_is_fetched_by_a_command(consoles, queue, environ, tmp_path):
    """A database has no address for it, and no file."""
    info = queue.get(queue.enqueue(b"the body"))
    command = preview.where(queue.url, info)
    argv = [sys.executable, "-m", *shlex.split(command)]
    subprocess.run(argv, env=environ, cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "body").read_bytes() == b"the body"


def test_what_a_page_does_is_done_in_the_database(consoles, queue, tmp_path):
    """Sending in one console, a check in the other."""
    app = opened("ops", "send")
    assert wrong(app) == ""
    app = click(opened("admin", "health"), "check")
    assert "Nothing is wrong" in said(app)
    queue.enqueue(b"x")
    app = click(opened("admin", "health"), "rebuild")
    confirmed(app)
    assert "rebuild" in (tmp_path / "spoolq" / "audit.jsonl").read_text()
    assert queue.stats().ready == 1


def test_a_relay_from_a_database_is_seen_in_metrics_and_console(environ, consoles, queue, served, dsn, tmp_path):
    """A database can be a source, too: its claims live by time."""
    from dataclasses import replace

    from spoolq import open_queue
    from spoolq.relay import WINDOW_S

    target = tmp_path / "target"
    with open_queue(target) as there:
        there.change_settings(replace(there.stored_settings(), dedup_window_s=WINDOW_S))
    queue.enqueue_many([b"1", b"2"])
    relay = subprocess.Popen(
        [sys.executable, "-m", "spoolq", "relay", dsn, str(target)], env=environ, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: queue.stats().done == 2, 30)
        wait_for(lambda: list((tmp_path / "spoolq" / "relays").rglob("[0-9a-f]*.json")), 30)
        app = opened("admin", "relay")
        assert wrong(app) == ""
        assert "No relay" not in texts(app)
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(30) == 0
    finally:
        relay.kill()
        relay.wait()
    with open_queue(target) as there:
        assert sorted(message.body for message in there.dequeue_many(10)) == [b"1", b"2"]
    labels = f'{{queue="default",target="{target}"}}'
    text = ask(f"{served}/metrics").decode()
    assert f"spoolq_relay_sent_total{labels} 2.0" in text
    assert f"spoolq_relay_backlog{labels} 0.0" in text
