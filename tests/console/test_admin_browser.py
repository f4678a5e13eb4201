"""The admin console in a real browser, on a live spool: what is clicked is on the disk."""

from __future__ import annotations

import json
import os
import signal

from spoolq.console.admin import PAGES
from spoolq.queue import create_queue
from spoolq.spool import queues
from tests.console.pages import number, press, text
from tests.helpers import messages, wait_for


def test_create_set_pause_and_delete_a_queue(admin, live_spool, page):
    """One queue's life in the hands of an operator, each step on the disk and in the trail."""
    name = "made-by-hand"
    root = queues.queue_root(live_spool, name)
    page.goto(admin.address("queues"))
    page.get_by_role("textbox", name="Name").fill(name)
    press(page, "Create")
    text(page, f"The queue {name} was made")
    assert (root / "new").is_dir()
    assert f"queue={name}" in page.url

    field = page.get_by_role("textbox", name="max_attempts")
    field.fill("0")
    field.press("Enter")
    text(page, "must be a whole number from 1 to 999999")
    assert not (root / "queue.toml").exists()
    field.fill("9")
    field.press("Enter")
    press(page, "Save the settings")
    text(page, "Changed: max_attempts")
    assert (root / "queue.toml").read_text() == "max_attempts = 9\n"

    press(page, "Pause")
    text(page, "paused: nothing is delivered")
    assert (root / "paused").exists()
    press(page, "Resume")
    text(page, "delivers again")
    assert not (root / "paused").exists()

    press(page, "Delete the queue")
    page.get_by_role("textbox", name="To confirm").fill(name)
    page.get_by_role("textbox", name="To confirm").press("Enter")
    page.get_by_test_id("stDialog").get_by_role("button", name="Delete the queue").click()
    text(page, f"The queue {name} was deleted")
    assert not root.exists()
    lines = [json.loads(line) for line in (live_spool / "audit.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines if line["queue"] == name] == [
        "create", "settings max_attempts", "pause", "resume", "delete queue",
    ]  # fmt: skip


def test_check_and_rebuild_with_progress(admin, live, root, page):
    live.enqueue_many(b"x" for _ in range(3000))
    page.goto(admin.address("health", live.name))
    press(page, "Check now")
    text(page, "Nothing is wrong")
    before = (root / "index.db").stat().st_ino
    page.evaluate(
        """() => { window.bars = 0; new MutationObserver(() => {
        window.bars += document.querySelectorAll('[data-testid=stDialog] [data-testid=stProgress]').length
        }).observe(document.body, {childList: true, subtree: true}) }"""
    )
    press(page, "Rebuild the index")
    text(page, "about 3,000 messages")
    page.get_by_test_id("stDialog").get_by_role("button", name="Rebuild the index").click()
    text(page, "The index was made anew, with 3,000 messages")
    assert page.evaluate("window.bars") > 0
    assert (root / "index.db").stat().st_ino != before
    assert live.stats().ready == 3000


def test_a_claim_is_given_back_and_a_cleanup_looks_first(admin, live, root, page):
    id = live.enqueue(b"x", name="job")
    live.dequeue()
    page.goto(admin.address("holders", live.name))
    text(page, "Claimed messages")
    table = page.get_by_test_id("stDataFrame").last
    table.locator("canvas").first.wait_for()
    table.click(position={"x": 16, "y": 52})
    press(page, "Give back 1 message now")
    text(page, f"1 message of the queue {live.name} ends now")
    assert [kind for kind, _ in messages(root)[id]] == ["cur"]
    press(page, "Give back 1 message")
    text(page, "1 message given back")
    assert [kind for kind, _ in messages(root)[id]] == ["new"]

    live.dequeue().ack()
    (root / "queue.toml").write_text("[retention]\ndone_s = 0.001\n")
    wait_for(lambda: live.settings.retention.done_s < 1)
    page.get_by_role("link", name="Cleanup").click()
    press(page, "Look what would go")
    press(page, "Clean up 1 item now")
    assert id in messages(root)
    press(page, "Delete 1 item")
    text(page, "1 item deleted")
    assert id not in messages(root)


def test_hostile_names_and_reasons_are_text_on_every_page(admin, live, root, page):
    """Nothing of it becomes an element, wherever it is shown."""
    hostile = '<img src=x onerror="document.title=1"><script>document.title=2</script> **b** [l](http://evil.example)'
    live.enqueue(b"x", name=hostile)
    live.dequeue().dead_letter(hostile)
    live.enqueue(b"x", name=hostile)
    live.dequeue()
    live.enqueue(b"x", name="n" * 200)
    drop = root / "new" / f"{hostile.replace('/', '_')[:100]}.part"
    drop.write_bytes(b"x")
    for path in [each.path for each in PAGES]:
        page.goto(admin.address(path, live.name))
        text(page, "As of")
        main = page.get_by_test_id("stMain")
        assert main.locator("img[src=x], script, a[href*=evil]").count() == 0, path
        assert page.title() not in {"1", "2"}, path
        if path in ("holders", "drops"):
            cell = page.get_by_test_id("stDataFrame").last.locator("canvas td").filter(has_text="img")
            cell.first.wait_for(state="attached")
    drop.unlink()


def test_a_lost_index_and_a_killed_worker_show_on_the_open_page(admin, live, root, page, work):
    """The page goes on, with the numbers of the files; what the worker held is ready again."""
    id = live.enqueue(b"x", name="job")
    worker = work("sleep", "60")
    wait_for(lambda: live.stats().claimed == 1)
    page.goto(admin.address("holders", live.name))
    number(page, "claimed", "1")
    for name in ("index.db", "index.db-wal", "index.db-shm"):
        (root / name).unlink(missing_ok=True)
    number(page, "claimed", "1")
    live.pause()
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_for(lambda: bool(live.maintain()) or live.get(id).state != "claimed")
    number(page, "claimed", "0")
    text(page, "Nothing is claimed.")
    number(page, "ready", "1")
    assert [kind for kind, _ in messages(root)[id]] == ["new"]


def test_a_queue_deleted_by_others_is_said_and_comes_back(admin, live_spool, page):
    with create_queue(live_spool, "comes-and-goes") as made:
        made.enqueue(b"x")
    page.goto(admin.address("", "comes-and-goes"))
    number(page, "ready", "1")
    queues.delete_queue(live_spool, "comes-and-goes")
    page.get_by_test_id("stAlert").first.wait_for()
    create_queue(live_spool, "comes-and-goes").close()
    number(page, "ready", "0")
    page.get_by_test_id("stAlert").first.wait_for(state="detached")
    queues.delete_queue(live_spool, "comes-and-goes")


def test_what_is_typed_outlives_the_refresh(admin, live, page):
    """A name, and a setting, half typed while the numbers above them change."""
    page.goto(admin.address("queues", live.name))
    for sent, (label, half, rest) in enumerate((("Name", "half-a-na", "me"), ("max_attempts", "1", "2")), 1):
        field = page.get_by_role("textbox", name=label)
        field.fill(half)
        field.press("End")
        live.enqueue(b"x")
        number(page, "ready", str(sent))
        field.press_sequentially(rest)
        assert field.input_value() == half + rest
        assert field.evaluate("field => field === document.activeElement")


def test_a_disk_that_fills_up_is_said_on_the_open_page_and_when_it_is_over(admin, live, page, full_disk):
    """Nothing is loaded anew."""
    live.enqueue(b"x")
    page.goto(admin.address("disk", live.name))
    text(page, "of the disk is used")
    assert page.get_by_test_id("stAlert").count() == 0
    with full_disk():
        text(page, "The reserve is reached: nothing more is enqueued")
        page.get_by_role("link", name="Health").click()
        number(page, "room to enqueue", "no")
        text(page, "The disk's reserve is reached")
    number(page, "room to enqueue", "yes")
    page.get_by_test_id("stAlert").first.wait_for(state="detached")
    number(page, "ready", "1")


def test_what_is_done_on_a_disk_that_is_full_is_said(admin, live, root, page, full_disk):
    """Pausing needs no space; purging frees some."""
    live.enqueue_many([b"x" * 4096] * 10)
    page.goto(admin.address("queues", live.name))
    with full_disk():
        press(page, "Pause")
        text(page, "is paused")
        assert (root / "paused").exists()
        press(page, "Purge")
        text(page, "10 messages of the queue")
        press(page, "Delete 10 messages")
        text(page, "10 messages purged")
        assert messages(root) == {}
