"""The relays that carry this spool's queues elsewhere: what waits, for how long, whether the target takes it."""

from __future__ import annotations

from collections.abc import Sequence
from os import environ

import streamlit as st

from spoolq.console import parts, place, words
from spoolq.errors import QueueNotFound
from spoolq.interfaces import Queue
from spoolq.models import Stats
from spoolq.relay import reports
from spoolq.relay.figures import backlog, lag_s

EVERY_S = 2.0


def page() -> None:
    """Draw it."""
    parts.frame("Relay", _draw)


@st.fragment(run_every=EVERY_S)
def _draw(queue: Queue) -> None:
    with parts.trouble():
        now_ms = place.now_ms()
        found = reports.read(reports.directory_for(place.spool(), environ))
        if not found:
            parts.empty(
                "No relay carries anything from here.",
                "Start one: spoolq relay SOURCE TARGET, or set SPOOLQ_RELAY_TARGET and start the stack again. One that "
                "runs on another machine, or as another user for a server's queue, is not seen from here.",
            )
            st.caption(words.label(f"As of {words.clock(now_ms)}"))
            return
        stats = _stats(found)
        for line in alarms(found, stats, now_ms):
            st.error(words.label(line))
        parts.table(cells(found, stats, now_ms), "relays")
        st.caption(
            words.label(
                f"As of {words.clock(now_ms)}. What a target refused is a dead letter of the queue it came from. "
                "Counts are since the relay was started."
            )
        )


def _stats(found: Sequence[reports.Report]) -> dict[str, Stats]:
    """The numbers of the queues that they take from; without one that is gone."""
    stats = {}
    for name in {each.queue for each in found}:
        try:
            stats[name] = place.looked_at(name)[1]
        except QueueNotFound:
            continue
    return stats


def state(report: reports.Report) -> str:
    """How a relay is, in words. Pure but for the look whether its process is there."""
    if report.runs:
        return "the target is away" if report.is_away else "running"
    return "stopped" if report.ended else "died"


def alarms(found: Sequence[reports.Report], stats: dict[str, Stats], now_ms: int) -> list[str]:
    """What somebody should look at: a target that is away, and messages that wait while no relay runs."""
    said = []
    served = {(each.queue, each.target) for each in found if each.runs}
    for each in found:
        if each.runs and each.is_away:
            said.append(f"{each.target} takes nothing: {each.error} Messages of {each.queue} wait, uncounted.")
        elif not each.runs and (each.queue, each.target) not in served:
            served.add((each.queue, each.target))  # once
            waiting = backlog(stats[each.queue]) if each.queue in stats else 0
            if waiting:
                seen = words.age(each.at_ms, now_ms)
                said.append(
                    f"No relay runs from {each.queue} to {each.target} (last seen {seen}), and "
                    f"{words.counted(waiting, 'message')} wait. Start it again: spoolq relay."
                )
    return said


def cells(found: Sequence[reports.Report], stats: dict[str, Stats], now_ms: int) -> dict[str, list[object]]:
    """A row for each relay."""
    known = [stats.get(each.queue) for each in found]
    return {
        "from": [each.queue for each in found],
        "to": [each.target for each in found],
        "is": [state(each) for each in found],
        "backlog": [None if each is None else backlog(each) for each in known],
        "lag": [
            "" if its is None else words.span(int(lag_s(its, now_ms, each.known_since_ms)))
            for each, its in zip(found, known, strict=True)
        ],
        "sent": [each.sent for each in found],
        "refused": [each.refused for each in found],
        "outages": [each.outages for each in found],
        "since": [words.age(each.since_at_ms, now_ms) for each in found],
        "last seen": [words.age(each.at_ms, now_ms) for each in found],
        "pid": [str(each.pid) for each in found],
        "why away": [each.error for each in found],
    }
