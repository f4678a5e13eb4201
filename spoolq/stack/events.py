"""The event listener of supervisord: each start, stop and crash as a line of JSON, and in a log what to look at.

`python -m spoolq.stack.events logs/events.log`. Standard input and output belong to supervisord's protocol
(supervisord.org/events.html); log lines go to standard error. A line has `program`, `from_state`, `to_state`, `at_ms`
and `what`: started, stopped, crashed, looping, gave up, and so on. The administration console reads them.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections import defaultdict, deque
from pathlib import Path
from typing import TextIO

from spoolq.clock import Clock

log = logging.getLogger("spoolq.stack")

LOOP_CRASHES = 3
LOOP_S = 60.0
"""A program that crashed so often in so many seconds is looping."""

MAX_BYTES = 1 << 20
"""Of the file; the one before it is kept beside it."""

_WORDS = {
    "STARTING": "starting",
    "RUNNING": "started",
    "BACKOFF": "crashed",
    "STOPPING": "stopping",
    "STOPPED": "stopped",
    "FATAL": "gave up",
    "UNKNOWN": "unknown",
}


class Events:
    """What happened to each program, written down."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or Clock()
        self._crashes: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LOOP_CRASHES))

    def happened(self, program: str, from_state: str, to_state: str, *, expected: bool = True) -> None:
        """A program went from one state to another. expected: of an exit, that its status was 0."""
        what = self._what(program, to_state, expected)
        self._write(
            {
                "program": program,
                "from_state": from_state,
                "to_state": to_state,
                "at_ms": self._clock.wall_ms(),
                "what": what,
            }
        )
        if what == "crashed":
            log.warning("program.crashed program=%s was=%s", program, from_state)
        elif what == "looping":
            log.error("program.looping program=%s crashes=%d within_s=%g", program, LOOP_CRASHES, LOOP_S)
        elif what == "gave up":
            log.error("program.gave_up program=%s", program)

    def _what(self, program: str, to_state: str, expected: bool) -> str:
        what = _WORDS.get(to_state, "crashed")
        if to_state == "EXITED" and expected:
            return "exited"
        if what != "crashed":
            return what
        crashes = self._crashes[program]
        crashes.append(self._clock.mono_s())
        return "looping" if len(crashes) == LOOP_CRASHES and crashes[-1] - crashes[0] <= LOOP_S else what

    def _write(self, line: dict[str, object]) -> None:
        try:
            if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            # A listener that ends for it would be started again and again, and the programs matter more.
            log.warning("events.not_written error=%s", error)


def listen(events: Events, asked: TextIO, answers: TextIO) -> None:
    """Answer supervisord until it closes the pipe."""
    while True:
        answers.write("READY\n")
        answers.flush()
        header = _pairs(asked.readline())
        if not header:
            return
        payload = _pairs(asked.read(int(header["len"])))
        kind = header.get("eventname", "")
        if kind.startswith("PROCESS_STATE_"):
            events.happened(
                payload["processname"],
                payload["from_state"],
                kind.removeprefix("PROCESS_STATE_"),
                expected=payload.get("expected", "1") == "1",
            )
        answers.write("RESULT 2\nOK")
        answers.flush()


def _pairs(line: str) -> dict[str, str]:
    """`a:1 b:2` as a dictionary."""
    return dict(word.split(":", 1) for word in line.split())


def main() -> None:
    """Run as supervisord's event listener."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for supervisord, which then closes the pipe
    listen(Events(Path(sys.argv[1])), sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
