"""What is true of every page of both consoles. A page that is added to a navigation is tested here by itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
import pytest
from streamlit.testing.v1 import AppTest

from spoolq import audit
from spoolq.console import admin, ops, place
from spoolq.models import Attempt
from spoolq.spool.queue import SpoolQueue
from spoolq.web.app import create_app
from tests.console.pages import HOSTILE, MARKDOWN, PAGES, click, opened, said, texts, wrong
from tests.http_server import AppServer

EVIL = f"<script>alert(1)</script> {HOSTILE} \x1b]0;title\x07 \u202e"
BYTES = b"\xff\xfe<b>**y**</b>"

every_page = pytest.mark.parametrize(("kind", "page"), PAGES)


def test_every_module_that_draws_a_page_is_in_a_navigation():
    """So the tests here are of all of them."""
    for package in (ops, admin):
        folder = Path(package.__file__).parent
        drawing = {path.stem for path in folder.glob("*.py") if "\ndef page(" in path.read_text()}
        assert drawing == {page for kind, page in PAGES if kind == folder.name}


@every_page
def test_a_page_of_an_empty_spool_says_what_to_do(queue, kind, page):
    app = opened(kind, page)
    assert wrong(app) == ""
    assert "As of" in texts(app)
    assert len(app.caption) >= 2 or app.button


@every_page
def test_a_queue_that_is_not_there_is_said(queue, kind, page):
    app = opened(kind, page, queue="gone")
    assert "gone" in wrong(app)
    assert "tries again" in texts(app)


@pytest.fixture
def buried(queue: SpoolQueue, here: Path) -> str:
    """A spool in which all that can be named is hostile, in every state; the id of a dead letter."""
    name = (EVIL + "n" * 200).encode()[:200].decode(errors="ignore")
    details = Attempt(attempt=1, outcome="", ended_at_ms=0, stderr=EVIL, host=EVIL, exit_status=1)

    def one(**options: object) -> str:
        headers = {"h": "<b>x</b> **y**"}
        return queue.enqueue(EVIL.encode() + BYTES, name=name, headers=headers, group="<b>x</b> **y**", **options)

    one()
    queue.dequeue().ack()
    id = one()
    queue.dequeue().dead_letter(EVIL, details=details)
    one()
    queue.dequeue().requeue(3600, EVIL, details=details)
    queue.enqueue(BYTES, name=name)
    queue.dequeue()
    queue.enqueue(EVIL.encode() + BYTES, name=name, headers={"h": "<b>x</b>"})
    queue.enqueue(b"x", delay_s=60, name=name)
    (here / "new" / "<b>**y**.part").write_bytes(BYTES)
    Path(os.fsdecode(os.fsencode(here / "new") + b"/" + BYTES[:2] + b"<b>**y**.tmp")).write_bytes(b"")
    audit.add(here / "audit.jsonl", audit.Done(at_ms=1, who=EVIL, what=EVIL, queue=EVIL, outcome=EVIL))
    (here / "logs").mkdir()
    event = {"program": EVIL, "what": EVIL, "from_state": EVIL, "to_state": EVIL, "at_ms": 1}
    (here / "logs" / "events.log").write_text(json.dumps(event) + "\n")
    return id


@every_page
def test_what_is_hostile_is_text(queue, buried, here, kind, page):
    """Nothing of it stands where markdown is read, no terminal or reader acts on it, and it breaks no page."""
    app = opened(kind, page, **({"id": buried} if page == "message" else {}))
    if page == "take":
        app = click(app, "take")
    check_text(app)
    if page == "dead":
        app.selectbox(key="dead-reason").set_value(queue.dead_letters.reasons()[0][0])
        check_text(app.run())
        check_text(click(app, "redrive-all"))
    if page == "browse":
        for state in ("scheduled", "claimed", "done", "dead"):
            app.segmented_control(key="browse-state").set_value(state)
            check_text(app.run())
        app.text_input(key="browse-search").set_value("<b>")
        check_text(app.run())
    if page == "health":
        check_text(click(app, "check"))
    for path in (here / "new").glob("*<b>*"):
        path.unlink()


def check_text(app: AppTest) -> None:
    assert [each.value for each in app.exception] == []
    for what in MARKDOWN:
        for each in app.get(what):
            assert "<b>" not in each.value, what
            assert "**y**" not in each.value, what
    for what in ("button", "selectbox", "text_input", "number_input", "checkbox", "metric", "expander"):
        for each in app.get(what):
            assert "<b>" not in each.label, what
            assert "**y**" not in each.label, what
    for what in ("text", "code"):
        for each in app.get(what):
            assert "\x1b" not in each.value, what
            assert "\u202e" not in each.value, what
    for each in app.dataframe:
        shown = each.value.to_csv()
        assert "\x1b" not in shown
        assert "\u202e" not in shown


@every_page
def test_a_page_of_a_server_says_what_is_not_there(here, monkeypatch, tmp_path, kind, page):
    """All of it by HTTP alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    server = AppServer()
    try:
        with server.serving(lambda: create_app(str(here))):
            assert httpx.get(f"{server.url}/queues").status_code == 200
            monkeypatch.setenv("SPOOLQ_SPOOL", server.url)
            app = opened(kind, page)
            assert wrong(app) == ""
            if page == "health":
                click(app, "check")
                assert "Nothing is wrong" in said(app)
            if page == "drops":
                assert "No dropped file waits." in texts(app)
            place._open_queues().close()
    finally:
        server.close()


@every_page
def test_a_database_that_is_away_is_said_once(here, monkeypatch, kind, page):
    """By the numbers, which go on asking; a page without them would only wait as long again to say the same."""
    monkeypatch.setenv("SPOOLQ_SPOOL", "postgresql://127.0.0.1:1/queues")
    (error,) = opened(kind, page).error
    assert "does not answer" in error.value


def test_that_a_database_is_away_is_said_before_it_is_asked_again(here, monkeypatch):
    """A queue that is open asks for half a minute, and the page would be empty meanwhile."""
    monkeypatch.setenv("SPOOLQ_SPOOL", "postgresql://127.0.0.1:1/queues")

    def asks(name=None):
        raise RuntimeError("this takes half a minute")

    monkeypatch.setattr(place, "looked_at", asks)
    app = AppTest.from_string("from spoolq.console.ops import browse\nbrowse.page()\n", default_timeout=20).run()
    assert "does not answer" in app.error[0].value
    assert "half a minute" in app.exception[0].value
