"""The worker, the consumer's loop and the command line on a queue of a server: they know the contract only."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from spoolq import open_queue, tokens
from spoolq.worker import CommandHandler, PythonHandler, Worker
from tests.client.scripted import RECEIPT, answer, die
from tests.client.test_repeating import CLAIMED
from tests.helpers import LIMIT_S, wait_for

ROOT = Path(__file__).parents[2]


# The worker


def test_a_worker_extends_its_claim_by_itself(live):
    """The handler takes longer than the lease; nobody else gets the message, and the attempt is the first."""
    live.change_settings(replace(live.settings, lease_s=0.5))
    message_id = live.enqueue(b"x")
    first_ms = []
    seen = []

    def handle(message):
        first_ms.append(live.get(message.id).deadline_at_ms)
        wait_for(lambda: live.get(message.id).deadline_at_ms > first_ms[0] + 700)
        seen.append((message.attempts, live.dequeue()))

    assert Worker(live, PythonHandler(handle), drain=True).run() == 0
    assert seen == [(1, None)]
    assert live.get(message_id).state == "done"


def test_a_command_gets_the_body_and_a_file_of_it(live, tmp_path):
    """Although the engine has no paths; and where to find the queue, without the token."""
    body = os.urandom(300_000)
    live.enqueue(body, name="photo.jpg", headers={"k": "v"})
    script = 'cmp - "$1" && cp "$1" "$2" && printf "%s\\n" "$SPOOLQ_NAME" "$SPOOLQ_SPOOL" "$SPOOLQ_QUEUE" > "$2.said"'
    copy = tmp_path / "copy"
    assert Worker(live, CommandHandler(["sh", "-c", script, "sh", "{}", str(copy)]), drain=True).run() == 0
    assert copy.read_bytes() == body
    assert (tmp_path / "copy.said").read_text().splitlines() == ["photo.jpg", live.url, "default"]
    assert live.stats().done == 1


def test_a_failing_command_ends_in_the_history(live):
    """Exit status and standard error travel with the requeue."""
    live.change_settings(replace(live.settings, max_attempts=1))
    message_id = live.enqueue(b"x")
    assert Worker(live, CommandHandler(["sh", "-c", "echo no such host >&2; exit 3"]), drain=True).run() == 0
    info = live.get(message_id)
    assert info.state == "dead"
    assert [(each.exit_status, each.stderr) for each in info.history] == [(3, "no such host\n")]
    assert info.history[0].pid == os.getpid()


def test_a_worker_outlasts_a_server_that_is_away(scripted, monkeypatch):
    """It asks again for what it may have claimed, and acknowledges once more where the answer was lost."""
    from spoolq.worker.settle import Backoff

    monkeypatch.setattr(Backoff, "FIRST_S", 0.001)
    acknowledged = answer(204)
    queue, server = scripted(*[die] * 8, CLAIMED, answer(200, {}), *[die] * 5, acknowledged)
    assert Worker(queue, PythonHandler(lambda _: None), once=True).run() == 0
    claims = [each for each in server.asked if each.target.endswith("/claims")]
    assert len({each.headers["request-id"] for each in claims}) == 1
    assert server.asked[-1].target.endswith(f"{RECEIPT}/acknowledge")
    assert server.steps == []


def test_a_waiting_worker_is_told_to_stop(live):
    """A long poll ends with its `poll_s`."""
    worker = Worker(live, PythonHandler(lambda _: None), poll_s=0.05)
    thread = threading.Thread(target=worker.run)
    thread.start()
    worker.stop()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_consumers_share_a_queue(live):
    """Two objects, one server: each message once."""
    live.enqueue_many([b"%d" % number for number in range(20)])
    bodies = []
    with open_queue(live.url) as other:
        for first in live.consume(wait_s=0):
            bodies.append(first.body)
            second = other.dequeue()
            if second is not None:
                bodies.append(second.body)
                second.ack()
    assert sorted(bodies) == sorted(b"%d" % number for number in range(20))


def test_a_forked_child_has_connections_of_its_own(live):
    """It can use the queue, and what it closes is not the parent's: neither sockets nor claims."""
    live.enqueue(b"mine")
    message = live.dequeue()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            live.enqueue(b"from the child")
            live.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert live.get(message.id).receipt == message.receipt
    message.ack()
    assert live.dequeue().body == b"from the child"


