"""`spoolq ls`, `show`, `search`, `stats`, `top`."""

from __future__ import annotations

import re

import pytest

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HOSTILE = "[red]own\x1b]0;owned\x07\u202egpj"


def test_ls_lists_ready_messages_in_the_order_of_delivery_a_line_each(spoolq):
    low = spoolq("put", "--name", "low", stdin="abc").text.strip()
    high = spoolq("put", "--name", "high", "-p", "9", stdin="x").text.strip()
    lines = [line.split("\t") for line in spoolq("ls").lines]
    assert [line[0] for line in lines] == [high, low]
    assert lines[1][1:3] == ["5", "0"]
    assert lines[1][4:6] == ["3", "low"]


def test_ls_at_a_terminal_is_a_table_with_whole_ids(spoolq):
    message_id = spoolq("put", "--name", "report.csv", stdin="x" * 2048).text.strip()
    head, row = spoolq("ls", terminal=True).lines
    assert head.split() == ["ID", "PRI", "ATT", "AGE", "SIZE", "NAME", "GROUP"]
    assert message_id in row
    assert "2.0 KiB" in row
    assert "report.csv" in row
    assert max(len(head), len(row)) <= 80


def test_ls_json_has_the_fields_of_the_model(spoolq):
    spoolq("put", stdin="x")
    (found,) = spoolq("ls", "--json").objects
    assert found["state"] == "ready"
    assert {"id", "queue", "priority", "attempts", "name", "body_bytes", "enqueued_at_ms"} <= found.keys()


def test_ls_shows_each_state_with_what_matters_there(spoolq, dead):
    buried = dead(reason="broken\nlast line")
    spoolq("put", "--delay", "2h", stdin="x")
    spoolq("put", stdin="x")
    spoolq("get", "--lease", "1h")
    assert buried in spoolq("ls", "--state", "dead").text
    assert "last line" in spoolq("ls", "--state", "dead", terminal=True).text
    assert "1h 59m" in spoolq("ls", "--state", "scheduled", terminal=True).text
    assert "59m" in spoolq("ls", "--state", "claimed", terminal=True).text
    states = {found["state"] for found in spoolq("ls", "--state", "all", "--json").objects}
    assert states == {"scheduled", "claimed", "dead"}


def test_ls_pages_by_cursor_and_all_walks_them(spoolq):
    ids = spoolq("put", "--each-line", stdin="\n".join("abcde")).lines
    first = spoolq("ls", "--limit", "2")
    cursor = re.search(r"--cursor (\S+),", first.errors)
    assert cursor
    second = spoolq("ls", "--limit", "2", "--cursor", cursor[1])
    assert [line.split("\t")[0] for line in first.lines + second.lines] == ids[:4]
    everything = spoolq("ls", "--limit", "2", "--all")
    assert [line.split("\t")[0] for line in everything.lines] == ids
    assert not everything.errors
    assert spoolq("ls", "--limit", "2", "--json").error == {"cursor": cursor[1]}


def test_ls_filters(spoolq):
    wanted = spoolq("put", "--name", "Report.csv", "--group", "g", stdin="x").text.strip()
    spoolq("put", "--name", "other", stdin="x")
    for args in (["--name", "report"], ["--group", "g"]):
        assert [line.split("\t")[0] for line in spoolq("ls", *args).lines] == [wanted]
    assert not spoolq("ls", "--min-age", "1h").lines
    assert len(spoolq("ls", "--max-age", "1h").lines) == 2
    assert not spoolq("ls", "--min-attempts", "1").lines


def test_ls_of_nothing_tells_a_person_what_there_is(spoolq, dead):
    dead()
    assert "has 1 dead" in spoolq("ls", terminal=True).errors
    assert not spoolq("ls").errors


@pytest.mark.parametrize(
    "args", [["--state", "lost"], ["--limit", "0"], ["--limit", "x"], ["--state", "all", "--cursor", "x"]]
)
def test_ls_refuses_what_cannot_be_meant(spoolq, args):
    spoolq("init")
    assert spoolq("ls", *args, ok=False).status == 2


def test_ls_names_every_state_that_it_knows(spoolq):
    """All of them at once, too, which no other command has."""
    assert "done, dead, all, not 'lost'" in spoolq("ls", "--state", "lost", ok=False).errors


def test_hostile_text_is_shown_and_never_obeyed(spoolq, dead):
    message_id = dead(HOSTILE, HOSTILE, "--name", HOSTILE, "-H", f"k={HOSTILE}")
    for args in (["ls", "--state", "dead"], ["show", message_id, "--body"], ["search", "owned"], ["dead", "reasons"]):
        for terminal in (True, False):
            shown = spoolq(*args, terminal=terminal).text
            assert "\x07" not in shown
            assert "\u202e" not in shown
            assert "\x1b]" not in shown
            assert "own" in shown
    assert "[red]" in spoolq("ls", "--state", "dead", terminal=True).text


def test_show_tells_everything_and_each_attempt(spoolq):
    message_id = spoolq("put", "--name", "n", "-H", "a=b", stdin="line one\nline two").text.strip()
    spoolq("requeue", spoolq("get").errors.strip(), "--delay", "0", "--reason", "first\nsecond")
    spoolq("bury", spoolq("get").errors.strip(), "--reason", "gave up")
    text = spoolq("show", message_id).text
    for expected in (message_id, "dead", "header        a: b", "attempt 1", "attempt 2", "gave up", "second"):
        assert expected in text
    assert "line two" not in text
    assert "line two" in spoolq("show", message_id, "--body").text


