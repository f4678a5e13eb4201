"""What supervisord runs, in which state, and what crashed lately."""

from __future__ import annotations

from collections.abc import Sequence
from os import environ

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.interfaces import Queue
from spoolq.stack import watched
from spoolq.stack.programs import Program

EVERY_S = 3.0
FAILING = {
    "BACKOFF": "crashed as it started, and is started again",
    "FATAL": "crashed too often: supervisord gave up",
    "UNKNOWN": "supervisord does not know how it is",
}
_LOOPING = "looping"
_RECENT_MS = 600_000


def page() -> None:
    """Draw it."""
    parts.frame("Processes", _draw)


@st.fragment(run_every=EVERY_S)
def _draw(queue: Queue) -> None:
    with parts.trouble():
        now_ms = place.now_ms()
        found = watched.look(place.spool(), environ)
        if not found.answers:
            parts.empty(
                f"No supervisord answers at {words.line(found.socket)}.",
                f"Start the stack: spoolq up, or make run. Where it is elsewhere, set {watched.SOCKET_VARIABLE}.",
            )
        for line in alarms(found.programs, found.events, now_ms):
            st.error(words.label(line))
        if found.programs:
            parts.table(
                {
                    "program": [each.label for each in found.programs],
                    "state": [each.state for each in found.programs],
                    "pid": [str(each.pid or "") for each in found.programs],
                    "since": [since(each) for each in found.programs],
                    "log": [each.log for each in found.programs],
                },
                "programs",
            )
        st.caption(words.label(f"As of {words.clock(now_ms)}. supervisorctl starts and stops them."))
        st.markdown("**What happened**")
        if not found.events:
            parts.empty("No events are known.", "The stack's event listener writes them to logs/events.log.")
            return
        parts.table(
            {
                "when": [words.instant(each.at_ms) for each in found.events],
                "program": [each.program for each in found.events],
                "what": [each.what for each in found.events],
                "from": [each.from_state for each in found.events],
                "to": [each.to_state for each in found.events],
            },
            "events",
            height=320,
        )


def since(program: Program) -> str:
    """What supervisord says of it, without the pid, which has a column of its own. Pure."""
    return program.description.removeprefix(f"pid {program.pid}, ")


def alarms(programs: Sequence[Program], events: Sequence[watched.Event], now_ms: int) -> list[str]:
    """What somebody should look at, in words: programs that do not start, or crash again and again. Pure."""
    said = {each.label: f"{each.label} {FAILING[each.state]}. {each.description}. Look at {each.log}"
            for each in programs if each.state in FAILING}  # fmt: skip
    states = {each.name: each.state for each in programs}
    for event in events:
        recent = event.what == _LOOPING and now_ms - event.at_ms < _RECENT_MS
        if recent and event.program not in said and states.get(event.program) not in (None, "STOPPED"):
            when = words.age(event.at_ms, now_ms)
            said[event.program] = f"{event.program} crashes again and again ({when}). Look at its log"
    return list(said.values())