# The command line


@pytest.fixture
def spoolq(tmp_path):
    """`spoolq("put", ...)` as a process, in an empty directory."""

    def run(*args, stdin=b"", status=0, **environ):
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environ
        done = subprocess.run(
            [sys.executable, "-m", "spoolq", *args],
            input=stdin,
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == status, done.stderr.decode()
        assert b"Traceback" not in done.stderr
        return done

    return run


def test_put_get_and_settle_by_url(live, spoolq):
    """`--spool` takes a URL; a claim of `get` outlives the command."""
    put = spoolq("put", "--spool", live.url, "--header", "k=v", stdin=b"hello")
    message_id = put.stdout.decode().strip()
    got = json.loads(spoolq("get", "--json", SPOOLQ_SPOOL=live.url).stdout)
    assert (got["id"], got["body"], got["headers"]) == (message_id, "hello", {"k": "v"})
    assert live.get(message_id).state == "claimed"
    assert spoolq("requeue", got["receipt"], "--delay", "0", "--spool", live.url).stdout == b"ready\n"
    spoolq("ack", got["receipt"], "--spool", live.url, status=4)
    receipt = spoolq("get", "--spool", live.url).stderr.decode().strip()
    spoolq("ack", receipt, "--spool", live.url)
    spoolq("get", "--spool", live.url, status=3)
    assert json.loads(spoolq("stats", "--json", "--spool", live.url).stdout)["done"] == 1


def test_queues_by_url(live, spoolq):
    """Made, listed, used by name, deleted."""
    server = live.server
    spoolq("queues", "create", "emails", "max_attempts=3", "--spool", server)
    assert spoolq("queues", "list", "--spool", server).stdout.split() == [b"default", b"emails"]
    spoolq("put", "--queue", "emails", "--spool", server, stdin=b"x")
    with open_queue(f"{server}/queues/emails") as queue:
        assert (queue.stats().ready, queue.settings.max_attempts) == (1, 3)
    spoolq("queues", "create", "emails", "--spool", server, status=1)
    spoolq("queues", "delete", "emails", "--yes", "--spool", server)
    spoolq("put", "--queue", "emails", "--spool", server, stdin=b"x", status=5)


def test_work_by_url(live, spoolq, tmp_path):
    """A worker on another machine, as it were."""
    live.enqueue_many([b"1\n", b"2\n", b"3\n"])
    spoolq("work", "--drain", "--spool", live.url, "--", "sh", "-c", "cat >> out")
    assert (tmp_path / "out").read_bytes() == b"1\n2\n3\n"
    assert live.stats().done == 3


def test_nobody_there_is_75(spoolq):
    """Try again later; where it was looked for stands in the words."""
    told = spoolq("put", "--spool", "http://127.0.0.1:9/queues/default", stdin=b"x", status=75).stderr.decode()
    assert "http://127.0.0.1:9 does not answer" in told


def test_a_token_is_needed_and_never_shown(app_server, make_app, spool, spoolq):
    """From SPOOLQ_TOKEN or the URL; scopes hold; no output has it."""
    app = make_app()
    with app_server.serving(lambda: app):
        produce = tokens.create_token(spool, "shop", scopes=["enqueue"])
        wait_for(lambda: spoolq_status(app_server.url) == 401)
        url = f"{app_server.url}/queues/default"
        refused = spoolq("put", "--spool", url, stdin=b"x", status=1)
        assert b"SPOOLQ_TOKEN" in refused.stderr
        outputs = [
            spoolq("put", "--spool", url, "--json", stdin=b"x", SPOOLQ_TOKEN=produce),
            spoolq("put", "--spool", f"{url}?token={produce}", stdin=b"x"),
            spoolq("get", "--spool", url, "--json", SPOOLQ_TOKEN=produce, status=1),
            spoolq("put", "--spool", f"{url}?token={produce}x", stdin=b"x", status=1),
            spoolq("put", "--spool", f"{url}?token={produce}&x", stdin=b"x", status=2),
        ]
        shown = b"".join(each.stdout + each.stderr for each in outputs)
        assert b"scope consume" in shown
        assert produce.encode() not in shown


def spoolq_status(url):
    import httpx

    return httpx.get(f"{url}/queues").status_code
