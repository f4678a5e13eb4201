"""Commands that are given a URL where it is no use, or the same one twice."""

from __future__ import annotations

import logging

import pytest

DATABASE = "postgresql://ada:s3cr3t@127.0.0.1:1/q"


@pytest.mark.parametrize("command", ["up", "down", "programs"])
def test_the_stack_of_a_database_is_refused_without_its_password(spoolq, command):
    """The programs are started one by one there, as the hint says."""
    result = spoolq(command, "--spool", DATABASE, ok=False)
    assert result.status == 2
    assert "postgresql://ada@127.0.0.1:1/q is a server's address or a database's" in result.errors
    assert "spoolq serve" in result.errors
    assert "s3cr3t" not in result.errors


def test_init_of_a_database_says_how(spoolq):
    result = spoolq("init", DATABASE, ok=False)
    assert result.status == 2
    assert "spoolq engine init" in result.errors


@pytest.mark.parametrize(
    ("source", "target"),
    [("spool", "./spool?queue=default"), (DATABASE, f"{DATABASE}?queue=default"), ("a?queue=b", "a?queue=b")],
)
def test_a_relay_to_where_it_takes_from_is_refused(spoolq, tmp_path, source, target):
    """Each message would be a new one there, and go round for ever."""
    result = spoolq("relay", source, target, ok=False)
    assert result.status == 2
    assert "is both SOURCE and TARGET" in result.errors
    assert list(tmp_path.iterdir()) == []


def test_a_relay_without_a_target_says_how_to_name_one(spoolq, monkeypatch):
    """Nothing given, one given, and one given beside the setting that would be for none."""
    for arguments in ((), ("spool",)):
        result = spoolq("relay", *arguments, ok=False)
        assert (result.status, "told where messages go" in result.errors) == (2, True)
    monkeypatch.setenv("SPOOLQ_RELAY_TARGET", "http://127.0.0.1:1/queues/x")
    result = spoolq("relay", "spool", ok=False)
    assert (result.status, "no SOURCE is given" in result.errors) == (2, True)


@pytest.fixture
def pool():
    """What the pool logs with, as a new process has it."""
    logger = logging.getLogger("psycopg.pool")
    logger.setLevel(logging.NOTSET)
    yield logger
    logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("level", ["info", "debug"])
def test_the_pool_of_a_database_says_nothing_of_its_own(spoolq, monkeypatch, caplog, pool, level):
    """While a database is away it would write two lines a second, without a time, between ours. debug shows them."""
    monkeypatch.setenv("SPOOLQ_LOG", level)
    spoolq("init")
    pool.warning("error connecting in 'spoolq'")
    assert [each.name for each in caplog.records].count(pool.name) == (level == "debug")
