"""`spoolq put`."""

from __future__ import annotations

import pytest


def test_put_reads_standard_input_and_prints_the_id(spoolq):
    message_id = spoolq("put", stdin=b"hello\n\xff").text.strip()
    assert spoolq("show", message_id, "--output", "-").output == b"hello\n\xff"


def test_empty_standard_input_is_an_empty_message(spoolq):
    message_id = spoolq("put").text.strip()
    assert spoolq("show", message_id, "--json").objects[0]["body_bytes"] == 0


def test_put_takes_files_and_prints_an_id_a_line(spoolq, tmp_path):
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "b b.txt").write_text("B")
    first, second = spoolq("put", "a.txt", "b b.txt").lines
    assert spoolq("show", first, "--json").objects[0]["name"] == "a.txt"
    shown = spoolq("show", second, "--body", "--json").objects[0]
    assert shown["name"] in {"b b.txt", "b_b.txt"}  # what a name keeps is the engine's to say
    assert shown["body"] == "B"
    assert (tmp_path / "a.txt").exists()


def test_put_move_takes_the_file_itself(spoolq, tmp_path):
    (tmp_path / "a.txt").write_text("A")
    message_id = spoolq("put", "--move", "a.txt").text.strip()
    assert not (tmp_path / "a.txt").exists()
    assert spoolq("show", message_id, "--output", "-").output == b"A"


def test_put_json_names_the_queue(spoolq):
    found = spoolq("put", "--json", stdin="x").objects
    assert list(found[0]) == ["id", "queue"]
    assert found[0]["queue"] == "default"


def test_everything_that_can_come_with_a_message_arrives(spoolq):
    message_id = spoolq(
        *("put", "--priority", "9", "--name", "n.csv", "--content-type", "text/csv", "--group", "g", "--ttl", "1h"),
        *("--header", "a=1", "-H", "b=2=3", "--dedup-key", "k"),
        stdin="x",
    ).text.strip()
    shown = spoolq("show", message_id, "--json").objects[0]
    assert shown["priority"] == 9
    assert shown["name"] == "n.csv"
    assert shown["content_type"] == "text/csv"
    assert shown["group"] == "g"
    assert shown["headers"] == {"a": "1", "b": "2=3"}
    assert shown["dedup_key"] == "k"
    assert shown["expires_at_ms"] - shown["enqueued_at_ms"] == pytest.approx(3_600_000, abs=1000)


def test_a_known_dedup_key_answers_the_first_id(spoolq):
    first = spoolq("put", "--dedup-key", "k", stdin="a").text
    assert spoolq("put", "--dedup-key", "k", stdin="b").text == first


def test_delay_and_at_schedule(spoolq):
    later = spoolq("put", "--delay", "10m", stdin="x").text.strip()
    shown = spoolq("show", later, "--json").objects[0]
    assert shown["state"] == "scheduled"
    assert shown["due_at_ms"] - shown["enqueued_at_ms"] == pytest.approx(600_000, abs=1000)

    then = spoolq("put", "--at", "2091-01-01T00:00:00Z", stdin="x").text.strip()
    shown = spoolq("show", then, "--json").objects[0]
    assert shown["due_at_ms"] == pytest.approx(3_818_448_000_000, abs=1000)

    past = spoolq("put", "--at", "2001-01-01T00:00:00Z", stdin="x").text.strip()
    assert spoolq("show", past, "--json").objects[0]["state"] == "ready"


def test_each_line_is_a_message(spoolq):
    ids = spoolq("put", "--each-line", "--group", "g", stdin="one\n\nthree").lines
    bodies = [spoolq("show", each, "--output", "-").output for each in ids]
    assert bodies == [b"one", b"", b"three"]


def test_many_and_long_lines_are_whole(spoolq):
    lines = [b"x" * 200_000, *(b"%d" % number for number in range(1000))]
    ids = spoolq("put", "--each-line", stdin=b"\n".join(lines) + b"\n").lines
    assert len(ids) == len(set(ids)) == 1001
    assert spoolq("show", ids[0], "--json").objects[0]["body_bytes"] == 200_000
    assert spoolq("show", ids[-1], "--output", "-").output == b"999"


def test_a_file_that_is_missing_does_not_keep_the_others_out(spoolq, tmp_path):
    (tmp_path / "a.txt").write_text("A")
    result = spoolq("put", "missing", "a.txt", ok=False)
    assert result.status == 1
    assert "missing" in result.errors
    assert len(result.lines) == 1
    assert spoolq("stats", "--json").objects[0]["ready"] == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--each-line", "a.txt"], "standard input"),
        (["--move"], "--move takes files"),
        (["a", "b", "--dedup-key", "k"], "--dedup-key"),
        (["a", "b", "--name", "n"], "--name"),
        (["--delay", "1", "--at", "2031-01-01"], "exclude each other"),
        (["--delay", "-5"], "must be seconds, or a duration"),
        (["--priority", "10"], "priority"),
        (["--header", "x"], "KEY=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(spoolq, args, said):
    result = spoolq("put", *args, stdin="x", ok=False)
    assert result.status == 2
    assert said in result.errors
    assert not result.output


def test_a_person_at_the_terminal_is_told_that_input_is_read(spoolq):
    assert "Ctrl-D" in spoolq("put", stdin="typed", terminal=True).errors
