"""The logic of each page of the ops console, without a browser."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from spoolq.console.ops import dead, listing, message, preview, send
from spoolq.models import Attempt, MessageInfo
from spoolq.queue import create_queue
from spoolq.spool.queue import SpoolQueue
from tests.console import pages
from tests.console.pages import checked, click, said, texts, wrong

opened = partial(pages.opened, "ops")


# The frame ----------------------------------------------------------------------------


def test_the_queue_of_the_address_is_shown_and_kept(queue, here):
    create_queue(here, "emails").close()
    app = opened("browse", queue="emails")
    assert app.selectbox[0].value == "emails"
    app.selectbox[0].set_value("default")
    checked(app.run())
    assert app.query_params["queue"] in ("default", ["default"])


def test_the_numbers_are_those_of_the_queue_with_their_time(queue):
    queue.enqueue(b"x")
    queue.enqueue(b"x", delay_s=60)
    app = opened("send")
    assert {each.label: each.value for each in app.metric} == {
        "ready": "1", "scheduled": "1", "claimed": "0", "done": "0", "dead": "0",
    }  # fmt: skip
    assert "As of" in texts(app)


# Send ------------------------------------------------------------------------------------


def test_text_is_sent_with_all_that_was_asked(queue):
    app = opened("send")
    app.text_area(key="send-Text-0").set_value("hällo")
    app.text_input(key="send-name").set_value("note.txt")
    app.number_input(key="send-priority").set_value(8)
    app.text_input(key="send-group").set_value("letters")
    app.text_input(key="send-ttl").set_value("1h")
    app.text_area(key="send-headers").set_value("source: shop\n\ntrace: a:b")
    app.button[0].click()
    checked(app.run())
    assert "Sent" in said(app)
    [info] = queue.list("ready").messages
    info = queue.get(info.id)
    assert (info.name, info.priority, info.group) == ("note.txt", 8, "letters")
    assert info.headers == {"source": "shop", "trace": "a:b"}
    assert info.expires_at_ms is not None
    with queue.read_body(info.id) as file:
        assert file.read() == "hällo".encode()
    assert app.text_area(key="send-Text-1").value in ("", None)
    assert app.text_input(key="send-name").value == "note.txt"


def test_a_delay_schedules(queue):
    app = opened("send")
    app.text_input(key="send-delay").set_value("10m")
    app.button[0].click()
    checked(app.run())
    assert queue.stats().scheduled == 1


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("send-delay", "soon", "delay: must be seconds"),
        ("send-ttl", "x", "time to live: must be"),
        ("send-name", "x" * 5000, "name"),
    ],
)
def test_what_is_not_right_is_said_and_nothing_is_sent(queue, key, value, words):
    app = opened("send")
    app.text_area(key="send-Text-0").set_value("kept")
    app.text_input(key=key).set_value(value)
    app.button[0].click()
    checked(app.run())
    assert words.lower() in wrong(app).lower().replace("ttl", "time to live")
    assert queue.stats().ready == 0
    assert app.text_area(key="send-Text-0").value == "kept"


def test_json_is_checked_with_the_place(queue):
    app = opened("send")
    app.segmented_control(key="send-what").set_value("JSON")
    checked(app.run())
    app.text_area(key="send-JSON-0").set_value('{"a": 1,\n nope}')
    app.button[0].click()
    checked(app.run())
    assert "line 2, column 2" in wrong(app)
    assert queue.stats().ready == 0
    app.text_area(key="send-JSON-0").set_value('{"a": 1}')
    app.button[0].click()
    checked(app.run())
    [info] = queue.list("ready").messages
    assert queue.get(info.id).content_type == "application/json"


def test_headers_that_are_none_name_their_line():
    with pytest.raises(ValueError, match="line 2"):
        send.headers("a: b\nnope")
    assert send.headers("\n a : b : c \n") == {"a": "b : c"}


# Take ------------------------------------------------------------------------------------


@pytest.fixture
def taken(queue) -> tuple[AppTest, str]:
    id = queue.enqueue(b"work", name="job")
    app = click(opened("take"), "take")
    assert queue.get(id).state == "claimed"
    assert "Taken: job" in said(app)
    assert "the lease ends in" in texts(app).replace("\\", "")
    assert "work" in texts(app)
    return app, id


def held(queue: SpoolQueue, id: str) -> str:
    receipt = queue.get(id).receipt
    assert receipt is not None
    return receipt


def test_take_and_acknowledge(queue, taken):
    app, id = taken
    app = click(app, f"ack-{held(queue, id)}")
    assert queue.get(id).state == "done"
    assert "job: acknowledged, now done" in said(app)
    assert "You hold no message" in texts(app)


def test_take_and_release_counts_nothing(queue, taken):
    app, id = taken
    click(app, f"release-{held(queue, id)}")
    assert (queue.get(id).state, queue.get(id).attempts) == ("ready", 0)


def test_take_and_requeue_with_a_delay_and_a_reason(queue, taken):
    app, id = taken
    receipt = held(queue, id)
    app.text_input(key=f"delay-{receipt}").set_value("10m")
    app.text_input(key=f"reason-{receipt}").set_value("mail server is down")
    app = click(app, f"requeue-{receipt}")
    info = queue.get(id)
    assert (info.state, info.reason) == ("scheduled", "mail server is down")
    assert "requeued, now scheduled" in said(app)


def test_bury_wants_a_reason(queue, taken):
    app, id = taken
    receipt = held(queue, id)
    app = click(app, f"bury-{receipt}")
    assert "say why" in wrong(app).lower()
    assert queue.get(id).state == "claimed"
    app.text_input(key=f"reason-{receipt}").set_value("not an image")
    click(app, f"bury-{receipt}")
    assert (queue.get(id).state, queue.get(id).reason) == ("dead", "not an image")


def test_extend_gives_more_time(queue, taken):
    app, id = taken
    receipt = held(queue, id)
    before = queue.get(id).deadline_at_ms
    app.text_input(key=f"more-{receipt}").set_value("2h")
    click(app, f"extend-{receipt}")
    assert queue.get(id).deadline_at_ms > before + 3_600_000


def test_a_lease_that_was_lost_is_said_and_changes_nothing(queue, taken):
    app, id = taken
    receipt = held(queue, id)
    queue.give_back(id)
    app = click(app, f"ack-{receipt}")
    assert "the lease had ended" in said(app)
    assert queue.get(id).state != "done"
    assert "You hold no message" in texts(app)


def test_nothing_to_take_is_no_error(queue):
    assert "nothing to take" in said(click(opened("take"), "take"))


# Browse ------------------------------------------------------------------------------------


def ids_of(app: AppTest) -> list[str]:
    return [str(each) for each in app.dataframe[0].value["id"]]


def test_browse_pages_through_a_state(queue):
    ids = queue.enqueue_many([b"x"] * 150)
    app = opened("browse")
    assert ids_of(app) == ids[:100]
    app = click(app, "browse-next")
    assert ids_of(app) == ids[100:]
    assert app.button(key="browse-next").disabled
    app = click(app, "browse-previous")
    assert ids_of(app) == ids[:100]


def test_all_that_fits_is_sorted_and_not_one_page_alone(queue):
    ids = queue.enqueue_many([b"x" * size for size in range(150)])
    app = opened("browse")
    app.selectbox(key="browse-sorted-ready").set_value("largest first")
    checked(app.run())
    assert ids_of(app) == ids[:49:-1]
    app = click(app, "browse-next")
    assert ids_of(app) == ids[49::-1]
    assert app.button(key="browse-next").disabled
    assert "there are more" not in texts(app)


def test_where_more_fits_than_is_sorted_the_page_says_so(queue, monkeypatch):
    monkeypatch.setattr(listing, "MOST_SORTED", 5)
    ids = queue.enqueue_many([b"x"] * 8)
    app = opened("browse")
    app.selectbox(key="browse-sorted-ready").set_value("newest first")
    checked(app.run())
    assert set(ids_of(app)) == set(ids[:5])
    assert "Of the first 5, in the order of delivery: there are more" in texts(app)


@pytest.mark.parametrize("order", listing.ORDERS)
def test_every_order_takes_messages_that_lack_what_is_compared(queue, order):
    queue.enqueue(b"x")
    queue.enqueue(b"xx", name="b", group="g", priority=9)
    queue.enqueue(b"", name="A", group="f")
    app = opened("browse")
    app.selectbox(key="browse-sorted-ready").set_value(order)
    checked(app.run())
    assert len(ids_of(app)) == 3


def test_browse_filters_and_says_what_it_cannot_read(queue):
    queue.enqueue(b"x", name="a.csv", group="g")
    wanted = queue.enqueue(b"x", name="b.json")
    app = opened("browse")
    app.text_input(key="browse-name").set_value("JSON")
    checked(app.run())
    assert ids_of(app) == [wanted]
    app.text_input(key="browse-min-age").set_value("old")
    checked(app.run())
    assert "must be seconds" in wrong(app).lower()
    app.text_input(key="browse-min-age").set_value("1h")
    checked(app.run())
    assert "Nothing that fits is ready." in texts(app)


def test_search_finds_in_every_state(queue):
    waiting = queue.enqueue(b"x", name="needle-1")
    queue.enqueue(b"x", name="hay")
    later = queue.enqueue(b"x", name="needle-2", delay_s=60)
    app = opened("browse")
    app.text_input(key="browse-search").set_value("needle")
    checked(app.run())
    assert set(ids_of(app)) == {waiting, later}
    assert set(app.dataframe[0].value["state"]) == {"ready", "scheduled"}


def test_run_now_and_priority_of_a_selection(queue, rows):
    first = queue.enqueue(b"x", delay_s=60)
    second = queue.enqueue(b"x", delay_s=90)
    app = opened("browse")
    app.segmented_control(key="browse-state").set_value("scheduled")
    rows[:] = [0, 1]
    checked(app.run())
    app.number_input(key="browse-priority").set_value(9)
    app = click(app, "browse-set-priority")
    assert "2 messages set to priority 9" in said(app)
    assert [queue.get(id).priority for id in (first, second)] == [9, 9]
    rows[:] = [1]
    checked(app.run())
    app = click(app, "browse-run-now")
    assert "1 message made ready" in said(app)
    assert (queue.get(first).state, queue.get(second).state) == ("scheduled", "ready")


def test_delete_asks_with_the_count(queue, rows):
    ids = queue.enqueue_many([b"x"] * 3)
    rows[:] = [0, 2]
    app = click(opened("browse"), "browse-delete")
    assert queue.stats().ready == 3
    assert app.button(key="confirm-do").label == "Delete 2 messages"
    app = click(app, "confirm-cancel")
    assert queue.stats().ready == 3
    app = click(click(app, "browse-delete"), "confirm-do")
    assert "2 messages deleted" in said(app)
    assert [each.id for each in queue.list("ready").messages] == [ids[1]]


def test_what_moved_meanwhile_is_left_out_and_said(queue, rows):
    ids = queue.enqueue_many([b"x"] * 2)
    rows[:] = [0, 1]
    app = click(opened("browse"), "browse-delete")
    queue.delete(ids[0])
    app = click(app, "confirm-do")
    assert "1 message deleted; 1 message had moved on" in said(app)


def test_replay_of_done_ones(queue, rows):
    id = queue.enqueue(b"x")
    queue.dequeue().ack()
    app = opened("browse")
    app.segmented_control(key="browse-state").set_value("done")
    rows[:] = [0]
    checked(app.run())
    app = click(click(app, "browse-replay"), "confirm-do")
    assert queue.get(id).state == "ready"


def test_what_others_work_on_cannot_be_touched(queue, rows):
    queue.enqueue(b"x")
    queue.dequeue(lease_s=60)
    app = opened("browse")
    app.segmented_control(key="browse-state").set_value("claimed")
    rows[:] = [0]
    checked(app.run())
    assert {each.key for each in app.button} <= {"open"}


# Message --------------------------------------------------------------------------------------


def test_the_timeline_has_each_attempt_with_all_that_is_known(queue):
    id = queue.enqueue(b"x", name="job", headers={"source": "shop"})
    known = Attempt(
        attempt=1, outcome="", ended_at_ms=0, exit_status=3, duration_s=1.5, stderr="no such customer", host="h", pid=7
    )
    queue.dequeue().requeue(0, "exit status 3", details=known)
    killed = Attempt(attempt=2, outcome="", ended_at_ms=0, signal=9)
    queue.dequeue().dead_letter("killed", details=killed)
    app = opened("message", id=id)
    shown = texts(app)
    for words in ("enqueued", "attempt 1 requeued", "exit status 3", "after 1s", "no such customer", "KILL (9)"):
        assert words in shown, words
    assert "header source: shop" in shown


def test_a_message_is_found_by_the_beginning_of_its_id(queue):
    id = queue.enqueue(b"the body", name="job")
    app = opened("message")
    app.text_input[0].set_value(id[:30])
    checked(app.run())
    assert "the body" in texts(app)
    assert app.query_params["id"] in (id, [id])


def test_a_message_that_is_not_there_is_said(queue):
    app = opened("message", id="01a20c7b-b3c9-7442-9657-934d39d343c1")
    assert "no message" in wrong(app).lower()


def test_actions_of_one_message(queue):
    id = queue.enqueue(b"x", delay_s=60)
    app = click(opened("message", id=id), "message-Run now")
    assert queue.get(id).state == "ready"
    app.number_input(key=f"priority-{id}").set_value(1)
    app = click(app, "message-Set priority")
    assert queue.get(id).priority == 1
    queue.dequeue().dead_letter("why")
    app = click(click(checked(app.run()), "message-redrive"), "confirm-do")
    assert queue.get(id).state == "ready"
    queue.dequeue().ack()
    app = click(click(checked(app.run()), "message-replay"), "confirm-do")
    assert queue.get(id).state == "ready"
    app = click(click(app, "message-delete"), "confirm-do")
    assert queue.stats().ready == 0
    assert "1 message deleted" in said(app)


def test_signals_have_names():
    assert message.signal_name(9) == "KILL (9)"
    assert message.signal_name(200) == "200"


# The body ------------------------------------------------------------------------------------


def info(size: int, name: str = "", content_type: str | None = None) -> MessageInfo:
    return MessageInfo(
        id="i", queue="q", state="ready", priority=5, attempts=0, name=name or None, body_bytes=size,
        enqueued_at_ms=0, changed_at_ms=0, content_type=content_type,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "name", "content_type", "best"),
    [
        (b'{"a": 1}', "", None, "JSON"),
        (b"[1", "", "application/json", "Text"),
        (b"[" * 60_000, "", "application/json", "Text"),
        (b"a,b\n1,2\n", "x.csv", None, "Table"),
        (b"a\tb\n", "", "text/tab-separated-values", "Table"),
        (b"\x89PNG\r\n\x1a\nrest", "x.txt", "text/plain", "Image"),
        (b"<svg onload=alert(1)>", "x.svg", "image/svg+xml", "Text"),
        (b"<script>", "x.html", "text/html", "Text"),
        (b"\xff\xfe\x00", "", None, "Bytes"),
        (b"plain", "", None, "Text"),
    ],
)
def test_the_view_fits_the_bytes_and_not_what_is_claimed(body, name, content_type, best):
    assert preview.views(body, info(len(body), name, content_type))[0] == best


def test_only_the_beginning_of_a_large_one_is_read(queue, monkeypatch):
    monkeypatch.setattr(preview, "DOWNLOAD_BYTES", 100_000)
    id = queue.enqueue(b"abc\n" * 50_000, name="large.json")
    app = opened("message", id=id)
    assert "The first 64 KiB of 195 KiB" in texts(app).replace("\\", "")
    assert f"/new/{id},* ." in texts(app)


def test_a_picture_that_is_none_is_said(queue):
    id = queue.enqueue(b"\x89PNG\r\n\x1a\nno picture")
    assert "is none" in texts(opened("message", id=id))


def test_csv_becomes_columns_and_nothing_breaks_it():
    assert preview.rows(b"a;b\n1;2\n3\n") == {"a": ["1", "3"], "b": ["2", ""]}
    assert preview.rows(b"a,a,\n1,2,3\n") == {"a (1)": ["1"], "a (2)": ["2"], "(3)": ["3"]}
    assert preview.rows(b"") == {}
    assert preview.rows(b'"' + b"x" * 200_000) == {}


def test_hex_shows_offsets_bytes_and_characters():
    assert preview.hexdump(b"AB\x00\xff") == f"{'00000000  41 42 00 ff':<57}  AB.."


# Dead letters --------------------------------------------------------------------------------


def bury(queue: SpoolQueue, *reasons: str) -> list[str]:
    ids = []
    for reason in reasons:
        ids.append(queue.enqueue(b"x"))
        queue.dequeue().dead_letter(reason)
    return ids


def test_reasons_with_their_counts_choose_what_is_shown(queue):
    ids = bury(queue, "full", "full", "not found")
    app = opened("dead")
    assert app.dataframe[0].value.values.tolist() == [[2, "full"], [1, "not found"]]
    assert app.selectbox(key="dead-reason").options == ["3 · all reasons", "2 · full", "1 · not found"]
    app.selectbox(key="dead-reason").set_value("not found")
    checked(app.run())
    assert ids_of(app) == [ids[2]]


def test_redrive_all_of_a_reason_asks_with_the_count(queue):
    bury(queue, "full", "full", "not found")
    app = opened("dead")
    app.selectbox(key="dead-reason").set_value("full")
    checked(app.run())
    app = click(app, "redrive-all")
    assert app.button(key="confirm-do").label == "Redrive 2 dead letters"
    assert queue.stats().dead == 3
    app = click(app, "confirm-do")
    assert "2 dead letters redriven" in said(app)
    assert (queue.stats().dead, queue.stats().ready) == (1, 2)


def test_redrive_and_delete_of_a_selection(queue, rows):
    ids = bury(queue, "a", "b", "c")
    rows[:] = [1]
    app = click(click(opened("dead"), "redrive-some"), "confirm-do")
    assert queue.get(ids[1]).state == "ready"
    rows[:] = [0]
    app = click(click(checked(app.run()), "delete-some"), "confirm-do")
    assert [each.id for each in queue.dead_letters.list().messages] == [ids[2]]


def test_delete_all_that_fit(queue):
    bury(queue, "a", "b", "b")
    app = opened("dead")
    app.selectbox(key="dead-reason").set_value("b")
    checked(app.run())
    app = click(click(app, "delete-all"), "confirm-do")
    assert "2 dead letters deleted" in said(app)
    assert queue.stats().dead == 1


def test_one_first_and_then_the_rest(queue):
    ids = bury(queue, "a", "a", "a")
    app = opened("dead")
    app.segmented_control(key="how-all").set_value("One first")
    checked(app.run())
    app = click(click(app, "redrive-all"), "confirm-do")
    assert queue.get(ids[0]).state == "ready"
    assert queue.stats().dead == 2
    assert "The first one is ready now. 2 dead letters wait" in texts(app)
    queue.dequeue().ack()
    checked(app.run())
    assert "The first one is done now" in texts(app)
    app = click(click(app, "trial-rest"), "confirm-do")
    assert (queue.stats().dead, queue.stats().ready) == (0, 2)


def test_at_a_pace_it_goes_on_with_each_refresh_until_stopped(queue, monkeypatch):
    bury(queue, *["a"] * 5)
    app = opened("dead")
    app.segmented_control(key="how-all").set_value("At a pace")
    checked(app.run())
    app.number_input(key="rate-all").set_value(0.1)
    checked(app.run())
    app = click(click(app, "redrive-all"), "confirm-do")
    assert queue.stats().ready == 1
    app = click(app, "redrive-stop")
    assert "1 dead letter redriven" in said(app)
    assert queue.stats().dead == 4


def test_the_pace_is_kept_and_no_more_than_chosen():
    job = dead.Job("q", dead.Chosen(None, None, 1000), 10.0, began_at_ms=0)
    assert dead.due(job, 0) == 1
    job.done = 1
    assert dead.due(job, 50) == 0
    assert dead.due(job, 2000) == 20
    job.done = 995
    assert dead.due(job, 10**9) == 5
    job.rate = None
    job.done = 0
    assert dead.due(job, 0) == dead.SLICE


def test_it_cannot_do_what_is_the_admins():
    """No call in the ops console makes, deletes, pauses, purges, sets, gives back or rebuilds."""
    import ast
    from pathlib import Path

    forbidden = {"create_queue", "delete_queue", "pause", "resume", "change_settings", "clean", "rebuild", "check"}
    forbidden |= {"give_back", "init_spool"}
    for path in Path(send.__file__).parent.glob("*.py"):
        calls: list[Any] = [each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Call)]
        used = {each.func.attr for each in calls if isinstance(each.func, ast.Attribute)}
        assert used & forbidden == set(), path
        purges = [ast.unparse(each.func) for each in calls if getattr(each.func, "attr", "") == "purge"]
        assert set(purges) <= {"queue.dead_letters.purge"}
