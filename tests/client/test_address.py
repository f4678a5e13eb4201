"""A server's URL, and where its token does not show."""

import logging
import ssl

import pytest

from spoolq import queue as entry
from spoolq.client import HttpQueue, connection
from spoolq.client.address import parse
from spoolq.errors import NotAllowed, NotCapable, QueueNotFound
from tests.client.scripted import answer, problem

TOKEN = "spoolq_S3cretS3cret"


@pytest.mark.parametrize(
    ("url", "queue", "expected"),
    [
        ("http://host:8000", None, ("http://host:8000", "http://host:8000", "default")),
        ("http://host:8000/", None, ("http://host:8000", "http://host:8000", "default")),
        ("HTTP://host:8000/queues/emails", None, ("http://host:8000", "http://host:8000", "emails")),
        ("http://host:8000/queues/emails/", None, ("http://host:8000", "http://host:8000", "emails")),
        ("http://host:8000?queue=emails", None, ("http://host:8000", "http://host:8000", "emails")),
        ("http://host/queues/emails", "other", ("http://host", "http://host", "other")),
        ("https://host/a/b/queues/emails", None, ("https://host/a/b", "https://host/a/b", "emails")),
        ("https://host/a/b", "emails", ("https://host/a/b", "https://host/a/b", "emails")),
        ("http://[::1]:8000/queues/q", None, ("http://[::1]:8000", "http://[::1]:8000", "q")),
        ("http+unix://%2Frun%2Fs.sock/queues/q", None, ("http+unix://%2Frun%2Fs.sock", "http://localhost", "q")),
    ],
)
def test_what_a_url_says(url, queue, expected):
    """Server, prefix and queue; `queue` counts more."""
    found = parse(url, queue, {})
    assert (found.server, found.base, found.queue) == expected
    assert found.url == f"{found.server}/queues/{found.queue}"
    assert found.socket == ("/run/s.sock" if "unix" in url else None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://", "no host"),
        ("http:///queues/q", "no host"),
        ("http://host:port/", "host and port"),
        ("http://host/queues/q#part", "#"),
        ("http://host/?qeueu=q", "qeueu"),
        ("http+unix://run.sock/queues/q", "%2F"),
        ("http://host/queues/..", "queue must be"),
        ("http://host/queues/Q", "queue must be"),
        ("http://host/queues/a%2Fb", "queue must be"),
    ],
)
def test_what_is_no_address(url, said):
    """ValueError, with what is wrong."""
    with pytest.raises(ValueError, match=said):
        parse(url, None, {})


def test_the_token_of_the_url_counts_more_than_that_of_the_environment():
    """Either is enough; an empty one is none."""
    environ = {"SPOOLQ_TOKEN": "of the environment".replace(" ", "-")}
    assert parse("http://host", None, environ).token == "of-the-environment"
    assert parse(f"http://host?token={TOKEN}", None, environ).token == TOKEN
    assert parse("http://host?token=", None, environ).token == "of-the-environment"
    assert parse("http://host", None, {"SPOOLQ_TOKEN": ""}).token is None


@pytest.mark.parametrize(
    "url",
    [
        f"http://host/queues/Q?token={TOKEN}",
        f"http://host:port?token={TOKEN}",
        f"http://host?token={TOKEN}%0d%0aHost:+x",
        f"http://host?token={TOKEN}%C3%BC",
        f"http://{TOKEN}@host/",
        f"http://user:{TOKEN}@host/",
        f"http://host/?tokn=1&token={TOKEN}#part",
        f"http+unix://x/?token={TOKEN}",
    ],
)
def test_a_refused_url_shows_no_token(url):
    """However it is wrong; and a token that could split a header is refused."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse(url, None, {})
    assert TOKEN not in str(caught.value)


def test_the_token_travels_in_its_header_alone(scripted, caplog):
    """Not in the target, nor in any log, repr, url or error."""
    caplog.set_level(logging.DEBUG)
    queue, server = scripted(answer(204), problem("unauthorized", 401, detail="not known"), token=TOKEN)
    queue.pause()
    with pytest.raises(NotAllowed, match="SPOOLQ_TOKEN") as caught:
        queue.stats()
    assert [each.headers["authorization"] for each in server.asked] == [f"Bearer {TOKEN}"] * 2
    assert TOKEN not in "".join(each.target for each in server.asked)
    shown = [repr(queue), queue.url, repr(queue.connection), repr(queue.connection.address), repr(caught.value)]
    assert TOKEN not in "".join([*shown, str(caught.value), caplog.text])
    assert caplog.records


def test_a_redirect_is_not_followed(scripted):
    """Where it leads to has no business with the token."""
    queue, server = scripted(answer(307, None, Location="http://127.0.0.1:1/"), token=TOKEN)
    with pytest.raises(Exception, match="307"):
        queue.stats()
    assert len(server.asked) == 1


def test_a_queue_that_is_not_there(scripted):
    """Opening looks, as on a spool."""
    _, server = scripted(*[answer(200, {"queues": ["default", "emails"]})] * 2)
    with entry.open_queue(f"{server.url}/queues/emails") as queue:
        assert isinstance(queue, HttpQueue)
        assert (queue.name, queue.url) == ("emails", f"{server.url}/queues/emails")
    with pytest.raises(QueueNotFound, match="other"):
        entry.open_queue(server.url, queue="other")


def test_what_only_a_spools_own_machine_does():
    """A server's spool is made where it is; other schemes have no engine."""
    with pytest.raises(ValueError, match="where the spool is"):
        entry.init_spool("http://host:8000")
    with pytest.raises(ValueError, match="no engine"):
        entry.open_queue("ftp://host")


def test_without_httpx_it_says_what_to_install(monkeypatch):
    """The extra is named."""
    import sys

    for name in [name for name in sys.modules if name.startswith("spoolq.client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("spoolq.client", raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(NotCapable, match=r"spoolq\[client\]"):
        entry.open_queue("http://host:8000")


def test_proxies_of_the_environment_are_for_others(monkeypatch):
    """A server on this machine is asked directly, whatever HTTP_PROXY says."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    for url, is_here in (
        ("http://127.0.0.1:8000", True),
        ("http://localhost", True),
        ("http://[::1]", True),
        ("http+unix://%2Fs", True),
        ("http://example.org", False),
    ):
        assert parse(url, None, {}).is_here is is_here
    opened = connection.Connection(parse("http://127.0.0.1:8000", None, {}))
    assert not opened._own_client().trust_env
    opened.close()


def test_https_verifies():
    """Whom it talks to is proved, whatever is saved elsewhere."""
    opened = connection.Connection(parse("https://example.org", None, {}))
    context = opened._own_client()._transport._pool._ssl_context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    opened.close()
