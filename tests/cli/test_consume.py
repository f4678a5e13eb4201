"""`spoolq get`, and what is done with its receipt."""

from __future__ import annotations

from typing import Any

import pytest


def _receipt(spoolq, body="x"):
    spoolq("put", stdin=body)
    return spoolq("get").errors.strip()


def _state(spoolq, receipt):
    return spoolq("show", receipt.partition(".")[0], "--json").objects[0]["state"]


def test_get_writes_the_body_and_its_receipt_apart(spoolq):
    message_id = spoolq("put", stdin=b"\x00\xff body").text.strip()
    result = spoolq("get")
    assert result.output == b"\x00\xff body"
    assert result.errors.startswith(f"{message_id}.")
    assert result.errors.count("\n") == 1


def test_get_with_nothing_there_exits_3_and_is_silent(spoolq):
    spoolq("init")
    result = spoolq("get", ok=False)
    assert (result.status, result.output, result.errors) == (3, b"", "")
    assert spoolq("get", "--wait", "1ms", terminal=True, ok=False).errors == "spoolq: nothing there\n"


def test_get_json_is_one_object(spoolq):
    spoolq("put", "-p", "7", "--name", "n", "-H", "a=b", "--content-type", "text/plain", stdin="höi")
    found = spoolq("get", "--json")
    assert found.errors == ""
    (message,) = found.objects
    assert message["receipt"].startswith(message["id"])
    expected = {"attempts": 1, "priority": 7, "name": "n", "headers": {"a": "b"}, "body": "höi"}
    assert {name: message[name] for name in expected} == expected
    assert message["content_type"] == "text/plain"


def test_get_json_of_what_is_not_utf8_is_base64(spoolq):
    spoolq("put", stdin=b"\xff\x00")
    (message,) = spoolq("get", "--json").objects
    assert message["body_base64"] == "/wA="
    assert "body" not in message


def test_get_output_writes_a_file(spoolq, tmp_path):
    spoolq("put", stdin="hello")
    result = spoolq("get", "--output", "out")
    assert result.output == b""
    assert (tmp_path / "out").read_bytes() == b"hello"


def test_a_message_that_cannot_be_handed_over_is_given_back_uncounted(spoolq):
    spoolq("put", stdin="hello")
    result = spoolq("get", "--output", "missing/out", ok=False)
    assert result.status == 1
    assert "missing/out" in result.errors
    (message,) = spoolq("get", "--json").objects
    assert message["attempts"] == 1


def test_a_claim_from_get_outlives_the_command(spoolq):
    receipt = _receipt(spoolq)
    assert spoolq("get", ok=False).status == 3
    assert _state(spoolq, receipt) == "claimed"
    shown = spoolq("show", receipt.partition(".")[0], "--json").objects[0]
    assert shown["deadline_at_ms"] - shown["changed_at_ms"] == pytest.approx(60_000, abs=2000)


def test_get_lease_sets_the_end_of_the_claim(spoolq):
    spoolq("put", stdin="x")
    receipt = spoolq("get", "--lease", "2h").errors.strip()
    shown = spoolq("show", receipt.partition(".")[0], "--json").objects[0]
    assert shown["deadline_at_ms"] - shown["changed_at_ms"] == pytest.approx(7_200_000, abs=2000)
    assert spoolq("get", "--lease", "0", ok=False).status == 2


def test_ack_is_silent_and_moves_to_done_also_twice(spoolq):
    receipt = _receipt(spoolq)
    result = spoolq("ack", receipt)
    assert (result.output, result.errors) == (b"", "")
    assert _state(spoolq, receipt) == "done"
    assert spoolq("ack", receipt, "--json").objects == [{"receipt": receipt, "state": "done"}]


def test_ack_reads_receipts_from_standard_input(spoolq):
    receipts = [_receipt(spoolq) for _ in range(3)]
    spoolq("ack", "-", stdin="\n".join(f"{each}\tanything" for each in receipts) + "\n\n")
    assert spoolq("stats", "--json").objects[0]["done"] == 3
    spoolq("ack", "-", stdin="")


def test_ack_of_a_claim_that_ended_exits_4_and_does_the_others(spoolq):
    lost, good = _receipt(spoolq), _receipt(spoolq)
    spoolq("release", lost)
    result = spoolq("ack", lost, good, ok=False)
    assert result.status == 4
    assert result.errors.startswith("spoolq: ")
    assert _state(spoolq, good) == "done"
    assert _state(spoolq, lost) == "ready"
    assert spoolq("ack", lost, "nonsense", ok=False).status == 4  # the first that failed
    assert spoolq("ack", "nonsense", lost, ok=False).status == 2


