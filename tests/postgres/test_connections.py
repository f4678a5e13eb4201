"""Connections that are lost: what is repeated, what is not, and what the caller is told."""

import os
import signal
import subprocess
import sys
import threading
import time

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from spoolq.errors import (
    Busy,
    DiskFull,
    LeaseLost,
    NotAllowed,
    NotASpool,
    OutcomeUnknown,
    QueueNotFound,
    SpoolqError,
    StorageError,
    UnknownFormat,
    Unreachable,
)
from spoolq.postgres import connection, init, installing, statements, upgrade
from spoolq.queue import create_queue, delete_queue, list_queues
from spoolq.queue import open_queue as open_any
from spoolq.settings import Settings
from tests.helpers import wait_for
from tests.postgres.cutting import Proxy
from tests.postgres_server import free_port


@pytest.fixture
def proxy(postgres):
    proxy = Proxy(postgres.port)
    yield proxy
    proxy.close()


@pytest.fixture
def cut(open_queue, proxy):
    """A queue behind the proxy, its connection made and warm."""
    queue = open_queue(url=f"postgresql://spoolq@127.0.0.1:{proxy.port}/postgres?connections=1")
    queue.stats()
    yield queue
    queue.close()  # while the proxy is there: what it holds is given back, and that waits for no dead one


def test_an_enqueue_whose_answer_was_lost_is_one_message(cut, proxy):
    """The database knows the second one by its id."""
    proxy.cut_next()
    message_id = cut.enqueue(b"x")
    assert proxy.cuts == 1
    stats = cut.stats()
    assert (stats.ready, stats.enqueued_total) == (1, 1)
    assert cut.dequeue().id == message_id


def test_a_batch_whose_answer_was_lost_is_there_once(cut, proxy):
    """All of it; keys and groups too."""
    from spoolq.models import NewMessage

    proxy.cut_next()
    ids = cut.enqueue_many([NewMessage(body=b"1", dedup_key="k", group="g"), NewMessage(body=b"2"), b"3"])
    assert proxy.cuts == 1
    assert {info.id for info in cut.list("ready").messages} == set(ids)
    assert cut.enqueue(b"again", dedup_key="k") == ids[0]


def test_a_claim_whose_answer_was_lost_is_asked_for_again(cut, proxy):
    """The same messages under the same receipts; the attempt counts once."""
    cut.enqueue_many([b"1", b"2"])
    proxy.cut_next()
    messages = cut.dequeue_many(2)
    assert proxy.cuts == 1
    assert [(message.body, message.attempts) for message in messages] == [(b"1", 1), (b"2", 1)]
    assert cut.stats().claimed == 2
    assert cut.acknowledge_many([message.receipt for message in messages]) == []


def test_an_acknowledge_whose_answer_was_lost_is_done(cut, proxy):
    """Asked again, it is answered with success."""
    cut.enqueue(b"x")
    message = cut.dequeue()
    proxy.cut_next()
    message.ack()
    assert proxy.cuts == 1
    assert cut.stats().acknowledged_total == 1


@pytest.mark.parametrize("settle", ["requeue", "release", "dead_letter"])
def test_what_cannot_be_repeated_has_an_unknown_outcome(cut, proxy, settle):
    """The error says so, and how to make sure; here it was done."""
    cut.enqueue(b"x")
    message = cut.dequeue()
    proxy.cut_next()
    with pytest.raises(OutcomeUnknown, match="spoolq show"):
        getattr(message, settle)(*(["no"] if settle == "dead_letter" else []))
    assert cut.get(message.id).state != "claimed"


def test_a_restart_between_two_calls_is_not_noticed(queue, dsn):
    """An idle connection whose server ended it is not used for a call that could be lost with it."""
    queue.enqueue(b"x")
    message = queue.dequeue()
    with psycopg.connect(dsn, autocommit=True) as killer:
        killer.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'spoolq' AND backend_type = 'client backend'"
        )
    message.release()
    assert queue.dequeue().attempts == 1


def test_a_host_that_is_away_is_passed_over(open_queue, postgres):
    """The DSN names several; the one that can be written to is found."""
    url = f"postgresql://spoolq@127.0.0.1:{free_port()},127.0.0.1:{postgres.port}/postgres"
    assert open_queue(url=url).dequeue() is None


def test_no_server_is_said_at_once():
    """Unreachable, without the password."""
    with pytest.raises(Unreachable) as caught:
        open_any(f"postgresql://me:geheim@127.0.0.1:{free_port()}/db")
    assert "geheim" not in str(caught.value) + repr(caught.value)


