"""URLs of databases: what goes to libpq is what it would read itself, and nobody is shown a password."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from spoolq.postgres.address import parse
from spoolq.queue import shown_url

URLS = [
    "postgresql://h/db",
    "postgresql://h1:5432,h2:5433/db?sslmode=require",
    "postgresql:///db?host=/var/run/postgresql",
    "postgresql://u:geheim@h/db",
    "postgresql://u:geh?eim@h/db",
    "postgresql://u:geh%40eim@h/db?connect_timeout=3",
    "postgresql://h/db?user=u&password=geh+eim",
    "postgres://h/db?options=-c%20work_mem%3D8MB%20-c%20jit%3Doff",
    "postgresql://[::1]:5432/db",
]


@pytest.mark.parametrize("url", URLS)
def test_libpq_gets_what_it_would_read_itself(url):
    """Ours besides: the name of the application, time limits, the primary; what the URL says counts more."""
    theirs, ours = conninfo_to_dict(url), conninfo_to_dict(parse(url).dsn)
    assert {key: value for key, value in ours.items() if key in theirs} == theirs
    assert ours["target_session_attrs"] == "read-write"


@pytest.mark.parametrize("url", URLS)
def test_the_queue_is_ours(url):
    """It stands among the parameters, and libpq does not hear of it."""
    full = f"{url}{'&' if '=' in url else '?'}queue=emails"
    address = parse(full)
    assert address.queue == "emails"
    assert "emails" not in address.dsn


@pytest.mark.parametrize("url", [url for url in URLS if "geh" in url] + ["postgresql://u:geh@eim@h/db"])
def test_no_part_of_a_password_is_shown(url):
    """By the address, and by whoever shows a URL without opening it."""
    shown = f"{parse(url)!r} {parse(url).url} {shown_url(url)}"
    assert "geh" not in shown
    assert "eim" not in shown