def test_show_output_is_the_body_alone(spoolq, tmp_path):
    message_id = spoolq("put", stdin=b"\x00\xff").text.strip()
    assert spoolq("show", message_id, "--output", "-").output == b"\x00\xff"
    assert spoolq("show", message_id, "-o", "copy").output == b""
    assert (tmp_path / "copy").read_bytes() == b"\x00\xff"
    assert "not text" in spoolq("show", message_id, "--body").text
    assert spoolq("show", message_id, "--body", "--json").objects[0]["body_base64"] == "AP8="


def test_show_previews_only_the_beginning(spoolq):
    message_id = spoolq("put", stdin="x" * 100_000).text.strip()
    result = spoolq("show", message_id, "--body")
    assert len(result.text) < 10_000
    assert "the first 4.0 KiB of 98 KiB" in result.text


def test_show_of_an_unknown_id_exits_5(spoolq):
    spoolq("put", stdin="x")
    unknown = "0198c0de-0000-7000-8000-000000000000"
    result = spoolq("show", unknown, ok=False)
    assert result.status == 5
    assert unknown in result.errors
    assert spoolq("show", "nonsense", ok=False).status == 2


def test_search_finds_by_name_reason_and_id_in_any_state(spoolq, dead):
    buried = dead("x", "connection refused")
    named = spoolq("put", "--name", "connection.log", stdin="x").text.strip()
    assert {line.split("\t")[0] for line in spoolq("search", "connection").lines} == {buried, named}
    assert spoolq("search", named[:30], "--json").objects[0]["id"] == named
    assert spoolq("search", "absent", ok=False).status == 3


def test_stats_are_names_and_values(spoolq):
    spoolq("put", stdin="abc")
    values = dict(line.split("\t") for line in spoolq("stats").lines)
    assert (values["queue"], values["ready"], values["ready_bytes"], values["paused"]) == ("default", "1", "3", "false")
    (found,) = spoolq("stats", "--json").objects
    for state in ("ready", "scheduled", "claimed", "done", "dead"):
        assert isinstance(found[state], int)
        assert isinstance(found[f"{state}_bytes"], int)


def test_stats_at_a_terminal_are_in_units(spoolq):
    spoolq("put", stdin="x" * 2048)
    text = spoolq("stats", terminal=True).text
    assert "queue default" in text
    assert "2.0 KiB" in text


def test_stats_of_all_queues(spoolq):
    spoolq("init")
    spoolq("queues", "create", "emails")
    assert [line.split("\t")[0] for line in spoolq("stats", "--all-queues").lines] == ["default", "emails"]
    assert [found["queue"] for found in spoolq("stats", "--all-queues", "--json").objects] == ["default", "emails"]
    assert "QUEUE" in spoolq("stats", "--all-queues", terminal=True).text


def test_the_queue_comes_from_the_option_or_the_environment(spoolq, monkeypatch):
    spoolq("init")
    spoolq("queues", "create", "emails")
    spoolq("put", "-q", "emails", stdin="x")
    monkeypatch.setenv("SPOOLQ_QUEUE", "emails")
    assert spoolq("stats", "--json").objects[0]["ready"] == 1
    assert spoolq("stats", "--json", "-q", "default").objects[0]["ready"] == 0
    assert spoolq("stats", "-q", "unknown", ok=False).status == 5


def test_the_spool_comes_from_the_option_or_the_environment(spoolq, monkeypatch, tmp_path):
    spoolq("put", "-s", "other", stdin="x")
    monkeypatch.setenv("SPOOLQ_SPOOL", str(tmp_path / "other"))
    assert spoolq("stats", "--json").objects[0]["ready"] == 1


def test_looking_never_makes_a_spool(spoolq, tmp_path):
    for args in (["ls"], ["stats"], ["get"], ["top", "--once"], ["check"], ["queues", "list"]):
        result = spoolq(*args, ok=False)
        assert result.status == 1, args
        assert result.errors.startswith("spoolq: ")
    assert not (tmp_path / "spool").exists()


def test_top_once_is_one_row_a_queue(spoolq, dead):
    dead(reason="broken")
    spoolq("put", stdin="x")
    (row,) = spoolq("top", "--once", "--json").objects
    assert (row["queue"], row["ready"], row["dead"]) == ("default", 1, 1)
    assert row["dead_reasons"] == [["broken", 1]]
    assert row["oldest_ready_age_s"] >= 0
    assert len(spoolq("top", "--once").lines) == 1
    assert "1 broken" in spoolq("top", "--once").text


def test_top_draws_a_frame_of_all_queues(spoolq, dead):
    from rich.console import Console

    from spoolq.cli.top import Board, frame

    dead()
    spoolq("queues", "create", "emails")
    spoolq("pause", "-q", "emails")
    with Board("spool", None) as board:
        console = Console(width=80)
        with console.capture() as captured:
            console.print(frame(board.rows(), 80))
    drawn = captured.get()
    assert "default" in drawn
    assert "emails is paused" in drawn
    assert "HOLDERS" in drawn
    assert "dead in default: 1 broken" in drawn


def test_top_goes_on_when_a_queue_is_deleted(spoolq):
    from spoolq.cli.top import Board

    spoolq("put", stdin="x")
    spoolq("queues", "create", "emails")
    with Board("spool", None) as board:
        assert [row.queue for row in board.rows()] == ["default", "emails"]
        spoolq("queues", "delete", "emails", "--yes")
        assert [row.queue for row in board.rows()] == ["default"]