def test_a_server_that_stays_away_is_an_error(cut, proxy, monkeypatch):
    """Tried again for a while, then Unreachable: nothing was sent."""
    monkeypatch.setattr(connection, "RETRY_S", 0.2)
    monkeypatch.setattr(connection, "_BORROW_S", 0.5)
    proxy.close()
    with pytest.raises(Unreachable, match="does not answer"):
        cut.enqueue(b"x")


def test_no_password_is_shown(postgres, open_queue):
    """Not by the URL, the object or its database."""
    queue = open_queue(url=f"postgresql://spoolq:geheim@127.0.0.1:{postgres.port}/postgres?queue=default")
    assert queue.url == f"postgresql://spoolq@127.0.0.1:{postgres.port}/postgres?queue=default"
    assert "geheim" not in repr(queue) + repr(queue.database) + repr(queue.database.address)


def test_a_forked_child_has_connections_of_its_own(queue):
    """Parent and child each claim through the object that was open before; neither ends what the other holds."""
    queue.enqueue_many([b"1", b"2"])
    mine = queue.dequeue()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            message = queue.dequeue()
            if message is not None and message.body == b"2":
                message.ack()
                queue.enqueue(b"from the child")
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    mine.ack()
    assert queue.dequeue().body == b"from the child"
    assert queue.stats().done == 2


def test_a_killed_consumer_loses_its_claim_to_time(open_queue, dsn):
    """After its lease the message is delivered again, counted, with the reason; the killed one's receipt is void."""
    queue = open_queue(Settings(lease_s=0.5))
    queue.enqueue(b"x")
    code = (
        f"import spoolq, time; m = spoolq.open_queue({dsn!r}).dequeue(); print(m.receipt, flush=True); time.sleep(60)"
    )
    consumer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    receipt = consumer.stdout.readline().strip()
    consumer.send_signal(signal.SIGKILL)
    consumer.wait()
    consumer.stdout.close()
    message = queue.dequeue(wait_s=20)
    assert message.attempts == 2
    assert [each.reason for each in queue.get(message.id).history] == ["lease ended"]
    with pytest.raises(LeaseLost):
        queue.acknowledge(receipt)


def test_who_waits_is_woken_at_once(open_queue, queue):
    """By a notification, not by the next look: ten times in far less than the time of ten looks."""
    import time

    other = open_queue()
    took_s = []
    for _ in range(5):
        found = []
        waiting = threading.Thread(
            target=lambda found=found: found.append((queue.dequeue(wait_s=20), time.monotonic()))
        )
        waiting.start()
        wait_for(lambda: queue.listener._thread is not None and queue.listener._listeners)
        time.sleep(0.1)  # until it waits: nothing shows that from outside
        sent_s = time.monotonic()
        other.enqueue(b"x")
        waiting.join(20)
        took_s.append(found[0][1] - sent_s)
    assert sorted(took_s)[2] < 0.3


# The schema


