"""The event listener: what it writes down of each program, and when it says that one is looping."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from spoolq import open_queue
from spoolq.errors import SpoolqError
from spoolq.stack import events
from spoolq.stack.running import own_ports, running
from spoolq.testing import FakeClock
from tests.stack.helpers import OFF


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def event(name: str, payload: str) -> str:
    header = f"ver:3.0 server:spoolq serial:1 pool:events poolserial:1 eventname:{name} len:{len(payload)}"
    return f"{header}\n{payload}"


def test_it_speaks_supervisords_protocol(tmp_path):
    """READY, then an answer to each event, until the pipe ends; a state is written, anything else only answered."""
    asked = io.StringIO(
        event("PROCESS_STATE_RUNNING", "processname:api groupname:api from_state:STARTING pid:7")
        + event("TICK_5", "when:1")
        + event("PROCESS_STATE_EXITED", "processname:api groupname:api from_state:RUNNING expected:0 pid:7")
    )
    answers = io.StringIO()
    path = tmp_path / "events.log"
    events.listen(events.Events(path, FakeClock()), asked, answers)
    assert answers.getvalue() == "READY\nRESULT 2\nOK" * 3 + "READY\n"
    first, second = lines(path)
    assert first.keys() == {"program", "from_state", "to_state", "at_ms", "what"}
    assert (first["program"], first["from_state"], first["to_state"], first["what"]) == (
        "api",
        "STARTING",
        "RUNNING",
        "started",
    )
    assert (second["to_state"], second["what"]) == ("EXITED", "crashed")


def test_three_crashes_in_a_minute_are_a_loop(tmp_path, caplog):
    """Four in four minutes are not; an exit that was expected is no crash."""
    clock = FakeClock()
    made = events.Events(tmp_path / "events.log", clock)
    for pause_s in (61, 61, 61, 10, 10):
        clock.advance(pause_s)
        made.happened("consumer_00", "RUNNING", "EXITED", expected=False)
        made.happened("other", "RUNNING", "EXITED", expected=True)
    found = [each["what"] for each in lines(tmp_path / "events.log") if each["program"] == "consumer_00"]
    assert found == ["crashed"] * 4 + ["looping"]
    assert [record.message for record in caplog.records if "looping" in record.message] == [
        "program.looping program=consumer_00 crashes=3 within_s=60"
    ]


def test_its_file_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "MAX_BYTES", 500)
    made = events.Events(tmp_path / "events.log", FakeClock())
    for _ in range(50):
        made.happened("api", "STARTING", "RUNNING")
    assert {path.name for path in tmp_path.iterdir()} == {"events.log", "events.log.1"}
    assert all(path.stat().st_size < 800 for path in tmp_path.iterdir())


def test_a_full_disk_does_not_end_it(tmp_path, caplog):
    made = events.Events(tmp_path / "not there" / "events.log", FakeClock())
    made.happened("api", "STARTING", "RUNNING")
    assert caplog.records[0].message.startswith("events.not_written")


def test_a_program_that_gives_up_is_named_with_its_log(tmp_path):
    """A real supervisord: `spoolq up` ends, with what the program said last; the events have all of it."""
    spool = tmp_path / "spool"
    open_queue(spool).close()
    (spool / "supervisord.local.conf").write_text(
        OFF + "[program:consumer]\ncommand=sh -c 'echo no such handler; exit 3'\nstartretries=2\n"
    )
    with pytest.raises(SpoolqError) as caught, running(spool, own_ports()):
        pass
    assert "consumer:consumer_00 is FATAL" in str(caught.value)
    assert "no such handler" in str(caught.value)
    found = [each["what"] for each in lines(spool / "logs" / "events.log") if each["program"] == "consumer_00"]
    assert [what for what in found if what != "starting"] == ["crashed", "crashed", "looping", "gave up"]
    text = (spool / "logs" / "programs.log").read_text()
    assert "program.looping program=consumer_00" in text
    assert "program.gave_up program=consumer_00" in text
