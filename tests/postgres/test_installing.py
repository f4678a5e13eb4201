"""`spoolq engine init` and `upgrade`: again, two at once, half way, without rights. Done, or not begun."""

import subprocess
import sys
import threading

import psycopg
import pytest

from spoolq.errors import NotAllowed, NotASpool, SpoolqError, StorageError, Unreachable
from spoolq.postgres import init, installing, open_queue, statements, upgrade


@pytest.fixture
def empty(postgres):
    """A database with nothing of ours, and a role that may connect to it."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS empty WITH (FORCE)")
        admin.execute("DROP ROLE IF EXISTS guest")
        admin.execute("CREATE ROLE guest LOGIN")
        admin.execute("CREATE DATABASE empty")
    yield postgres.dsn("empty")
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE empty WITH (FORCE)")
        admin.execute("DROP ROLE guest")


@pytest.fixture
def made(empty):
    init(empty)
    return empty


def as_guest(dsn):
    return dsn.replace("spoolq@", "guest@")


def has_schema(dsn):
    with psycopg.connect(dsn) as connection:
        return connection.execute(statements.HAS_SCHEMA).fetchone()[0]


def works(dsn):
    with open_queue(dsn) as queue:
        message_id = queue.enqueue(b"x")
        message = queue.dequeue()
        message.ack()
    return message.id == message_id


def at_once(*calls):
    """Their answers, or errors, in order."""
    found = [None] * len(calls)

    def run(number, call):
        try:
            found[number] = call()
        except SpoolqError as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_upgrades_at_once_are_one_after_another(made):
    """Each finds what the one before has left, and all say so."""
    assert at_once(*[lambda: upgrade(made)] * 4) == [installing.VERSION] * 4
    assert works(made)


def test_init_and_upgrade_at_once(empty):
    """The upgrade finds the whole schema, or none."""
    was_made, upgraded = at_once(lambda: init(empty), lambda: upgrade(empty))
    assert was_made is True
    assert upgraded == installing.VERSION or isinstance(upgraded, NotASpool)
    assert works(empty)


def test_an_upgrade_under_load_stops_nobody(made):
    """Functions are replaced while they are called: what is called meanwhile waits, or is asked again."""
    with open_queue(made) as queue:
        answers = at_once(
            lambda: [queue.enqueue(b"x") for _ in range(300)], lambda: upgrade(made), lambda: upgrade(made)
        )
        assert [len(answers[0]), *answers[1:]] == [300, installing.VERSION, installing.VERSION]
        assert queue.stats().ready == 300


@pytest.mark.parametrize("attempt", [init, upgrade])
def test_what_fails_half_way_was_never_begun(empty, monkeypatch, attempt):
    """Here the last of the functions is broken; init leaves no schema, upgrade the old functions."""
    if attempt is upgrade:
        init(empty)
    whole = statements.script

    def broken(name):
        return whole(name) + ("CREATE FUNCTION spoolq.broken;" if name == "functions.sql" else "")

    with monkeypatch.context() as patched:
        patched.setattr(statements, "script", broken)
        with pytest.raises(StorageError, match="syntax error"):
            attempt(empty)
    assert has_schema(empty) == (attempt is upgrade)
    if attempt is init:
        assert init(empty)
    assert works(empty)


def test_a_schema_of_somebody_else_is_not_touched(empty):
    """It is called spoolq and has nothing of ours in it: refused, with what to do."""
    with psycopg.connect(empty, autocommit=True) as admin:
        admin.execute("CREATE SCHEMA spoolq; CREATE TABLE spoolq.theirs ()")
    for attempt in (init, upgrade):
        with pytest.raises(NotASpool, match="something else") as refused:
            attempt(empty)
        assert "another database" in refused.value.hint
    with pytest.raises(NotASpool):
        open_queue(empty)
    with psycopg.connect(empty) as admin:
        assert admin.execute(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'spoolq'::regnamespace"
        ).fetchone() == (1,)


def test_a_newer_version_is_refused_by_command(made, environ):
    """With both versions, and what to do; exit 1."""
    with psycopg.connect(made, autocommit=True) as admin:
        admin.execute("UPDATE spoolq.version SET version = 99")
    for command in ("init", "upgrade"):
        words = [sys.executable, "-m", "spoolq", "engine", command, made]
        done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "99" in done.stderr
        assert "Install a newer spoolq" in done.stderr


def test_who_has_no_rights_is_told(made, empty):
    """NotAllowed: to look, to upgrade, and to make it."""
    for attempt in (open_queue, upgrade):
        with pytest.raises(NotAllowed, match="spoolq") as caught:
            attempt(as_guest(made))
        assert ("owns" if attempt is upgrade else "GRANT") in caught.value.hint
    with psycopg.connect(made, autocommit=True) as admin:
        admin.execute("DROP SCHEMA spoolq CASCADE")
    with pytest.raises(NotAllowed, match="database empty"):
        init(as_guest(empty))
    assert not has_schema(empty)


def test_a_role_with_the_rights_that_the_documentation_names(made):
    """USAGE on the schema and all on its tables, sequences and functions are enough to use queues."""
    with psycopg.connect(made, autocommit=True) as admin:
        admin.execute("GRANT USAGE ON SCHEMA spoolq TO guest")
        admin.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA spoolq TO guest")
    assert works(as_guest(made))
    with pytest.raises(NotAllowed):
        upgrade(as_guest(made))


def test_a_database_that_is_not_there(postgres):
    """In the server's words."""
    with pytest.raises(Unreachable, match="nowhere"):
        init(postgres.dsn("nowhere"))