@pytest.fixture
def empty_database(postgres):
    """A database without a schema of ours."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS empty WITH (FORCE)")
        admin.execute("CREATE DATABASE empty")
    return postgres.dsn("empty")


def test_what_init_was_not_run_in_is_refused(empty_database):
    """With what to do about it."""
    with pytest.raises(NotASpool, match="spoolq engine init"):
        open_any(empty_database)
    with pytest.raises(NotASpool, match="spoolq engine init"):
        upgrade(empty_database)


def test_init_makes_it_once(empty_database):
    """The second time it changes nothing; two at once are one."""
    made = []
    threads = [threading.Thread(target=lambda: made.append(init(empty_database))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, True]
    assert list_queues(empty_database) == ["default"]


def test_an_upgrade_keeps_everything(empty_database):
    """Functions are replaced, messages stay."""
    init(empty_database)
    with open_any(empty_database) as queue:
        message_id = queue.enqueue(b"x")
    assert upgrade(empty_database) == installing.VERSION
    with open_any(empty_database) as queue:
        assert queue.dequeue().id == message_id


RECEIPTS_1 = """
DROP TABLE spoolq.receipts;
CREATE TABLE spoolq.receipts (
    id uuid PRIMARY KEY, queue integer NOT NULL, nonce text NOT NULL, until_at_ms bigint NOT NULL
);
CREATE INDEX receipts_until ON spoolq.receipts (queue, until_at_ms);
UPDATE spoolq.version SET version = 1
"""


def test_the_first_version_is_upgraded(empty_database):
    """Receipts were remembered one by one: those it remembers still are."""
    init(empty_database)
    id, until_ms = "01a20edd-caa1-71ea-9d96-adaf7a5dd8af", time.time_ns() // 1_000_000 + 600_000
    with psycopg.connect(empty_database, autocommit=True) as admin:
        admin.execute(RECEIPTS_1)
        admin.execute("INSERT INTO spoolq.receipts SELECT %s, id, 'tabc', %s FROM spoolq.queues", (id, until_ms))
    with pytest.raises(UnknownFormat, match="engine upgrade"):
        open_any(empty_database)
    assert upgrade(empty_database) == 1
    with open_any(empty_database) as queue:
        queue.acknowledge(f"{id}.tabc")
        with pytest.raises(LeaseLost):
            queue.acknowledge(f"{id}.tabd")


def test_another_version_is_refused(empty_database):
    """A newer schema by all that open it, and it is not touched."""
    init(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as admin:
        admin.execute("UPDATE spoolq.version SET version = 99")
    for attempt in (open_any, init, upgrade):
        with pytest.raises(UnknownFormat, match="99"):
            attempt(empty_database)


def test_a_deleted_queue_is_gone_for_those_who_have_it_open(dsn, open_queue):
    """QueueNotFound; one of the same name is another."""
    with create_queue(dsn, "emails", Settings(max_attempts=2)) as queue:
        assert queue.settings.max_attempts == 2
        queue.enqueue_many([b"x"] * 3)
        assert delete_queue(dsn, "emails") == 3
        for call in (lambda: queue.enqueue(b"x"), queue.dequeue, queue.stats, queue.pause):
            with pytest.raises(QueueNotFound):
                call()
    create_queue(dsn, "emails").close()
    assert open_queue(queue="emails").stats().ready == 0
    assert list_queues(dsn) == ["default", "emails"]


REFUSED = """
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'no' USING ERRCODE = '{state}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON spoolq.messages FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse();
"""


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        ("55P03", Busy, "the database is busy: no"),
        ("57014", Busy, "the database is busy: no"),
        ("53100", DiskFull, "nothing was changed"),
        ("42501", NotAllowed, "docs/scaling.md"),
        ("XX000", StorageError, "enqueue: no"),
    ],
)
def test_a_call_that_the_server_refuses_has_done_nothing_and_says_why(queue, dsn, state, kind, said):
    """Only a lost answer leaves open what was done."""
    with psycopg.connect(dsn, autocommit=True) as admin:  # at whose end the function goes, and the trigger with it
        admin.execute(REFUSED.format(state=state))
        with pytest.raises(SpoolqError) as caught:
            queue.enqueue(b"x")
    assert type(caught.value) is kind
    assert said in f"{caught.value} {caught.value.hint}"
    assert queue.stats().ready == 0


def test_a_lock_that_somebody_keeps_is_busy(queue, dsn, monkeypatch):
    """A transaction of somebody's, who enqueued to the same group and thinks."""
    monkeypatch.setattr(statements, "SESSION", statements.SESSION.replace("'10s'", "'100ms'"))
    with psycopg.connect(dsn) as slow, open_any(dsn) as impatient:
        queue.enqueue(b"1", group="g", connection=slow)
        with pytest.raises(Busy, match="lock timeout"):
            impatient.enqueue(b"2", group="g")
    assert queue.stats().ready == 1


def test_a_server_that_refuses_to_connect_is_quoted(cut, proxy, monkeypatch):
    """Not the pool, which only knows that it waited."""
    monkeypatch.setattr(connection, "RETRY_S", 0.2)
    monkeypatch.setattr(connection, "_BORROW_S", 0.5)
    proxy.close()
    with pytest.raises(Unreachable, match="refused"):
        cut.stats()


def test_a_database_without_the_schema_is_named(postgres, dsn):
    """And how to make it there."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("DROP SCHEMA spoolq CASCADE")
    try:
        with pytest.raises(NotASpool) as caught:
            open_any(dsn)
    finally:
        init(dsn)
    assert f"{postgres.port}" in caught.value.hint
    assert "spoolq engine init 'postgresql://" in caught.value.hint


def test_busy_after_a_lost_answer_is_an_unknown_outcome(queue, monkeypatch):
    """The first try may have enqueued it: that the second found no connection does not undo that."""
    asked, tries = queue.database._asked, []

    def lost(call, parameters):
        tries.append(call)
        if len(tries) == 1:
            asked(call, parameters)
            raise psycopg.OperationalError("the connection was lost")
        raise PoolTimeout("couldn't get a connection after 5.00 sec")

    monkeypatch.setattr(queue.database, "_asked", lost)
    monkeypatch.setattr(connection, "RETRY_S", 0.01)
    with pytest.raises(OutcomeUnknown) as unknown:
        queue.enqueue(b"x")
    assert "deduplication key" in unknown.value.hint
    monkeypatch.undo()
    assert queue.stats().ready == 1