def test_a_receipt_that_is_none_exits_2_and_does_the_others(spoolq):
    good = _receipt(spoolq)
    result = spoolq("ack", "nonsense", good, ok=False)
    assert result.status == 2
    assert "nonsense" in result.errors
    assert _state(spoolq, good) == "done"


def test_requeue_prints_the_state_it_led_to(spoolq):
    receipt = _receipt(spoolq)
    assert spoolq("requeue", receipt, "--delay", "0", "--reason", "busy").text == "ready\n"
    receipt = spoolq("get").errors.strip()
    found = spoolq("requeue", receipt, "--delay", "10m", "--json").objects
    assert found == [{"receipt": receipt, "state": "scheduled"}]
    history = spoolq("show", receipt.partition(".")[0], "--json").objects[0]["history"]
    assert history[0]["reason"] == "busy"


def test_requeue_past_max_attempts_is_dead(spoolq, monkeypatch):
    monkeypatch.setenv("SPOOLQ_MAX_ATTEMPTS", "1")
    assert spoolq("requeue", _receipt(spoolq), "--reason", "no").text == "dead\n"


def test_release_does_not_count_the_attempt(spoolq):
    receipt = _receipt(spoolq)
    assert spoolq("release", receipt, "--json").objects == [{"receipt": receipt, "state": "ready"}]
    assert spoolq("get", "--json").objects[0]["attempts"] == 1


def test_extend_moves_the_deadline(spoolq):
    receipt = _receipt(spoolq)
    before = spoolq("show", receipt.partition(".")[0], "--json").objects[0]["deadline_at_ms"]
    spoolq("extend", receipt, "2h")
    after = spoolq("show", receipt.partition(".")[0], "--json").objects[0]["deadline_at_ms"]
    assert after - before > 3_600_000
    assert spoolq("extend", receipt, "0", ok=False).status == 2


def test_bury_keeps_the_reason(spoolq):
    receipt = _receipt(spoolq)
    spoolq("bury", receipt, "--reason", "not an image")
    shown = spoolq("show", receipt.partition(".")[0], "--json").objects[0]
    assert (shown["state"], shown["reason"]) == ("dead", "not an image")


def test_what_would_act_on_a_terminal_is_shown_there_and_nowhere_else(spoolq):
    spoolq("put", stdin="\x1b[31mred\nplain\n")
    spoolq("put", stdin="\x1b[31mred")
    assert spoolq("get", terminal=True).text == "\\x1b[31mred\nplain\n"
    assert spoolq("get").text == "\x1b[31mred"


def test_work_takes_everything_after_the_dashes_untouched(spoolq, monkeypatch):
    seen = _fake_worker(monkeypatch)
    spoolq("work", "-c", "3", "--timeout", "10m", "--drain", "--", "sh", "-c", "echo -- $0", "--json", "--", "-x")
    assert seen["handler"] == ("command", ["sh", "-c", "echo -- $0", "--json", "--", "-x"])
    options = {"concurrency": 3, "timeout_s": 600, "grace_s": 30, "lease_s": None, "once": False, "drain": True}
    assert seen["options"] == options


def test_work_takes_a_python_function(spoolq, monkeypatch):
    seen = _fake_worker(monkeypatch, status=78)
    assert spoolq("work", "package.module:function", "--once", ok=False).status == 78
    assert seen["handler"] == ("function", "package.module:function")


@pytest.mark.parametrize(
    "args", [["work"], ["work", "--"], ["work", "sha256sum"], ["work", "m:f", "--", "x"], ["work", "a", "b"]]
)
def test_work_without_one_handler_is_a_usage_error(spoolq, args):
    result = spoolq(*args, ok=False)
    assert result.status == 2
    assert result.errors


def _fake_worker(monkeypatch, status=0) -> dict[str, Any]:
    """Stand in for the worker, which has tests of its own; returns what it was asked."""
    seen: dict[str, Any] = {}

    class Worker:
        def __init__(self, queue, handler, **options):
            seen.update(handler=handler, options=options)

        def run(self):
            return status

    monkeypatch.setattr("spoolq.worker.Worker", Worker)
    monkeypatch.setattr("spoolq.worker.CommandHandler", lambda argv: ("command", argv))
    monkeypatch.setattr("spoolq.worker.load_handler", lambda name: ("function", name))
    return seen
