"""The ops console in a real browser, on a live spool: what is clicked is on the disk."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from spoolq.console.ops import PAGES
from spoolq.spool import queues
from spoolq.spool.queue import SpoolQueue
from spoolq.web.app import create_app
from tests.console import pages
from tests.console.pages import press, text
from tests.helpers import messages, wait_for
from tests.http_server import AppServer


def where(root: Path, id: str) -> str:
    """The directory that a message is in."""
    [(kind, _)] = messages(root)[id]
    return kind


def test_upload_take_acknowledge_bury_and_redrive_with_a_worker(ops, live, root, page, work):
    """The whole life of messages, each step on the disk."""
    page.goto(ops.address("send", live.name))
    files = [{"name": f"{name}.csv", "mimeType": "text/csv", "buffer": b"a,b\n1,2\n"} for name in ("good", "bad")]
    page.get_by_text("Files", exact=True).click()
    page.locator("input[type=file]").set_input_files(files)
    text(page, "bad.csv")
    page.get_by_test_id("stBaseButton-primaryFormSubmit").click()
    text(page, "2 files sent")
    by_name = {each.name: each.id for each in live.list("ready").messages}
    assert set(by_name) == {"good.csv", "bad.csv"}
    assert {where(root, id) for id in by_name.values()} == {"new"}

    page.get_by_role("link", name="Take").click()
    press(page, "Take the next message")
    text(page, "Taken: good.csv")
    assert where(root, by_name["good.csv"]) == "cur"
    press(page, "Acknowledge")
    text(page, "acknowledged, now done")
    assert where(root, by_name["good.csv"]) == "done"

    press(page, "Take the next message")
    text(page, "Taken: bad.csv")
    page.get_by_label("Reason").fill("no such customer")
    press(page, "Bury")
    text(page, "buried, now dead")
    assert where(root, by_name["bad.csv"]) == "dead"

    page.get_by_role("link", name="Dead letters").click()
    press(page, "Redrive all that fit")
    text(page, "1 dead letter of the queue")
    assert where(root, by_name["bad.csv"]) == "dead"
    work("cat", "{}")
    press(page, "Redrive 1 dead letter")
    text(page, "1 dead letter redriven")
    wait_for(lambda: where(root, by_name["bad.csv"]) == "done")
    text(page, "No message gave up.")


def test_a_selected_row_is_deleted_after_asking(ops, live, root, page):
    first, second = live.enqueue(b"1", name="first", priority=9), live.enqueue(b"2", name="second")
    page.goto(ops.address("", live.name))
    table = page.get_by_test_id("stDataFrame")
    table.locator("canvas").first.wait_for()
    table.click(position={"x": 16, "y": 52})
    text(page, "1 message selected. The list stands still")
    press(page, "Delete")
    text(page, "1 message of the queue")
    assert where(root, first) == "new"
    press(page, "Delete 1 message")
    text(page, "1 message deleted")
    text(page, "Select rows to act")
    assert set(messages(root)) == {second}


def test_what_is_typed_outlives_the_refresh(ops, live, page):
    page.goto(ops.address("send", live.name))
    field = page.get_by_role("textbox", name="Text")
    field.fill("half a sent")
    field.press("End")
    live.enqueue(b"x")
    page.get_by_test_id("stMetric").filter(has_text="ready").get_by_text("1", exact=True).wait_for()
    field.press_sequentially("ence")
    assert field.input_value() == "half a sentence"
    assert field.evaluate("field => field === document.activeElement")


def test_a_worker_that_is_killed_shows_on_the_open_page(ops, live, root, page, work):
    id = live.enqueue(b"x", name="job")
    worker = work("sleep", "60")
    wait_for(lambda: where(root, id) == "cur")
    page.goto(ops.address("message", live.name, id=id))
    text(page, "claimed, attempt 1")
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()

    def is_back() -> bool:
        live.maintain()
        return live.get(id).state != "claimed"

    wait_for(is_back)
    # The page says so by itself: nothing is loaded anew.
    text(page, "attempt 1 requeued")
    work("cat", "{}")
    text(page, "acknowledged: done")
    assert where(root, id) == "done"


def test_an_index_that_is_deleted_is_made_anew_under_the_open_page(ops, live, root, page):
    live.enqueue(b"x")
    page.goto(ops.address("", live.name))
    ready = page.get_by_test_id("stMetric").filter(has_text="ready")
    ready.get_by_text("1", exact=True).wait_for()
    for path in root.glob("index.db*"):
        path.unlink()
    live.enqueue(b"y")
    ready.get_by_text("2", exact=True).wait_for()
    assert page.get_by_test_id("stAlert").count() == 0


def test_a_disk_that_is_full_is_said_and_then_it_is_sent(ops, live, root, page, full_disk):
    page.goto(ops.address("send", live.name))
    page.get_by_role("textbox", name="Text").fill("precious")
    with full_disk():
        page.get_by_test_id("stBaseButton-primaryFormSubmit").click()
        page.get_by_test_id("stAlert").first.wait_for()
        assert "reserve" in page.get_by_test_id("stAlert").first.inner_text()
        assert messages(root) == {}
    assert page.get_by_role("textbox", name="Text").input_value() == "precious"
    page.get_by_test_id("stBaseButton-primaryFormSubmit").click()
    text(page, "Sent:")
    assert len(messages(root)) == 1


def test_a_queue_that_is_deleted_under_the_open_page_is_said_and_comes_back(ops, live, live_spool, page):
    from spoolq.queue import create_queue

    page.goto(ops.address("", live.name))
    text(page, "Nothing is ready.")
    queues.delete_queue(live_spool, live.name)
    text(page, "trying again")
    assert live.name in page.get_by_test_id("stAlert").first.inner_text()
    create_queue(live_spool, live.name).close()
    page.get_by_test_id("stAlert").first.wait_for(state="detached")
    text(page, "Nothing is ready.")


HOSTILE = (
    "<img src=x onerror='window.pwned=1'><b>evil</b> **loud** :smile: [x](javascript:pwned=1) $x^2$ \x1b[31m\u202e"
)


def hostile(queue: SpoolQueue) -> str:
    """A message that tries it all: name, header, group, reason, stderr and body."""
    name = (HOSTILE + "n" * 200).encode()[:200].decode(errors="ignore")
    body = f"<script>window.pwned=1</script>\n{HOSTILE}\n".encode() + b"\xff\xfe"
    return queue.enqueue(body, name=name, headers={"x-evil": HOSTILE.replace("\x1b", "")}, content_type="text/html")


def check_harmless(page: Any) -> None:
    assert page.evaluate("window.pwned") is None
    for what in ("img[src=x]", "b:text('evil')", "strong:text('loud')", "a[href^=javascript]", ".katex"):
        assert page.locator(what).count() == 0, what


def test_a_hostile_message_is_text_on_every_page(ops, live, page):
    id = hostile(live)
    for each in PAGES:
        page.goto(ops.address(each.path, live.name, **({"id": id} if each.path == "message" else {})))
        text(page, "As of")
        check_harmless(page)
    page.goto(ops.address("take", live.name))
    press(page, "Take the next message")
    text(page, "Taken:")
    text(page, "evil")
    check_harmless(page)
    page.get_by_text("Text", exact=True).click()
    text(page, "<script>window.pwned=1</script>")
    text(page, "\\xff\\xfe")
    check_harmless(page)
    # Names are made safe by the engine; what one typed comes back in an error as it was.
    page.get_by_label("Delay").fill(HOSTILE.replace("\x1b", ""))
    press(page, "Requeue")
    text(page, "Must be seconds")
    check_harmless(page)
    page.get_by_label("Reason").fill(HOSTILE.replace("\x1b", ""))
    press(page, "Bury")
    text(page, "buried")
    check_harmless(page)

    page.goto(ops.address("message", live.name, id=id))
    text(page, "attempt 1 dead")
    text(page, "header x-evil: <img src=x")
    check_harmless(page)

    page.goto(ops.address("dead", live.name))
    page.get_by_test_id("stDataFrame").locator("canvas").first.wait_for()
    check_harmless(page)
    page.get_by_role("combobox", name="Reason").click()
    page.get_by_role("option").nth(1).click()
    page.get_by_test_id("stDataFrame").locator("canvas").first.wait_for()
    check_harmless(page)
    press(page, "Redrive all that fit")
    text(page, "1 dead letter of the queue")
    press(page, "Redrive 1 dead letter")
    text(page, "redriven")

    page.goto(ops.address("", live.name))
    page.get_by_test_id("stDataFrame").locator("canvas").first.wait_for()
    page.get_by_label("Search every state").fill("evil")
    page.keyboard.press("Enter")
    text(page, "Select rows")
    check_harmless(page)


def test_a_file_with_a_hostile_name_is_text(ops, live, page):
    page.goto(ops.address("send", live.name))
    page.get_by_text("Files", exact=True).click()
    name = "<img src=x onerror=pwned=1> **loud**.txt"
    page.locator("input[type=file]").set_input_files([{"name": name, "mimeType": "text/plain", "buffer": b"x"}])
    text(page, "loud")
    page.get_by_test_id("stBaseButton-primaryFormSubmit").click()
    text(page, "1 file sent")
    check_harmless(page)
    assert len(live.list("ready").messages) == 1


def test_another_name_for_this_machine_sees_nothing(ops, live, page):
    """DNS rebinding: a site whose name leads here."""
    page.goto(ops.address("", live.name).replace("127.0.0.1", "evil.example"))
    text(page, "does not answer to the name")
    assert page.get_by_text(live.name, exact=True).count() == 0


def test_a_page_can_be_used_with_the_keyboard_alone(ops, live, root, page):
    page.goto(ops.address("send", live.name))
    field = page.get_by_role("textbox", name="Text")
    field.focus()
    page.keyboard.type("by hand")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText").endswith("Send"):
            break
    page.keyboard.press("Enter")
    text(page, "Sent:")
    assert len(messages(root)) == 1


@pytest.mark.parametrize("size", [{"width": 390, "height": 844}])
def test_on_a_phone_nothing_is_wider_than_the_screen(ops, live, page, size):
    live.enqueue(b'{"a": 1}', name="a-" * 60 + ".json")
    live.dequeue().dead_letter("a reason that is long " * 20)
    page.set_viewport_size(size)
    [info] = live.dead_letters.list().messages
    for name in ("", "send", "take", "dead", "message"):
        page.goto(ops.address(name, live.name, **({"id": info.id} if name == "message" else {})))
        text(page, "As of")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name


# Over HTTP ----------------------------------------------------------------------------------


def test_it_works_on_a_servers_url(here, monkeypatch, open_queue):
    """The same pages, the same calls: a server in this process, the console on its URL."""
    queue = open_queue()
    id = queue.enqueue(b"over the wire", name="job")
    server = AppServer()
    try:
        with server.serving(lambda: create_app(str(here))):
            assert httpx.get(f"{server.url}/queues").status_code == 200
            monkeypatch.setenv("SPOOLQ_SPOOL", server.url)
            app = pages.click(pages.opened("ops", "take"), "take")
            assert "over the wire" in pages.texts(app)
            receipt = queue.get(id).receipt
            pages.click(app, f"ack-{receipt}")
            assert queue.get(id).state == "done"
            app = pages.opened("ops", "browse")
            assert "Nothing is ready." in pages.texts(app)
            from spoolq.console import place

            place._open_queues().close()
    finally:
        server.close()
