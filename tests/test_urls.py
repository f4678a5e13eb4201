"""How a URL is shown, and what is said of one that names no engine."""

from __future__ import annotations

import pytest

from spoolq import open_queue
from spoolq.queue import delete_queue, shown_url

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("spool?queue=emails", "spool?queue=emails"),
        ("a@b:c/spool", "a@b:c/spool"),
        (f"postgresql://ada:{SECRET}@one,two:5433/db?sslmode=require", "postgresql://ada@one,two:5433/db"),
        (f"postgresql://ada:{SECRET}@db/q?queue=emails&password={SECRET}", "postgresql://ada@db/q?queue=emails"),
        (f"postgresql://ada:a?{SECRET}@db/q", "postgresql://..."),
        (f"postgresql://ada:a/{SECRET}@db/q", "postgresql://ada@db/q"),
        ("postgresql://db/q?user=ada@corp", "postgresql://db/q"),
        (f"http://host:8000/queues/emails?token={SECRET}", "http://host:8000/queues/emails"),
        (f"postgresq://ada:{SECRET}@db/q", "postgresq://ada@db/q"),
    ],
)
def test_a_url_is_shown_without_what_is_secret(url, shown):
    """Whatever its scheme, a misspelled one too; which queue it names stays."""
    assert shown_url(url) == shown
    assert SECRET not in shown


def test_a_scheme_that_is_none_is_told_which_there_are():
    with pytest.raises(ValueError, match=r"postgresq://.* 'spool', a server http://\.\.\., a database postgresql://"):
        open_queue(f"postgresq://ada:{SECRET}@db/q")


@pytest.mark.parametrize("url", ["spool", "http://127.0.0.1:1", "postgresql://127.0.0.1:1/q"])
def test_the_default_queue_is_never_deleted(url):
    """Commands without --queue need it, and no command would make a database's again."""
    with pytest.raises(ValueError, match="only purged"):
        delete_queue(url, "default")
